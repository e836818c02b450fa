"""``mmssl frames``: frames of videos as images for training."""

import argparse
import sys

from mmssl.commands.arguments import add_progress, check_output_folder, progress_hidden

HELP = 'write frames of videos as images, one a second or at any other interval'
DESCRIPTION = (
    'Write frames of videos as images, which --data of the other commands reads. '
    'An interrupted run continues; each image is written as a whole or not at all.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('videos', nargs='+', metavar='VIDEO', help='videos, or folders that hold some')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder to write; a folder in it per video'
    )
    parser.add_argument(
        '--every', default='1s', metavar='TIME', help='time between frames: 500ms, 1s, 2m (default: 1s)'
    )
    parser.add_argument(
        '--skip-similar',
        nargs='?',
        type=float,
        const=1.0,
        default=0.0,
        metavar='PERCENT',
        help='skip frames of which less has changed since the last one written (1 %% of the picture if no '
        'number is given)',
    )
    parser.add_argument(
        '--to', choices=('jpg', 'png'), default='jpg', help='format of the images (default: jpg)'
    )
    add_progress(parser)


def run(args: argparse.Namespace) -> int:
    """Write the frames.

    Returns:
        1 if a video could not be decoded, or not as a whole; else 0.

    Raises:
        FileNotFoundError, ValueError: There is no such video, or an argument is out of range.
    """
    from pathlib import Path

    check_output_folder(Path(args.out))
    from mmssl.apis.video_frames import frames

    result = frames(args.videos, args.out, args.every, args.skip_similar, args.to, not progress_hidden(args))
    for line in result.damaged:
        print(f'mmssl frames: {line}', file=sys.stderr)
    notes = [f'{result.existing} there before'] * bool(result.existing)
    notes += [f'{result.similar} similar ones skipped'] * bool(result.similar)
    videos = '1 video' if result.videos == 1 else f'{result.videos} videos'
    print(f'{args.out}: {result.written} images of {videos}' + (f' ({", ".join(notes)})' if notes else ''))
    return int(bool(result.damaged))
