"""``mmssl export backbone CONFIG CHECKPOINT OUT --to LIBRARY`` and ``mmssl export weights CHECKPOINT OUT``: for other programs."""

import argparse
import os

HELP = 'write a backbone for timm, torchvision, Hugging Face or ONNX, or the weights of a checkpoint as safetensors'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command: what is written each."""
    kinds = parser.add_subparsers(dest='what', metavar='WHAT', required=True, title='what is written')
    text = 'write the backbone of a model in the form of another library'
    backbone = kinds.add_parser('backbone', help=text, description=text)
    backbone.add_argument('config', metavar='CONFIG', help='name of a config (mmssl list), or its path')
    backbone.add_argument(
        'checkpoint', metavar='CHECKPOINT', help="weights of the model or of its backbone; 'random' for none"
    )
    backbone.add_argument(
        'out',
        metavar='OUT',
        help='a folder for timm and hf, or a .pth or .safetensors file; a file for the others',
    )
    backbone.add_argument(
        '--to',
        required=True,
        choices=['timm', 'torchvision', 'hf', 'safetensors', 'onnx'],
        metavar='LIBRARY',
        help="timm, torchvision, hf (Hugging Face), safetensors (the host's names) or onnx",
    )
    backbone.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of the config'
    )
    text = 'write the weights of any checkpoint that mmssl reads, without optimizer and counters, as .safetensors or .pth'
    weights = kinds.add_parser('weights', help=text, description=text)
    weights.add_argument('checkpoint', metavar='CHECKPOINT', help='file to read')
    weights.add_argument('out', metavar='OUT', help='file to write; its ending says the format')
    weights.add_argument(
        '--prefix', metavar='PREFIX', help='only what begins so, without it: --prefix backbone.'
    )
    for kind in (backbone, weights):
        kind.add_argument('--force', action='store_true', help='replace OUT where it is a file that exists')
        kind.add_argument(
            '--trust-checkpoint', action='store_true', help='load a checkpoint that holds pickled code'
        )


def run(args: argparse.Namespace) -> None:
    """Export.

    Raises:
        FileNotFoundError: no such config or checkpoint.
        FileExistsError: OUT exists.
        ValueError: the library has no such network, the checkpoint does not fit, nothing begins with the
            prefix.
    """
    if os.path.isdir(args.out) or (os.path.exists(args.out) and not args.force):
        raise FileExistsError(
            f'{args.out} exists'
            + ('; name another folder' if os.path.isdir(args.out) else '; --force replaces it')
        )
    text = (_weights if args.what == 'weights' else _backbone)(args)
    print(f'{args.out}: {text}')


def _weights(args: argparse.Namespace) -> str:
    from mmssl.checkpoint import load_file, strip_module, weights_of
    from mmssl.checkpoint.matching import select_prefix
    from mmssl.commands.convert import write_weights

    if not args.out.endswith(('.safetensors', '.pth', '.pt')):
        raise ValueError(f'{args.out}: give a name that ends in .safetensors or .pth')
    weights = strip_module(
        weights_of(load_file(args.checkpoint, trust=args.trust_checkpoint), args.checkpoint)
    )
    if args.prefix:
        weights = select_prefix(weights, args.prefix, args.checkpoint)
    weights = {key: value for key, value in weights.items() if hasattr(value, 'untyped_storage')}
    if not weights:
        raise ValueError(f'{args.checkpoint} holds no weights')
    write_weights(weights, args.out, 'state_dict')
    return f'{len(weights)} weights, {sum(value.numel() for value in weights.values()):,} values'


def _backbone(args: argparse.Namespace) -> str:
    from mmssl.apis.export import export_backbone
    from mmssl.apis.models import find_entry, find_weights
    from mmssl.commands.features import RANDOM, build_model

    entry = find_entry(args.config)
    checkpoint = RANDOM if args.checkpoint == RANDOM else find_weights(args.checkpoint, entry)
    assert checkpoint is not None
    model, _ = build_model(str(entry.path), checkpoint, args.cfg_options, trust=args.trust_checkpoint)
    return export_backbone(model.eval(), args.out, args.to, args.force)
