"""What ``mmssl segment`` and ``mmssl annotate`` share: the model, the settings of automatic masks, images as people see them."""

import os
from pathlib import Path

RANDOM = 'random'
NOTHING = '; nothing passed the filters: lower --pred-iou-thresh or --stability-score-thresh'
# of SamAutomaticMaskGenerator, whose own values hold where nothing is given: type, least, largest, help
GENERATOR = {
    'points_per_side': (int, 1, None, 'points of the grid along a side of the image (32)'),
    'points_per_batch': (int, 1, None, 'points decoded at once; more need more memory (64)'),
    'pred_iou_thresh': (float, 0, None, 'masks with a lower predicted IoU are left out (0.88)'),
    'stability_score_thresh': (float, 0, 1, 'masks that change more with the threshold are left out (0.95)'),
    'stability_score_offset': (float, 0, None, 'by how much the threshold moves for that, in logits (1)'),
    'box_nms_thresh': (float, 0, 1, 'of two masks whose boxes have a larger IoU the better one stays (0.7)'),
    'crop_n_layers': (int, 0, None, 'look at crops too, 2^n a side in layer n; for small objects (0)'),
    'crop_nms_thresh': (float, 0, 1, 'as --box-nms-thresh, between crops (0.7)'),
    'crop_overlap_ratio': (float, 0, 1, 'share of the shorter side by which crops overlap (0.34)'),
    'crop_n_points_downscale_factor': (
        int,
        1,
        None,
        'the grid of layer n has this many times fewer points a side, n times over (1)',
    ),
    'min_mask_region_area': (int, 0, None, 'holes and islands of fewer pixels are removed (0)'),
    'tile': (
        int,
        16,
        None,
        'larger images are segmented by tiles of this many pixels, in the memory of one tile',
    ),
}


def add_model_arguments(parser) -> None:
    """The model, its weights and where it runs."""
    parser.add_argument(
        '--model',
        required=True,
        metavar='KIND',
        help='vit_b, vit_l, vit_h, vit_t (MobileSAM), or a config with a mmssl.SAM: a path, or its name below configs/',
    )
    parser.add_argument(
        '--checkpoint',
        required=True,
        metavar='FILE',
        help=f'weights: a released file, or one of a training of ours; {RANDOM!r} for a random initialisation',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; a GPU by default where there is one')
    parser.add_argument(
        '--cache-dir',
        metavar='DIR',
        help='keep the embeddings of images here: the next prompts of an image start at once',
    )
    parser.add_argument(
        '--progress', action='store_true', help='show a progress line even where there is no terminal'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load a checkpoint that holds pickled code'
    )


def add_generator_arguments(parser) -> None:
    """Settings of automatic masks."""
    group = parser.add_argument_group('automatic masks')
    for name, (kind, _, _, text) in GENERATOR.items():
        group.add_argument(_flag(name), type=kind, metavar='N' if kind is int else 'X', help=text)


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def generator_settings(args) -> dict:
    """Those that were given, by the names of SamAutomaticMaskGenerator.

    Raises:
        ValueError: one is out of its range.
    """
    given = {name: getattr(args, name) for name in GENERATOR if getattr(args, name) is not None}
    for name, value in given.items():
        _, least, largest, _ = GENERATOR[name]
        if not value >= least or (largest is not None and value > largest):
            raise ValueError(
                f'{_flag(name)} {value} must be '
                + (f'at least {least}' if largest is None else f'from {least} to {largest}')
            )
    return given


def make_generator(model, settings: dict, cache_dir: str | None = None):
    """What segments an image by these settings; large images by tiles where they say so."""
    from mmssl.promptable import SamAutomaticMaskGenerator, TiledMaskGenerator

    settings = dict(settings)
    tile = settings.pop('tile', None)
    generator = SamAutomaticMaskGenerator(model, **settings, output_mode='coco_rle', cache_dir=cache_dir)
    return generator if tile is None else TiledMaskGenerator(generator, tile)


def decoder_calls(generator, size: tuple[int, int]) -> int:
    """How often the decoder runs for an image of (height, width): batches of points, in all crops of all tiles."""
    import itertools

    from mmssl.promptable.automatic import crop_boxes
    from mmssl.promptable.tiles import spans

    plain = getattr(generator, 'generator', generator)
    rows, columns = (
        spans(edge, generator.tile, generator.overlap) if plain is not generator else [(0, edge)]
        for edge in size
    )
    sizes = [
        (bottom - top, right - left) for (top, bottom), (left, right) in itertools.product(rows, columns)
    ]
    return sum(
        -(-len(plain.point_grids[layer]) // plain.points_per_batch)
        for tile in sizes
        for _, layer in crop_boxes(tile, plain.crop_n_layers, plain.crop_overlap_ratio)
    )


def generate(generator, pixels, hide: bool) -> list[dict]:
    """Masks of an image (H, W, 3) RGB, with a progress line of its own unless ``hide``: one image may take a minute on a CPU."""
    if hide:
        return generator.generate(pixels)
    from tqdm import tqdm

    plain = getattr(generator, 'generator', generator)
    decode = plain.decode
    with tqdm(
        total=decoder_calls(generator, pixels.shape[:2]),
        desc='decoding',
        unit='batch',
        leave=False,
        dynamic_ncols=True,
    ) as bar:

        def counted(points):
            result = decode(points)
            bar.update()
            return result

        plain.decode = counted
        try:
            return generator.generate(pixels)
        finally:
            del plain.decode


def check_files(checkpoint: str) -> None:
    """Refuse a missing checkpoint before anything is read."""
    from mmssl.hints import nearest_path

    if checkpoint != RANDOM and not os.path.isfile(checkpoint):
        raise FileNotFoundError(
            f'--checkpoint {checkpoint} '
            + (
                'is a directory; name a file in it'
                if os.path.isdir(checkpoint)
                else f'does not exist{nearest_path(checkpoint)}'
            )
        )


def load_sam(kind: str, checkpoint: str, options=(), trust: bool = False):
    """A SAM with its weights, on the CPU, in evaluation mode.

    Args:
        kind: as for ``build_sam``, or a config whose model is, or holds, a :class:`mmssl.SAM`.
        checkpoint: file in the official names, or of a training of ours, low-rank updates included; 'random'.
        options: ``KEY=VALUE`` overrides of the config.
        trust: as for ``mmssl.checkpoint.load_file``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such model; the file does not fit it, in one line.
    """
    import torch

    from mmssl.checkpoint import load_file, strip_module, strip_prefix, weights_of
    from mmssl.promptable.build import KINDS, build_sam

    check_files(checkpoint)
    torch.manual_seed(0)
    if kind in KINDS:
        if options:
            raise ValueError(f'--cfg-options are of a config, and --model {kind} is none')
        model = build_sam(kind)
    else:
        model = _of_config(kind, options)
    if checkpoint != RANDOM:
        weights = strip_module(weights_of(load_file(checkpoint, trust=trust), checkpoint))
        if any(name.startswith('sam.image_encoder.') for name in weights):  # of a PromptedInstanceSegmentor
            weights = strip_prefix(weights, 'sam.')
        low_rank = any(name.endswith('.lora_a') for name in weights)
        if low_rank and not hasattr(model, 'to_sam'):
            raise ValueError(
                f'{checkpoint} holds low-rank updates; --model must be the config that trained them, or take the sam.pth that '
                'the training wrote, where they are merged'
            )
        model = model if low_rank else _plain(model)
        _load(model, weights, kind, checkpoint)
    return _plain(model).eval()


def _plain(model):
    """The SAM of what trains one, low-rank updates merged."""
    from mmssl.promptable.lora import merge_lora

    return merge_lora(model).to_sam() if hasattr(model, 'to_sam') else model


def _of_config(name: str, options):
    """What trains a SAM, or the SAM alone, by a config."""
    from mmengine.registry import init_default_scope

    from mmssl.engine.launch import describe, find_config, load_config
    from mmssl.hints import nearest
    from mmssl.promptable.build import KINDS
    from mmssl.registry import MODELS, build

    try:
        find_config(name)
    except FileNotFoundError as error:
        if os.sep in name or name.endswith('.py'):
            raise
        raise ValueError(
            f'--model {name!r} is none of {", ".join(KINDS)}, and no config{nearest(name, KINDS)}'
        ) from error
    cfg = load_config(name, list(options))
    settings = cfg.model.to_dict() if cfg.get('model') else {}
    if 'sam' in settings:  # PromptedInstanceSegmentor
        settings = settings['sam']
    elif 'image_encoder' in settings.get('model', ()):  # InteractiveSAM
        settings = {
            key: value for key, value in settings.items() if key not in ('cache_dir', 'data_preprocessor')
        }
    elif 'image_encoder' not in settings:
        raise ValueError(
            f'--model {name}: its model is no mmssl.SAM and holds none; give a config of configs/sam, or {", ".join(KINDS)}'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        return build(settings, MODELS)
    except (TypeError, KeyError, ValueError) as error:
        raise describe(error) from error


def _load(model, weights, kind: str, checkpoint: str) -> None:
    from mmssl.checkpoint.matching import MismatchError, load_matching

    try:
        report = load_matching(model, weights, source=checkpoint, logger='silent')
    except MismatchError:
        report = None
    if report is not None and report.complete:
        return
    parts = []
    if report is not None:
        shapes = [
            f'{key} {"x".join(map(str, there))} for {"x".join(map(str, here))}'
            for key, there, here in report.mismatched
        ]
        named = (('missing', report.missing), ('unknown', report.unexpected), ('of another shape', shapes))
        parts = [
            f'{len(keys)} weights {what} ({keys[0]}{", ..." if len(keys) > 1 else ""})'
            for what, keys in named
            if keys
        ]
    raise ValueError(
        f'{checkpoint} does not fit --model {kind}: {", ".join(parts) or "none of its names is known"}{_cure(weights, kind)}'
    )


def _cure(weights, kind: str) -> str:
    from mmssl.promptable.image_encoder import ARCHS

    if any(name.startswith('vision_encoder.') for name in weights):
        return "; it has Hugging Face's names: mmssl convert sam-hf FILE OUT.pth"
    positions = weights.get('image_encoder.pos_embed')
    width = positions.shape[-1] if getattr(positions, 'ndim', 0) == 4 else None
    fitting = [name for name, sizes in ARCHS.items() if sizes['embed_dim'] == width]
    fitting += ['vit_t'] * any(name.startswith('image_encoder.patch_embed.seq.') for name in weights)
    if fitting and fitting != [kind]:
        return f'; it looks like one of {fitting[0]}: --model {fitting[0]}'
    return '; give the model that it is of'


def read_rgb(path: str | Path):
    """(H, W, 3) uint8 of an image file, upright.

    Raises:
        FileNotFoundError, mmssl.data.images.BadImageError: no such file, or no image; named.
    """
    import numpy as np

    from mmssl.data.images import decode, open_image, orient

    image = open_image(str(path))
    return np.ascontiguousarray(orient(decode(image), image.orientation)[..., ::-1])


def hidden(args) -> bool:
    """Whether the progress line stays away."""
    import sys

    return not (args.progress or sys.stderr.isatty())
