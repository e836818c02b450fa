"""``mmssl demo``: local pages to segment by clicks, to view reconstructions, and to label a folder."""

import argparse
import contextlib
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import add_cfg_options, add_device, add_trust
from mmssl.commands.demo_checks import check_arguments
from mmssl.commands.demo_model import choose_mae, choose_model
from mmssl.commands.picture_arguments import add_picture_arguments, picture_settings
from mmssl.commands.sam_arguments import MODELS, add_generator_arguments, generator_settings

if TYPE_CHECKING:
    from mmssl.demo_page.app import PageSettings
    from mmssl.demo_page.label_desk import LabelDesk

HELP = 'open a local page: click on images for masks, view reconstructions, or label a folder of images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('--model', metavar='KIND', help=MODELS)
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='its weights; auto downloads the released file of KIND. Without --model and --checkpoint: '
        'sam-mini, a small model in the package',
    )
    parser.add_argument(
        '--detector', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='detector that names the masks'
    )
    parser.add_argument(
        '--mae',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='masked autoencoder of configs/mae, decoder included (default: mae-mini, in the package)',
    )
    add_label_arguments(parser)
    add_server_arguments(parser)
    add_device(parser)
    parser.add_argument('--cache-dir', metavar='DIR', help='cache the embeddings of images here')
    add_cfg_options(parser, 'the config of --model')
    add_trust(parser)
    add_picture_arguments(parser)
    add_generator_arguments(parser)


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the labelling page."""
    group = parser.add_argument_group('labelling page')
    group.add_argument('--data', metavar='DIR', help='label the images of this folder and its subfolders')
    group.add_argument(
        '--out', metavar='DIR', help='folder for annotations.json, a COCO file; labelling goes on where it is'
    )
    group.add_argument(
        '--order', metavar='TXT', help='label only the images of this list of mmssl select, in its order'
    )
    group.add_argument('--classes', metavar='NAME,...', help='classes to choose from; more can be typed')
    group.add_argument(
        '--prefill',
        nargs='+',
        metavar='JSON|DIR',
        help='suggest the masks of COCO files, or of folders of mmssl annotate, to accept or discard',
    )


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add address, password and limits."""
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: 127.0.0.1, this machine only); any other needs --auth',
    )
    parser.add_argument('--auth', metavar='USER:PASSWORD', help='ask visitors for this name and password')
    parser.add_argument('--port', type=int, help='port (default: the first free one from 7860 on)')
    parser.add_argument('--no-browser', action='store_true', help='do not open a browser')
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


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises:
        ImportError: A package of the page is missing.
        FileNotFoundError: A file does not exist.
        ValueError: A model and a file do not fit, or a setting is out of range.
        OSError: The port is in use, or another page writes labels to the folder.
    """
    check_arguments(args)
    choose_model(args)
    choose_mae(args)
    generator = {'points_per_side': 16, **generator_settings(args)}
    import_server()
    with contextlib.ExitStack() as stack:
        desk = _open_desk(args, stack) if args.data else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='mmssl-demo-')))
        settings = _load_models(args, generator, folder)
        _serve(settings, desk, args)
    return 0


def _open_desk(args: argparse.Namespace, stack: contextlib.ExitStack) -> 'LabelDesk':
    """Open the labels, which are locked against other pages until the stack ends."""
    from mmssl.apis.output_folder import locked
    from mmssl.demo_page.label_desk import LabelDesk
    from mmssl.demo_page.label_images import images_to_label
    from mmssl.demo_page.labels import LabelStore
    from mmssl.demo_page.suggestions import DEFAULT_CLASS, Suggestions

    classes = [name for name in (args.classes or '').split(',') if name.strip()]
    names = images_to_label(args.data, args.order)
    suggestions = Suggestions(args.prefill or [], names, classes[0].strip() if classes else DEFAULT_CLASS)
    stack.enter_context(locked(Path(args.out), 'demo'))
    desk = LabelDesk(args.data, names, LabelStore(args.out, classes), suggestions)
    finished = sum(map(desk.store.is_finished, names))
    print(f'{args.data}: {len(names)} images to label, {finished} of them finished', flush=True)
    return desk


def _load_models(args: argparse.Namespace, generator: dict, folder: Path) -> 'PageSettings':
    from mmssl.apis.loading import load_mae, pick_device
    from mmssl.apis.sam import load_sam
    from mmssl.demo_page.app import PageSettings
    from mmssl.demo_page.detector import load_detector

    device = pick_device(args.device)
    print(f'loading {args.model} with {args.checkpoint}', flush=True)
    model = load_sam(args.model, args.checkpoint, args.cfg_options, args.trust_checkpoint)
    settings = PageSettings(
        folder=folder,
        model=model.to(device),
        model_name=args.model_name,
        generator=generator,
        max_pixels=int(args.max_pixels * 1e6),
        cache_dir=args.cache_dir,
        pictures=picture_settings(args),
    )
    if args.mae:
        config, checkpoint = args.mae
        settings.mae = load_mae(config, checkpoint, trust=args.trust_checkpoint)
        settings.mae_name = args.mae_name
    if args.detector:
        config, checkpoint = args.detector
        settings.detect = load_detector(config, checkpoint, str(device), args.trust_checkpoint)
    return settings


def _serve(settings: 'PageSettings', desk: 'LabelDesk | None', args: argparse.Namespace) -> None:
    from mmssl.demo_page.app import build
    from mmssl.demo_page.guard import Limits
    from mmssl.demo_page.label_app import build_labelling
    from mmssl.demo_page.samples import write_samples
    from mmssl.demo_page.server import PageServer

    if desk is None:
        settings.samples = write_samples(settings.folder / 'samples')
        app = build(settings)
    else:
        app = build_labelling(settings, desk)
    megabytes = args.max_upload * 2**20
    limits = Limits(file_bytes=megabytes, total_bytes=16 * megabytes)
    server = PageServer(app, args.host, args.port, args.auth, limits)
    # docker stop and service managers; temporary files are removed as after Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(f'{server.url}  (Ctrl-C ends it)', flush=True)
        if not args.no_browser:
            import webbrowser

            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
    finally:
        server.close()


def import_server() -> None:
    """Import what serves the page.

    Raises:
        ImportError: It is missing; the message has the command that installs it.
    """
    try:
        import pycocotools  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the page needs {error.name}: pip install 'mmssl[page]'") from error
