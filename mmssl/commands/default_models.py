"""Models of commands that are given none: the small ones in the package, and checkpoints by name."""

import argparse
from collections.abc import Sequence

from mmssl.config import RANDOM
from mmssl.config.paths import config_root
from mmssl.weights import find_packaged

# in place of a checkpoint; the same as mmssl.checkpoint.packaged.AUTO, whose import takes a second
AUTO = 'auto'
DEFAULT_SAM = 'sam-mini'
_SUFFIXES = ('.py', '.pth', '.pt', '.safetensors', '.bin', '.ckpt')


def with_default_model(arguments: Sequence[str], name: str, takes_images: bool = True) -> list[str]:
    """Put a model of the package before the arguments of a command, unless they name a model.

    Args:
        arguments: What was typed after the command, which takes CONFIG and CHECKPOINT first.
        name: Model of the package.
        takes_images: Whether images follow; without, the first word can only be a config.
    """
    if find_packaged(name) is None:
        return list(arguments)
    begins_with_word = bool(arguments) and not arguments[0].startswith('-')
    if (begins_with_word and not takes_images) or any(_is_model(argument) for argument in arguments):
        return list(arguments)
    return [name, AUTO, *arguments]


def _is_model(argument: str) -> bool:
    """Return True for a config, a checkpoint, or a word that stands for one."""
    if argument.startswith('-'):
        return False
    if argument in (RANDOM, AUTO) or argument.lower().endswith(_SUFFIXES):
        return True
    return find_packaged(argument) is not None or (config_root() / f'{argument}.py').is_file()


def find_weights(args: argparse.Namespace) -> None:
    """Replace the checkpoint 'auto' by the file that it stands for, and say which model is used.

    Raises:
        ValueError: No weights belong to the config.
        CheckpointError: The file in the package is damaged.
    """
    if args.checkpoint != AUTO:
        return
    from mmssl.checkpoint.packaged import automatic_file

    args.checkpoint = automatic_file(args.config)
    entry = find_packaged(args.config)
    if entry is not None:
        args.config = entry.config
        print(entry.notice, flush=True)


def find_sam(args: argparse.Namespace, automatic: bool) -> None:
    """Fill in ``--model`` and ``--checkpoint``: the small SAM of the package if neither is given.

    Args:
        args: Parsed arguments of a command of Segment Anything.
        automatic: Use the settings of automatic masks that suit a model of the package.

    Raises:
        ValueError: Only one of the two is given, or no weights belong to the model.
        OSError: A download has failed.
    """
    if not args.model and not args.checkpoint:
        args.model = DEFAULT_SAM
    entry = find_packaged(args.model) if args.model else None
    if entry is not None and not args.checkpoint:
        args.checkpoint = AUTO
    if not args.model or not args.checkpoint:
        present, missing = ('--model', '--checkpoint') if args.model else ('--checkpoint', '--model')
        hint = f'{missing} {AUTO} for a released one, or a file' if args.model else 'vit_b, or a config'
        raise ValueError(f'{present} {args.model or args.checkpoint} needs {missing}: {hint}')
    if args.checkpoint != AUTO:
        return
    from mmssl.checkpoint.packaged import automatic_file

    args.checkpoint = automatic_file(args.model)
    if entry is None:
        return
    args.model = entry.config
    for name, value in entry.automatic.items() if automatic else ():
        if getattr(args, name) is None:
            setattr(args, name, value)
    print(entry.notice, flush=True)
