"""``mmssl convert FAMILY SRC DST [--reverse]``: released weights to ours, or back."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping

HELP = 'rename the weights of another release to ours, or back'


def add_arguments(parser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'family',
        help='beit, dino, hf-vit, mae, mobilenetv2, moby, moco, mocov3, rfcn, rfcn-caffe, sam-hf, swav, swin, '
        'timm-vit or torchvision-resnet',
    )
    parser.add_argument('src', help='file to read: .pth, .pt, .safetensors')
    parser.add_argument('dst', help='file to write; .safetensors writes that format')
    parser.add_argument('--reverse', action='store_true', help='from ours to the release')
    parser.add_argument(
        '--drop',
        action='append',
        default=[],
        metavar='PREFIX',
        help='leave out keys that begin so, as --drop neck. for an encoder from a pre-training checkpoint; may be repeated',
    )
    parser.add_argument(
        '--prefix',
        default='backbone.',
        help="what our side puts before the backbone's keys (default: %(default)s)",
    )
    parser.add_argument('--force', action='store_true', help='replace DST where it exists')
    parser.add_argument(
        '--progress', action='store_true', help='show a progress line even where there is no terminal'
    )
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='read SRC even if it holds code that would be run'
    )


def run(args) -> int:
    """Convert one file; prints what was converted."""
    from mmssl.checkpoint import ProgressFile, load_file
    from mmssl.convert import get_family, keymap

    family = get_family(args.family)  # before a large file is read
    if not os.path.isfile(args.src):
        raise FileNotFoundError(f'no file {args.src!r} to convert')
    if os.path.exists(args.dst) and not args.force:
        raise FileExistsError(f'{args.dst!r} exists; --force replaces it')
    if os.path.isdir(args.dst):
        raise IsADirectoryError(f'{args.dst!r} is a directory; name a file in it')
    with bar('reading', os.path.getsize(args.src), args.progress) as shown, open(args.src, 'rb') as file:
        # safetensors are mapped, not read
        source = args.src if args.src.endswith('.safetensors') else ProgressFile(file, shown.update)
        content = load_file(source, trust=args.trust_checkpoint)
    weights = dict(keymap.unwrap(content, () if args.reverse else family.parts))
    dropped = [key for key in weights if key.startswith(tuple(args.drop))] if args.drop else []
    for prefix in args.drop:
        if not any(key.startswith(prefix) for key in dropped):
            raise ValueError(f'--drop {prefix}: no key begins so; keys are {keymap.listed(list(weights))}')
    for key in dropped:
        del weights[key]
    converted, layout = keymap.convert(family, weights, to_official=args.reverse, prefix=args.prefix)
    if args.reverse:
        converted = {family.file_prefix + key: tensor for key, tensor in converted.items()}
    nested = args.reverse and not args.dst.endswith('.safetensors')
    size = sum(tensor.numel() * tensor.element_size() for tensor in converted.values())
    with bar('writing', size, args.progress) as shown:
        write_weights(
            keymap.wrap(converted, family.parts) if nested else converted,
            args.dst,
            family.wrapper if args.reverse else 'state_dict',
            shown.update,
        )
    values = sum(tensor.numel() for tensor in converted.values())
    print(
        f'{family.name} ({layout}): {len(converted)} keys, {values:,} values'
        + (f', {len(dropped)} keys dropped' if dropped else '')
        + f', from {"mmssl" if args.reverse else "the release"} to {"the release" if args.reverse else "mmssl"}: {args.dst}'
    )
    return 0


def bar(what: str, total: int, always: bool):
    """A line with the bytes done and the time left, on a terminal; ``total`` in bytes."""
    from tqdm import tqdm

    hidden = not (always or sys.stderr.isatty())
    return tqdm(
        total=total, desc=what, unit='B', unit_scale=True, leave=False, file=sys.stderr, disable=hidden
    )


def write_weights(
    weights: Mapping, path: str, wrapper: str | None = None, tell: Callable[[int], object] | None = None
) -> None:
    """Write weights by name whole or not at all, in the format that the file's ending says.

    Args:
        weights: names to tensors.
        path: .safetensors for that format, which holds the bare weights; anything else for PyTorch's.
        wrapper: key to put them under in PyTorch's format.
        tell: called with the number of bytes of every piece that is written in that format.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    if not path.endswith('.safetensors'):
        from mmssl.checkpoint import save_file

        save_file({wrapper: weights} if wrapper else weights, path, tell)
        return
    import torch

    try:
        from safetensors.torch import save_file as save_safetensors
    except ImportError:
        raise ImportError(f'{path} needs the package safetensors: pip install safetensors') from None

    seen: set[int] = set()
    whole = {}
    for key, value in weights.items():  # the format has no two names for one memory
        shared = value.untyped_storage().data_ptr() in seen
        seen.add(value.untyped_storage().data_ptr())
        whole[key] = (
            value.detach().clone(memory_format=torch.contiguous_format)
            if shared
            else value.detach().contiguous()
        )
    # written beside the target and renamed, so that nobody ever sees half a file
    with tempfile.TemporaryDirectory(dir=directory, prefix='.convert-') as folder:
        part = os.path.join(folder, 'part.safetensors')
        save_safetensors(whole, part, metadata={'format': 'pt'})
        with open(part, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
