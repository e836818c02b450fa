"""The model of ``mmssl demo`` if none is given."""

import argparse
from pathlib import Path

from mmssl.commands.default_models import DEFAULT_SAM, find_sam
from mmssl.commands.table import DEFAULT_MODELS
from mmssl.weights import find_packaged

DEFAULT_MAE = DEFAULT_MODELS['reconstruct']
# found in work_dirs by itself where the package has no weights
SMALL_MODEL = 'sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256'
DOWNLOAD = (
    'download a file of Segment Anything, such as sam_vit_b_01ec64.pth, and start the page with '
    'mmssl demo --model vit_b --checkpoint sam_vit_b_01ec64.pth'
)
TRAIN = (
    'or train the small model of this project on images of COCO, about 22 minutes on one core: '
    f'mmssl train sam/{SMALL_MODEL}.py --data DIR'
)
NO_WEIGHTS = f'There are no weights yet: {DOWNLOAD}, {TRAIN}; the page finds it by itself.'
NO_MODEL_FOR_LABELS = (
    f'--data needs a model: add --model vit_b --checkpoint sam_vit_b_01ec64.pth of Segment Anything, {TRAIN}'
)


def choose_model(args: argparse.Namespace) -> str:
    """Fill in ``--model`` and ``--checkpoint``: the small model of the package if neither is given.

    Args:
        args: Parsed arguments, to which ``model_name`` is added, the name that the page shows.

    Returns:
        What the page says at its top; '' where its model says enough.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: Only one of the two is given.
    """
    from mmssl.apis.sam import check_checkpoint

    args.model_name = Path(args.model or DEFAULT_SAM).stem
    if args.model or args.checkpoint or find_packaged(DEFAULT_SAM):
        find_sam(args, automatic=True)
        check_checkpoint(args.checkpoint)
        return ''
    trained = find_small_model(Path('work_dirs'))
    if trained is None:
        return NO_WEIGHTS
    args.model, args.checkpoint = trained
    args.model_name = SMALL_MODEL
    return (
        'This is the small model that was trained here: outlines are coarse and some masks are wrong. For '
        f'finer ones, {DOWNLOAD}.'
    )


def choose_mae(args: argparse.Namespace) -> None:
    """Fill in ``--mae`` with the small model of the package if none is given, but not for the labelling page.

    Args:
        args: Parsed arguments, to which ``mae_name`` is added, the name that the page shows.

    Raises:
        CheckpointError: The file in the package is damaged.
    """
    from mmssl.checkpoint.packaged import packaged_file

    args.mae_name = Path(args.mae[0]).stem if args.mae else DEFAULT_MAE
    entry = find_packaged(DEFAULT_MAE)
    if entry is not None and not args.mae and not args.data:
        args.mae = (entry.config, packaged_file(entry))


def find_small_model(work_dirs: Path) -> tuple[str, str] | None:
    """Return config and newest weights of the small model in ``work_dirs``; None if it was not trained."""
    folder = work_dirs / SMALL_MODEL
    newest = sorted(folder.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (folder / 'sam.pth', *folder.glob('best_*.pth'), *newest):
        if path.is_file():
            return f'sam/{SMALL_MODEL}.py', str(path)
    return None
