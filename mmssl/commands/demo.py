"""``mmssl demo``: a local page for prompting with clicks and for reconstructions."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.commands.arguments import (
    add_cfg_options,
    add_device,
    add_trust,
    check_minimums,
)
from mmssl.commands.picture_arguments import add_picture_arguments, picture_settings
from mmssl.commands.sam_arguments import MODELS, add_generator_arguments, generator_settings

if TYPE_CHECKING:
    from mmssl.demo_page.app import PageSettings
    from mmssl.demo_page.guard import Limits

HELP = 'open a local page: click on images for masks, and view reconstructions'
RELEASED = {
    'vit_b': 'sam_vit_b_01ec64.pth',
    'vit_l': 'sam_vit_l_0b3195.pth',
    'vit_h': 'sam_vit_h_4b8939.pth',
    'vit_t': 'mobile_sam.pt',
}
# the small model that the page finds by itself
SMALL_MODEL = 'sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256'
DOWNLOAD = (
    'For the released models download a file of '
    '[Segment Anything](https://github.com/facebookresearch/segment-anything#model-checkpoints), such as '
    '`sam_vit_b_01ec64.pth`, and start the page with '
    '`mmssl demo --model vit_b --checkpoint sam_vit_b_01ec64.pth`.'
)
NO_WEIGHTS = (
    f'**There are no weights yet.** {DOWNLOAD} Or train the small model of this project on images of COCO, '
    'about '
    f'22 minutes on one core: `mmssl train sam/{SMALL_MODEL}.py --data DIR`; the page finds it by itself.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('--model', metavar='KIND', help=MODELS)
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='its weights; without --model and --checkpoint the page looks for '
        f'work_dirs/{SMALL_MODEL}, or says what to download',
    )
    parser.add_argument(
        '--detector', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='detector that names the masks'
    )
    parser.add_argument(
        '--mae',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='masked autoencoder of configs/mae, decoder included',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: 127.0.0.1, this machine only); any other needs --auth',
    )
    parser.add_argument('--auth', metavar='USER:PASSWORD', help='ask visitors for this name and password')
    parser.add_argument('--port', type=int, help='port (default: the first free one from 7860 on)')
    parser.add_argument(
        '--max-upload', type=int, default=32, metavar='MB', help='largest file to accept (default: 32)'
    )
    parser.add_argument(
        '--max-pixels',
        type=float,
        default=40,
        metavar='MILLION',
        help='largest image to accept, in million pixels (default: 40)',
    )
    add_device(parser)
    parser.add_argument('--cache-dir', metavar='DIR', help='cache the embeddings of images here')
    parser.add_argument('--no-browser', action='store_true', help='do not open a browser')
    add_cfg_options(parser, 'the config of --model')
    add_trust(parser)
    add_picture_arguments(parser)
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises:
        ImportError: Gradio is missing.
        FileNotFoundError: A file does not exist.
        ValueError: A model and a file do not fit, or a setting is out of range.
        OSError: The port is in use.
    """
    generator = check_arguments(args)
    notice = _choose_model(args)
    # before the import: by default Gradio reports its use and keeps the uploads of all users in one folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE=os.environ.get('HF_HUB_OFFLINE', '1'))
    gradio = import_gradio()
    settings = _load_models(args, generator, notice)
    from mmssl.demo_page.app import build

    with tempfile.TemporaryDirectory(prefix='mmssl-demo-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        settings.samples = sample_images(Path(folder))
        page = build(settings)
        url = start_server(page, gradio, args)
        print(f'{url}  (Ctrl-C ends it)', flush=True)
        page.block_thread()
    return 0


def _choose_model(args: argparse.Namespace) -> str:
    """Use the small model if no model was given and it has been trained; return the notice for the page."""
    if args.model:
        return ''
    trained = find_small_model(Path('work_dirs'))
    if trained is None:
        return NO_WEIGHTS
    args.model, args.checkpoint = trained
    return f'With the small model that was trained here, `{args.checkpoint}`. {DOWNLOAD}'


def _load_models(args: argparse.Namespace, generator: dict, notice: str) -> 'PageSettings':
    from mmssl.apis.loading import load_mae, pick_device
    from mmssl.apis.sam import load_sam
    from mmssl.demo_page.app import PageSettings
    from mmssl.demo_page.detector import load_detector

    device = pick_device(args.device)
    settings = PageSettings(
        notice=notice,
        generator=generator,
        max_pixels=int(args.max_pixels * 1e6),
        cache_dir=args.cache_dir,
        pictures=picture_settings(args),
    )
    if args.model:
        print(f'loading {args.model} with {args.checkpoint}', flush=True)
        model = load_sam(args.model, args.checkpoint, args.cfg_options, args.trust_checkpoint)
        settings.model = model.to(device)
    if args.mae:
        config, checkpoint = args.mae
        settings.mae = load_mae(config, checkpoint, trust=args.trust_checkpoint)
    if args.detector:
        config, checkpoint = args.detector
        settings.detect = load_detector(config, checkpoint, str(device), args.trust_checkpoint)
    return settings


def start_server(page: Any, gradio: Any, args: argparse.Namespace, limits: 'Limits | None' = None) -> str:
    """Serve the page from a thread.

    Args:
        page: The page.
        gradio: Gradio.
        args: Arguments of the command.
        limits: Limits of what visitors send; those of ``--max-upload`` if None.

    Returns:
        The URL.
    """
    from starlette.middleware import Middleware

    from mmssl.demo_page.app import STYLE
    from mmssl.demo_page.guard import AllowedHosts, Limits, RequestGuard, close_silent_connections
    from mmssl.demo_page.visitors import MAX_VISITORS, all_uploads

    theme = gradio.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
    page.queue(default_concurrency_limit=4, max_size=32)
    limits = limits or Limits(file_bytes=args.max_upload * 2**20, total_bytes=16 * args.max_upload * 2**20)
    guard = Middleware(
        RequestGuard, hosts=AllowedHosts(args.host), limits=limits, uploads=lambda: all_uploads(page)
    )
    _, url, _ = page.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        inbrowser=not args.no_browser,
        max_file_size=args.max_upload * 2**20,
        footer_links=[],
        theme=theme,
        css=STYLE,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        auth=tuple(args.auth.split(':', 1)) if args.auth else None,
        app_kwargs=dict(middleware=[guard]),
        state_session_capacity=MAX_VISITORS,
    )
    close_silent_connections(page.server, limits.header_seconds, limits.unread_seconds)
    return url


def check_arguments(args: argparse.Namespace) -> dict:
    """Check the arguments before anything is loaded, and return the settings of the automatic masks.

    Raises:
        FileNotFoundError: A checkpoint does not exist.
        ValueError: A value is out of range, or one of a pair of options is missing.
    """
    from mmssl.apis.sam import check_checkpoint
    from mmssl.hints import nearest_path

    picture_settings(args)
    if bool(args.model) != bool(args.checkpoint):
        present, missing = ('--model', '--checkpoint') if args.model else ('--checkpoint', '--model')
        model = args.model or 'vit_b'
        file = args.checkpoint or RELEASED.get(args.model, 'FILE')
        raise ValueError(f'{present} needs {missing}: mmssl demo --model {model} --checkpoint {file}')
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    for option, pair in (('--detector', args.detector), ('--mae', args.mae)):
        if pair and not os.path.isfile(pair[1]):
            raise FileNotFoundError(
                f'{option} {pair[0]} {pair[1]}: the checkpoint does not exist{nearest_path(pair[1])}'
            )
    check_minimums(args, max_upload=1, max_pixels=1e-6)
    _check_access(args.host, args.auth)
    if args.port is not None and not 0 < args.port < 65536:
        raise ValueError(f'--port {args.port} must be from 1 to 65535')
    settings = generator_settings(args)
    if 'tile' in settings:
        raise ValueError('--tile is of mmssl segment and mmssl annotate; the page segments whole images only')
    return {'points_per_side': 16, **settings}


def _check_access(host: str, auth: str | None) -> None:
    from mmssl.demo_page.guard import is_loopback

    if auth is not None:
        user, _, password = auth.partition(':')
        if not user or not password:
            raise ValueError('--auth must be USER:PASSWORD, both of at least one character')
    elif not is_loopback(host):
        raise ValueError(
            f'--host {host} admits everybody who reaches this machine: add --auth USER:PASSWORD, or keep '
            ' 127.0.0.1 and forward its port (ssh -L 7860:127.0.0.1:7860)'
        )


def import_gradio() -> Any:
    """Import Gradio.

    Raises:
        ImportError: It is missing; the message has the command that installs it.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the page needs Gradio: pip install 'mmssl[page]' ({error})") from error
    return gradio


def find_small_model(work_dirs: Path) -> tuple[str, str] | None:
    """Return config and newest weights of the small model in ``work_dirs``; None if it was not trained."""
    folder = work_dirs / SMALL_MODEL
    newest = sorted(folder.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (folder / 'sam.pth', *folder.glob('best_*.pth'), *newest):
        if path.is_file():
            return f'sam/{SMALL_MODEL}.py', str(path)
    return None


def sample_images(folder: Path) -> list[Path]:
    """Write photographs of scikit-image (public domain or free to use) to try the page with.

    Returns:
        The files; none if scikit-image is not installed.
    """
    try:
        from mmssl.data.demo import load_photos

        photos = load_photos()
    except ImportError:
        return []
    from PIL import Image

    folder = folder / 'samples'
    folder.mkdir()
    paths = []
    for name, pixels in photos.items():
        path = folder / f'{name}.jpg'
        Image.fromarray(pixels).convert('RGB').save(path, quality=95)
        paths.append(path)
    return paths
