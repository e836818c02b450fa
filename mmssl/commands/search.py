"""``mmssl search``: the images most similar to another one."""

import argparse
import json
import os

from mmssl.commands.arguments import check_files, check_minimums
from mmssl.commands.select import add_features, add_model, add_sheet, check_sheet, model_of, model_options

HELP = 'find the images that are most similar to an image, by their features'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_features(parser)
    parser.add_argument('image', metavar='IMAGE', help='image to search for, of the file or another one')
    parser.add_argument('--number', type=int, default=10, metavar='K', help='number of results (default: 10)')
    parser.add_argument('--json', action='store_true', help='print JSON: {"image": ..., "results": [...]}')
    add_sheet(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Search, and print the results.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of features, or the model is needed.
    """
    check_minimums(args, number=1)
    check_sheet(args)
    check_files([args.features])
    from mmssl.apis.neighbours import search

    results = search(
        args.features, args.image, args.number, model_of(args), args.sheet, **model_options(args)
    )
    if args.json:
        content = dict(image=os.path.abspath(args.image), results=[result._asdict() for result in results])
        print(json.dumps(content, indent=2))
        return 0
    for result in results:
        print(f'{result.similarity:.4f}  {result.path}')
    return 0
