"""``mmssl convert FAMILY SRC DST [--reverse]``: weights of other releases in mmssl's names, or back."""

import argparse
import copy
import os
import sys
from typing import TYPE_CHECKING

from mmssl.commands.arguments import add_progress, progress_hidden

if TYPE_CHECKING:
    from tqdm import tqdm

    from mmssl.convert.keymap import Family

HELP = "convert the weights of another release to mmssl's names, or back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        'family',
        help='beit, convnext, dino, dinov2, dinov3, hf-vit, ijepa, mae, mobilenetv2, moby, moco, mocov3, '
        'rfcn, rfcn-caffe, sam-hf, swav, swin, timm-vit or torchvision-resnet',
    )
    parser.add_argument('src', help='file to read: .pth, .pt, .safetensors')
    parser.add_argument('dst', help='file to write; the suffix .safetensors selects that format')
    parser.add_argument('--reverse', action='store_true', help="from mmssl's names to the release's")
    parser.add_argument(
        '--drop',
        action='append',
        default=[],
        metavar='PREFIX',
        help='leave out keys with this prefix, as --drop neck. for an encoder from a pre-training '
        'checkpoint; may be '
        'repeated',
    )
    parser.add_argument(
        '--prefix',
        default='backbone.',
        help="prefix of the backbone's keys on mmssl's side (default: %(default)s)",
    )
    parser.add_argument(
        '--grid',
        type=_grid,
        metavar='ROWSxCOLUMNS',
        help='patches of the position table, as 8x32, which DST then says; for an SRC that does not say it',
    )
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    add_progress(parser)
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='read SRC even if it contains pickled code'
    )


def _grid(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition('x')
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns)):
        raise argparse.ArgumentTypeError(f'{text!r} is not ROWSxCOLUMNS, as 14x14')
    return int(rows), int(columns)


def run(args: argparse.Namespace) -> int:
    """Convert one file and print what was converted.

    Raises:
        FileNotFoundError: SRC does not exist.
        FileExistsError: DST exists.
        ValueError: There is no such family, the weights do not belong to it, or a prefix matches nothing.
    """
    from mmssl.checkpoint.keys import add_prefix
    from mmssl.checkpoint.weight_files import write_weights
    from mmssl.convert import get_family, keymap

    get_family(args.family)  # before a large file is read
    _check_files(args)
    family, converted, layout, dropped = _convert(args, _read(args))
    if args.reverse:
        converted = add_prefix(converted, family.file_prefix)
    nested = args.reverse and not args.dst.endswith('.safetensors')
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in converted.values())
    with _progress_bar('writing', num_bytes, progress_hidden(args)) as bar:
        write_weights(
            keymap.wrap(converted, family.parts) if nested else converted,
            args.dst,
            family.wrapper if args.reverse else 'state_dict',
            bar.update,
        )
    values = sum(tensor.numel() for tensor in converted.values())
    source, target = ('mmssl', 'the release') if args.reverse else ('the release', 'mmssl')
    print(
        f'{family.name} ({layout}): {len(converted)} keys, {values:,} values'
        + (f', {dropped} keys dropped' if dropped else '')
        + f', from {source} to {target}: {args.dst}'
    )
    return 0


def _convert(args: argparse.Namespace, content: dict) -> tuple['Family', dict, str, int]:
    """Return the family, the renamed weights, their layout and the number of dropped keys.

    'timm-vit' also takes the same architectures in the names of Hugging Face or of their release.

    Raises:
        ValueError: The weights do not belong to the family, or a prefix matches nothing.
    """
    from mmssl.checkpoint.keys import strip_prefix
    from mmssl.convert import get_family, keymap
    from mmssl.convert.released import FAMILIES

    any_release = args.family == 'timm-vit' and not args.reverse
    reason = None
    for name in FAMILIES if any_release else (args.family,):
        family = get_family(name)
        try:
            unwrapped = keymap.unwrap(content, () if args.reverse else family.parts)
            weights = copy.copy(strip_prefix(unwrapped, ''))  # with what it says about position tables
            dropped = _drop(weights, args.drop)
            converted, layout = keymap.convert(family, weights, args.reverse, args.prefix, args.grid)
        except ValueError as error:
            reason = reason or error
        else:
            return family, converted, layout, dropped
    assert reason is not None
    raise reason


def _check_files(args: argparse.Namespace) -> None:
    if not os.path.isfile(args.src):
        raise FileNotFoundError(f'no file {args.src!r} to convert')
    if os.path.exists(args.dst) and not args.force:
        raise FileExistsError(f'{args.dst!r} exists; --force replaces it')
    if os.path.isdir(args.dst):
        raise IsADirectoryError(f'{args.dst!r} is a directory; name a file in it')


def _read(args: argparse.Namespace) -> dict:
    from mmssl.checkpoint import ProgressFile, load_file

    size = os.path.getsize(args.src)
    with _progress_bar('reading', size, progress_hidden(args)) as bar, open(args.src, 'rb') as file:
        # safetensors files are mapped, not read
        source = args.src if args.src.endswith('.safetensors') else ProgressFile(file, bar.update)
        return load_file(source, trust=args.trust_checkpoint)


def _drop(weights: dict, prefixes: list[str]) -> int:
    """Remove the keys with one of the prefixes; return their number.

    Raises:
        ValueError: No key has a prefix.
    """
    from mmssl.convert import keymap

    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in weights):
            raise ValueError(f'--drop {prefix}: no key begins so; keys are {keymap.listed(list(weights))}')
    dropped = [key for key in weights if key.startswith(tuple(prefixes))]
    for key in dropped:
        del weights[key]
    return len(dropped)


def _progress_bar(label: str, num_bytes: int, hidden: bool) -> 'tqdm':
    from tqdm import tqdm

    return tqdm(
        total=num_bytes,
        desc=label,
        unit='B',
        unit_scale=True,
        leave=False,
        file=sys.stderr,
        disable=hidden,
    )
