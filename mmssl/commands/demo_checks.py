"""Checks of the arguments of ``mmssl demo`` before anything is loaded."""

import argparse
import os

from mmssl.commands.arguments import check_minimums
from mmssl.commands.picture_arguments import picture_settings
from mmssl.commands.sam_arguments import generator_settings


def check_arguments(args: argparse.Namespace) -> None:
    """Check the arguments.

    Raises:
        FileNotFoundError: A checkpoint does not exist.
        ValueError: A value is out of range, or one of a pair of options is missing.
    """
    from mmssl.hints import nearest_path

    picture_settings(args)
    for option, pair in (('--detector', args.detector), ('--mae', args.mae)):
        if pair and not os.path.isfile(pair[1]):
            raise FileNotFoundError(
                f'{option} {pair[0]} {pair[1]}: the checkpoint does not exist{nearest_path(pair[1])}'
            )
    check_minimums(args, max_upload=1, max_pixels=1e-6)
    _check_labelling(args)
    _check_access(args.host, args.auth)
    if args.port is not None and not 0 < args.port < 65536:
        raise ValueError(f'--port {args.port} must be from 1 to 65535')
    if 'tile' in generator_settings(args):
        raise ValueError('--tile is of mmssl segment and mmssl annotate; the page segments whole images only')


def _check_labelling(args: argparse.Namespace) -> None:
    if bool(args.data) != bool(args.out):
        present, missing = ('--data', '--out') if args.data else ('--out', '--data')
        value = args.data or args.out
        raise ValueError(f'{present} {value} needs {missing}: mmssl demo --data photos --out labels')
    for option in ('order', 'classes', 'prefill'):
        if getattr(args, option) is not None and not args.data:
            raise ValueError(f'--{option} is of the labelling page: add --data DIR --out DIR')
    if args.data and (args.mae or args.detector):
        option = '--mae' if args.mae else '--detector'
        raise ValueError(f'{option} is not of the labelling page; leave out --data and --out')


def _check_access(host: str, auth: str | None) -> None:
    from mmssl.demo_page.guard import is_loopback

    if auth is not None:
        user, _, password = auth.partition(':')
        if not user or not password:
            raise ValueError('--auth must be USER:PASSWORD, both of at least one character')
    elif not is_loopback(host):
        raise ValueError(
            f'--host {host} admits everybody who reaches this machine: add --auth USER:PASSWORD, or keep'
            ' 127.0.0.1 and forward its port (ssh -L 7860:127.0.0.1:7860)'
        )
