"""Arguments of Segment Anything that ``mmssl segment``, ``annotate`` and ``demo`` share."""

import argparse
from typing import NamedTuple

from mmssl.commands.arguments import (
    RANDOM,
    add_cfg_options,
    add_device,
    add_progress,
    add_trust,
    option_name,
)

MODELS = 'sam-mini (in the package), vit_b, vit_l, vit_h, vit_t (MobileSAM), or a config with a mmssl.SAM'
NO_MASKS = '; no mask passed the filters: lower --pred-iou-thresh or --stability-score-thresh'


class Setting(NamedTuple):
    """A setting of the automatic masks: its type, the range of its values, and its help."""

    type: type
    minimum: float
    maximum: float | None
    help: str


# arguments of SamAutomaticMaskGenerator, whose defaults apply if an option is not given, and 'tile'
GENERATOR_SETTINGS = {
    'points_per_side': Setting(int, 1, None, 'grid points along each side of the image (default: 32)'),
    'points_per_batch': Setting(int, 1, None, 'points decoded at once; more need more memory (default: 64)'),
    'pred_iou_thresh': Setting(float, 0, None, 'drop masks with a lower predicted IoU (default: 0.88)'),
    'stability_score_thresh': Setting(
        float, 0, 1, 'drop masks that change more with the threshold (default: 0.95)'
    ),
    'stability_score_offset': Setting(
        float, 0, None, 'change of the threshold for that score, in logits (default: 1)'
    ),
    'box_nms_thresh': Setting(
        float, 0, 1, 'of two masks whose boxes have a larger IoU, keep the better one (default: 0.7)'
    ),
    'crop_n_layers': Setting(
        int, 0, None, 'also segment crops, 2^n per side in layer n, for small objects (default: 0)'
    ),
    'crop_nms_thresh': Setting(float, 0, 1, 'like --box-nms-thresh, between crops (default: 0.7)'),
    'crop_overlap_ratio': Setting(
        float, 0, 1, 'overlap of crops as a fraction of the shorter side (default: 0.34)'
    ),
    'crop_n_points_downscale_factor': Setting(
        int, 1, None, 'divide the grid points per side by this factor in each crop layer (default: 1)'
    ),
    'min_mask_region_area': Setting(
        int, 0, None, 'fill holes and remove islands of fewer pixels (default: 0)'
    ),
    'tile': Setting(
        int, 16, None, 'segment larger images in tiles of this many pixels, in the memory of one tile'
    ),
}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, its weights and where it runs."""
    parser.add_argument(
        '--model',
        metavar='KIND',
        help=f'{MODELS} (a path, or its name below configs/); default: sam-mini, a small one',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='weights: a released file, or one that a training run wrote; auto downloads the released file '
        f'of KIND; {RANDOM!r} for random weights',
    )
    add_device(parser)
    parser.add_argument(
        '--cache-dir',
        metavar='DIR',
        help='cache image embeddings here, so that further prompts on an image start at once',
    )
    add_progress(parser)
    add_cfg_options(parser)
    add_trust(parser)


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the automatic masks."""
    group = parser.add_argument_group('automatic masks')
    for name, setting in GENERATOR_SETTINGS.items():
        metavar = 'N' if setting.type is int else 'X'
        group.add_argument(option_name(name), type=setting.type, metavar=metavar, help=setting.help)


def generator_settings(args: argparse.Namespace) -> dict:
    """Return the settings that were given, by their names in ``SamAutomaticMaskGenerator``.

    Raises:
        ValueError: A value is out of range.
    """
    settings = {name: getattr(args, name) for name in GENERATOR_SETTINGS if getattr(args, name) is not None}
    for name, value in settings.items():
        _, minimum, maximum, _ = GENERATOR_SETTINGS[name]
        if not value >= minimum or (maximum is not None and value > maximum):
            allowed = f'at least {minimum}' if maximum is None else f'from {minimum} to {maximum}'
            raise ValueError(f'{option_name(name)} {value} must be {allowed}')
    return settings
