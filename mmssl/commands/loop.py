"""``mmssl loop``: rounds of choosing, pre-filling, correcting and training, which can stop anywhere."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import add_device, add_trust, check_minimums
from mmssl.commands.default_models import find_sam
from mmssl.commands.sam_arguments import MODELS, add_generator_arguments, generator_settings

if TYPE_CHECKING:
    from mmssl.apis.loop_state import LoopState, Round

HELP = 'label images in rounds: choose, pre-fill masks, correct them, train; goes on where it stopped'
SETTINGS = (
    'images', 'model', 'checkpoint', 'features', 'number', 'how', 'classes', 'calibrate', 'precision',
    'min_iou', 'max_clicks', 'iters', 'cfg_options',
)  # fmt: skip
# as mmssl.apis.loop_state has it, whose import takes a second
STATE_FILE = 'state.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; the settings are needed once, and default to those of the first call."""
    parser.add_argument('folder', metavar='DIR', help='folder of the loop, with its state and its rounds')
    group = parser.add_argument_group('settings, for the first call')
    group.add_argument('--images', metavar='DIR', help='folder of images, searched with its subfolders')
    group.add_argument(
        '--model',
        metavar='KIND',
        help=f'{MODELS} (a path, or its name below configs/); default: sam-mini, a small one',
    )
    group.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='weights of the first round; auto downloads the released file of KIND',
    )
    group.add_argument(
        '--features', metavar='FILE', help='features of the images, which choose them (default: by chance)'
    )
    group.add_argument('--number', type=int, metavar='N', help='images of a round (default: 20)')
    group.add_argument(
        '--how', choices=('diverse', 'typical', 'outliers'), help='how they are chosen (default: typical)'
    )
    group.add_argument(
        '--classes', metavar='LABELS', help='labelled masks that give those of the first round classes'
    )
    group.add_argument(
        '--calibrate',
        metavar='LABELS',
        help='labelled images that measure the confidence of masks (default: validation images of the rounds '
        'before)',
    )
    group.add_argument(
        '--precision', type=float, metavar='P', help='share of right pre-filled masks (default: 0.95)'
    )
    group.add_argument('--min-iou', type=float, metavar='X', help='IoU of right masks (default: 0.75)')
    group.add_argument(
        '--max-clicks', type=int, metavar='N', help='clicks after which a mask is given up (default: 10)'
    )
    group.add_argument(
        '--iters', type=int, metavar='N', help='training steps of a round (default: by a rule)'
    )
    group.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='override settings of the training config'
    )
    add_device(parser)
    add_trust(parser)
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the loop until it needs a person, and print the rounds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Settings are missing or differ from those of the first call, or labels are wrong.
        OSError: Another process runs the loop.
    """
    check_minimums(args, number=2, max_clicks=1, iters=1)
    if not (Path(args.folder) / STATE_FILE).exists():
        if not args.images:
            raise ValueError(f'{args.folder} is a new loop, which needs --images DIR')
        find_sam(args, automatic=True)
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    generator = generator_settings(args)
    if generator:
        settings['generator'] = generator
    from mmssl.apis.loading import pick_device
    from mmssl.apis.loop import run_loop

    state = run_loop(args.folder, str(pick_device(args.device)), args.trust_checkpoint, print, **settings)
    print(format_rounds(state))
    return 0


def format_rounds(state: 'LoopState') -> str:
    """Return a table of the rounds."""
    header = ['round', 'images', 'pre-filled', 'accepted', 'edited', 'added', 'deleted', 'clicks', 'training']
    rows = [header, *(_row(each) for each in state.rounds)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return '\n'.join(
        '  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _row(each: 'Round') -> list[str]:
    changed = [str(each.changed.get(name, '-')) for name in ('accepted', 'edited', 'added', 'deleted')]
    clicks = '-' if each.clicks_per_mask is None else f'{each.clicks_per_mask:.2f}'
    gain = f'{each.before["clicks"]:.2f} to {each.after["clicks"]:.2f}' if each.after else '-'
    return [
        str(each.number),
        str(len(each.images)),
        str(each.shown.get('masks', '-')),
        *changed,
        clicks,
        gain,
    ]
