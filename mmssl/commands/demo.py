"""``mmssl demo``: a page on this machine to prompt with."""

import argparse
import os
from pathlib import Path

HELP = 'open a local page: click on images for masks, and look at reconstructions'
RELEASED = {
    'vit_b': 'sam_vit_b_01ec64.pth',
    'vit_l': 'sam_vit_l_0b3195.pth',
    'vit_h': 'sam_vit_h_4b8939.pth',
    'vit_t': 'mobile_sam.pt',
}
# the small model that the page looks for
OURS = 'sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256'
LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from mmssl.commands.prompting import add_generator_arguments

    parser.add_argument(
        '--model', metavar='KIND', help='vit_b, vit_l, vit_h, vit_t (MobileSAM), or a config with a mmssl.SAM'
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help=f'its weights; without --model and --checkpoint the page looks for work_dirs/{OURS} and says what to download',
    )
    parser.add_argument(
        '--detector', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help='of mmdet or ours; names the masks'
    )
    parser.add_argument(
        '--mae',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a pre-training of configs/mae, decoder included',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: 127.0.0.1, this machine only); any other lets others in, without a password',
    )
    parser.add_argument('--port', type=int, help='port (default: the first free one from 7860 on)')
    parser.add_argument(
        '--max-upload', type=int, default=32, metavar='MB', help='size of a file that is taken (default: 32)'
    )
    parser.add_argument(
        '--max-pixels',
        type=float,
        default=40,
        metavar='MILLION',
        help='pixels of an image that is taken (default: 40)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; a GPU by default where there is one')
    parser.add_argument('--cache-dir', metavar='DIR', help='keep the embeddings of images here')
    parser.add_argument('--no-browser', action='store_true', help='do not open a browser')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the config of --model',
    )
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load checkpoints that hold pickled code'
    )
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises:
        ImportError: Gradio is missing.
        FileNotFoundError: no such file.
        ValueError: a model and a file that do not go together; settings out of range.
        OSError: the port is taken.
    """
    import tempfile

    from mmssl.commands import prompting

    settings = check_arguments(args)
    model, notice = None, NOTHING
    if args.model:
        notice = ''
    else:
        found = trained_by_us(Path('work_dirs'))
        if found:
            args.model, args.checkpoint = found
            notice = f'With the small model that was trained here, `{found[1]}`. {DOWNLOAD}'
    for option, given in (('--detector', args.detector), ('--mae', args.mae)):
        if given and not os.path.isfile(given[1]):
            from mmssl.hints import nearest_path

            raise FileNotFoundError(
                f'{option} {given[0]} {given[1]}: the checkpoint does not exist{nearest_path(given[1])}'
            )
    # before Gradio is imported: it asks its makers for news of versions, and keeps uploads of all users in
    # one folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE=os.environ.get('HF_HUB_OFFLINE', '1'))
    gradio = import_gradio()
    from mmssl.commands.features import pick_device

    device = pick_device(args.device)
    if args.model:
        print(f'loading {args.model} with {args.checkpoint}', flush=True)
        model = prompting.load_sam(args.model, args.checkpoint, args.cfg_options, args.trust_checkpoint).to(
            device
        )
    mae = None
    if args.mae:
        from mmssl.commands.reconstruct import load_mae

        config, checkpoint = args.mae
        mae = load_mae(config, checkpoint, trust=args.trust_checkpoint)
    detect = None
    if args.detector:
        config, checkpoint = args.detector
        detect = load_detector(config, checkpoint, str(device), args.trust_checkpoint)

    from mmssl.demo_page.app import STYLE, build

    with tempfile.TemporaryDirectory(prefix='mmssl-demo-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        page = build(
            model,
            notice,
            settings,
            detect,
            mae,
            samples(Path(folder)),
            int(args.max_pixels * 1e6),
            args.cache_dir,
        )
        theme = gradio.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
        page.queue(default_concurrency_limit=4, max_size=32)
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
        )
        print(f'{url}  (Ctrl-C ends it)', flush=True)
        if args.host not in LOOPBACK:
            print(f'mmssl demo: everybody who reaches {args.host} can use this page', flush=True)
        page.block_thread()
    return 0


DOWNLOAD = (
    'For the released models take a file of '
    '[Segment Anything](https://github.com/facebookresearch/segment-anything#model-checkpoints), as '
    '`sam_vit_b_01ec64.pth`, and start the page with `mmssl demo --model vit_b --checkpoint sam_vit_b_01ec64.pth`.'
)
NOTHING = (
    '**There are no weights yet.** '
    + DOWNLOAD
    + ' Or train the small model of this project on images of COCO, about 22 minutes '
    f'on one core: `mmssl train sam/{OURS}.py --data DIR`; the page finds it by itself.'
)


def check_arguments(args: argparse.Namespace) -> dict:
    """Settings of the generator; refuses what is out of range or lacks its other half."""
    from mmssl.commands.prompting import check_files, generator_settings

    if bool(args.model) != bool(args.checkpoint):
        given, lacking = ('--model', '--checkpoint') if args.model else ('--checkpoint', '--model')
        file = RELEASED.get(args.model, 'FILE')
        raise ValueError(
            f'{given} needs {lacking}: mmssl demo --model {args.model or "vit_b"} --checkpoint {args.checkpoint or file}'
        )
    if args.checkpoint:
        check_files(args.checkpoint)
    for name, least in (('max_upload', 1), ('max_pixels', 1e-6)):
        if not getattr(args, name) >= least:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least {least:g}')
    if args.port is not None and not 0 < args.port < 65536:
        raise ValueError(f'--port {args.port} must be from 1 to 65535')
    settings = generator_settings(args)
    if 'tile' in settings:
        raise ValueError('--tile is of mmssl segment and mmssl annotate; the page segments an image at once')
    return {'points_per_side': 16, **settings}


def import_gradio():
    """Gradio, or an error with the command that installs it."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the page needs Gradio: pip install 'mmssl[page]' ({error})") from error
    return gradio


def trained_by_us(work_dirs: Path) -> tuple[str, str] | None:
    """Config and newest weights of the small model in ``work_dirs``, or None."""
    folder = work_dirs / OURS
    newest = sorted(folder.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    files = [folder / 'sam.pth', *folder.glob('best_*.pth'), *newest]
    return next(((f'sam/{OURS}.py', str(path)) for path in files if path.is_file()), None)


def samples(folder: Path) -> list[Path]:
    """Photographs of scikit-image, in the public domain or free to use, to try the page with; none where it is missing."""
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
        paths.append(folder / f'{name}.jpg')
        Image.fromarray(pixels).convert('RGB').save(paths[-1], quality=95)
    return paths


def load_detector(config: str, checkpoint: str, device: str, trust: bool = False):
    """What finds boxes: image (H, W, 3) RGB to boxes (N, 4), labels (N,), scores (N,) and names of classes."""
    from mmdet.apis import inference_detector, init_detector

    from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of
    from mmssl.engine.launch import load_config

    model = init_detector(load_config(config), None, device=device)
    report = load_weights(model, strip_module(weights_of(load_file(checkpoint, trust=trust), checkpoint)))
    if report.missing or report.mismatched:
        raise ValueError(f'{checkpoint} does not fit {config}:\n{report}')
    names = (
        load_config(config).test_dataloader.dataset.get('metainfo', {}).get('classes')
        or model.dataset_meta['classes']
    )

    def detect(image):
        found = inference_detector(model, image[..., ::-1].copy()).pred_instances.cpu().numpy()
        keep = found.scores >= 0.3
        return found.bboxes[keep], found.labels[keep], found.scores[keep], list(names)

    return detect
