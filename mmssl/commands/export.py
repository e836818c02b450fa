"""``mmssl export``: whole models as ONNX, backbones and weights for other programs."""

import argparse
import os
from collections import OrderedDict
from typing import Any

from mmssl.commands.arguments import add_cfg_options, add_trust
from mmssl.config import RANDOM

HELP = 'write a model as ONNX, a backbone for timm, torchvision or Hugging Face, a checkpoint as safetensors'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    subparsers = parser.add_subparsers(dest='what', metavar='WHAT', required=True, title='what to write')
    text = 'write the backbone of a model in the format of another library'
    backbone = subparsers.add_parser('backbone', help=text, description=f'{text.capitalize()}.')
    _add_backbone_arguments(backbone)
    text = 'write the weights of any checkpoint that mmssl reads, without optimizer and counters'
    weights = subparsers.add_parser('weights', help=text, description=f'{text.capitalize()}.')
    weights.add_argument('checkpoint', metavar='CHECKPOINT', help='file to read')
    weights.add_argument('out', metavar='OUT', help='file to write: .safetensors or .pth')
    weights.add_argument(
        '--prefix',
        metavar='PREFIX',
        help='write only the keys with this prefix, without it: --prefix backbone.',
    )
    text = 'write a classifier, segmentor or detector as ONNX, compare it with PyTorch, and write a script'
    model = subparsers.add_parser('model', help=text, description=f'{text.capitalize()} that runs it.')
    _add_model_arguments(model)
    for subparser in (backbone, weights, model):
        subparser.add_argument('--force', action='store_true', help='replace OUT if it is an existing file')
        add_trust(subparser)


def _add_backbone_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help='name of a config (mmssl list), or its path')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help="weights of the model or its backbone; 'random' for random weights",
    )
    parser.add_argument(
        'out',
        metavar='OUT',
        help='a folder for timm and hf, or a .pth or .safetensors file; a file for the others',
    )
    parser.add_argument(
        '--to',
        required=True,
        choices=['timm', 'torchvision', 'hf', 'safetensors', 'onnx'],
        metavar='LIBRARY',
        help="timm, torchvision, hf (Hugging Face), safetensors (the toolbox's names) or onnx",
    )
    add_cfg_options(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help='name of a config (mmssl list), or its path')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the model, or random')
    parser.add_argument('out', metavar='OUT.onnx', help='file to write; the script is OUT.py beside it')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='images to compare with PyTorch, 20 of a folder; without it three made-up ones',
    )
    parser.add_argument('--fp16', action='store_true', help='weights in half precision; inputs stay float32')
    parser.add_argument('--no-script', action='store_true', help='write the graph only')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Export.

    Raises:
        FileNotFoundError: The config or the checkpoint does not exist.
        FileExistsError: OUT exists.
        ValueError: The library has no such network, the checkpoint does not fit, no key has the prefix, or
            the model cannot be exported.
    """
    if args.what == 'model':
        print(f'{args.out}: {_export_model(args)}')
        return
    if os.path.isdir(args.out):
        raise FileExistsError(f'{args.out} exists; name another folder')
    if os.path.exists(args.out) and not args.force:
        raise FileExistsError(f'{args.out} exists; --force replaces it')
    text = _export_weights(args) if args.what == 'weights' else _export_backbone(args)
    print(f'{args.out}: {text}')


def _export_weights(args: argparse.Namespace) -> str:
    from mmssl.checkpoint import load_file, select_prefix, strip_module, weights_of
    from mmssl.checkpoint.weight_files import write_weights

    if not args.out.endswith(('.safetensors', '.pth', '.pt')):
        raise ValueError(f'{args.out}: give a name that ends in .safetensors or .pth')
    content = load_file(args.checkpoint, trust=args.trust_checkpoint)
    weights = strip_module(weights_of(content, args.checkpoint))
    if args.prefix:
        weights = select_prefix(weights, args.prefix, args.checkpoint)
    tensors: Any = OrderedDict(
        (key, value) for key, value in weights.items() if hasattr(value, 'untyped_storage')
    )
    if not tensors:
        raise ValueError(f'{args.checkpoint} holds no weights')
    if hasattr(weights, '_metadata'):  # versions of modules, grids of position tables
        tensors._metadata = weights._metadata
    weights = tensors
    write_weights(weights, args.out, 'state_dict')
    return f'{len(weights)} weights, {sum(value.numel() for value in weights.values()):,} values'


def _export_backbone(args: argparse.Namespace) -> str:
    from mmssl.apis.export import export_backbone
    from mmssl.apis.loading import build_model
    from mmssl.apis.models import find_weights
    from mmssl.config.catalogue import find_entry

    entry = find_entry(args.config)
    checkpoint = RANDOM if args.checkpoint == RANDOM else find_weights(args.checkpoint, entry)
    assert checkpoint is not None
    model, _ = build_model(str(entry.path), checkpoint, args.cfg_options, trust=args.trust_checkpoint)
    return export_backbone(model.eval(), args.out, args.to, args.force)


def _export_model(args: argparse.Namespace) -> str:
    from mmssl.apis.onnx_models.run import export_model

    exported = export_model(
        args.config,
        None if args.checkpoint == RANDOM else args.checkpoint,
        args.out,
        images=args.images,
        fp16=args.fp16,
        script=not args.no_script,
        force=args.force,
        trust=args.trust_checkpoint,
        options=args.cfg_options or (),
    )
    return str(exported)
