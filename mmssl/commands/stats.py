"""``mmssl stats``: the values of each channel of a data set, and the settings that a config takes of them."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import (
    add_cfg_options,
    add_data,
    add_launcher,
    add_progress,
    add_workers,
    check_minimums,
    make_parent,
    process_of,
    progress_hidden,
)

if TYPE_CHECKING:
    from mmssl.apis.channel_stats import ValueSource

HELP = 'measure the values of each channel of images: range, percentiles, mean, std, no data'
DESCRIPTION = (
    'Measure the values of each channel of images: range, percentiles, mean, standard deviation and the '
    'share of no data. --out writes the value_range, mean and std that configs take.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('source', metavar='CONFIG|DIR', help='a config, or a folder or archive of images')
    add_data(parser)
    parser.add_argument(
        '--out', metavar='FILE.py', help='write the settings as a file for the _base_ of a config'
    )
    parser.add_argument('--json', action='store_true', help='print everything as JSON')
    parser.add_argument(
        '--clip',
        type=float,
        default=0.1,
        metavar='PERCENT',
        help='share of the values below, and above, the range that is proposed (default: 0.1; 0 for none)',
    )
    parser.add_argument('--no-data', type=float, metavar='VALUE', help='a value that stands for no data')
    parser.add_argument('--channels', metavar='N,N,...', help='channels to read, from 0 (default: all)')
    parser.add_argument(
        '--pages',
        metavar='N|channels|images',
        help='what the pages of a stack are (default: an error names it)',
    )
    parser.add_argument(
        '--channel-axis', type=int, choices=(0, -1), help='where the channels of NumPy arrays are'
    )
    add_workers(parser)
    add_launcher(parser)
    add_progress(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the images, print a table or JSON, and write the settings.

    Returns:
        1 if files could not be read, else 0.

    Raises:
        FileNotFoundError, ValueError: There are no such images, or an argument is out of range.
    """
    check_minimums(args, workers=0, clip=0)
    if args.clip >= 50:
        raise ValueError(f'--clip {args.clip:g} must be below 50: it is a share in percent at each end')
    if args.out and Path(args.out).suffix != '.py':
        raise ValueError(f'--out {args.out}: give a name that ends in .py')
    from mmssl.apis.channel_stats import measure
    from mmssl.commands.stats_report import as_dict, as_json, as_snippet, as_table

    with contextlib.redirect_stdout(sys.stderr):  # the toolboxes print while they are imported and read
        source = _source(args)
    with _processes(args) as rank:
        statistics = measure(source, args.clip, args.workers, not progress_hidden(args))
    if rank:
        return int(bool(statistics.bad))
    if args.out:
        from mmssl.checkpoint import write_text

        make_parent(args.out)
        write_text(Path(args.out), as_snippet(statistics, args.source, source.settings))
    print(as_json(as_dict(statistics)) if args.json else as_table(statistics, args.source))
    if args.out and not args.json:
        print(f'\n{args.out}: value_range, mean and std for the _base_ of a config')
    return int(bool(statistics.bad))


@contextlib.contextmanager
def _processes(args: argparse.Namespace) -> Iterator[int]:
    """Connect the processes of a launcher, and yield the rank of this one."""
    rank, world_size, _ = process_of(args.launcher, 'cpu')
    if world_size == 1:
        yield rank
        return
    import torch

    from mmssl.engine.launch import leave_process_group

    if 'MASTER_ADDR' not in os.environ:
        raise ValueError(
            f'--launcher {args.launcher}: the {world_size} processes need MASTER_ADDR, the name of the first '
            'machine: export MASTER_ADDR=$(scontrol show hostnames | head -n 1)'
        )
    os.environ.setdefault('MASTER_PORT', '29500')
    torch.distributed.init_process_group('gloo', rank=rank, world_size=world_size)
    yield rank
    leave_process_group()


def _source(args: argparse.Namespace) -> 'ValueSource':
    from mmssl.apis.channel_stats import source_of_folder

    settings = dict(
        channels=_channels(args.channels), pages=_pages(args.pages), channel_axis=args.channel_axis
    )
    if _is_config(args.source):
        return _source_of_config(args, settings)
    return source_of_folder(args.data or args.source, args.no_data, **settings)


def _is_config(source: str) -> bool:
    return source.endswith('.py')


def _channels(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise ValueError(f'--channels {text}: give numbers from 0, such as 3,2,1') from None


def _pages(text: str | None) -> int | str | None:
    if text in (None, 'channels', 'images'):
        return text
    if text.isdigit():
        return int(text)
    raise ValueError(f'--pages {text}: give the number of a page from 0, channels, or images')


def _source_of_config(args: argparse.Namespace, settings: dict) -> 'ValueSource':
    from mmengine.registry import init_default_scope

    from mmssl.apis.channel_stats import source_of_dataset
    from mmssl.commands.check_data import _load
    from mmssl.data.checks.settings import innermost_datasets
    from mmssl.data.reader_settings import settings_of_pipeline
    from mmssl.registry import DATASETS

    cfg = _load(argparse.Namespace(**vars(args), config=args.source))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = cfg.get('train_dataloader')
    if not loader or not loader.get('dataset'):
        raise ValueError(f'{args.source} has no train_dataloader')
    dataset_settings = next(iter(innermost_datasets(loader.dataset.to_dict())))
    own = settings_of_pipeline(dataset_settings.get('pipeline') or [])
    own.pop('value_range', None)
    dataset = DATASETS.build({**dataset_settings, 'pipeline': []})
    given = {key: value for key, value in settings.items() if value is not None}
    return source_of_dataset(dataset, args.no_data, **{**own, **given})
