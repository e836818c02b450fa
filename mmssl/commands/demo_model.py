"""The models of ``mmssl demo`` if none are given."""

import argparse
from pathlib import Path

from mmssl.commands.default_models import DEFAULT_SAM, find_sam
from mmssl.commands.table import DEFAULT_MODELS
from mmssl.weights import find_packaged

DEFAULT_MAE = DEFAULT_MODELS['reconstruct']


def choose_model(args: argparse.Namespace) -> None:
    """Fill in ``--model`` and ``--checkpoint``: the small model of the package if neither is given.

    Args:
        args: Parsed arguments, to which ``model_name`` is added, the name that the page shows.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: Only one of the two is given.
    """
    from mmssl.apis.sam import check_checkpoint

    args.model_name = Path(args.model or DEFAULT_SAM).stem
    find_sam(args, automatic=True)
    check_checkpoint(args.checkpoint)


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
