"""``mmssl init``: four questions, then a config and the command that trains it."""

import argparse
import sys

HELP = 'answer four questions, and get a config for your images and the command that trains it'
GOALS = ('pretrain', 'classify', 'detect', 'instance', 'semantic')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the answers, which are asked for on a terminal if they are not given."""
    parser.add_argument('data', nargs='?', metavar='DIR', help='folder of images, with labels or without')
    parser.add_argument('--want', choices=GOALS, metavar='GOAL', help=f'one of {", ".join(GOALS)}')
    parser.add_argument(
        '--start',
        metavar='START',
        help='moco, mae or dino to pre-train by; for labels, a pre-trained checkpoint, or random',
    )
    parser.add_argument('--epochs', type=int, metavar='N', help='passes over the images')
    parser.add_argument(
        '--out', metavar='DIR', help='folder of config and run (default: work_dirs/GOAL-DATA)'
    )
    parser.add_argument('--yes', action='store_true', help='ask nothing; take what would be suggested')


def run(args: argparse.Namespace) -> None:
    """Ask for what is missing, write the config, and print the command.

    Raises:
        FileNotFoundError: There is no such folder, or no such checkpoint.
        ValueError: An answer is missing where nobody can be asked, or images and goal do not fit.
    """
    from mmssl.apis.starting_config import METHODS, PRETRAIN, init, suggest_goal, suggest_start

    asked = not args.yes and sys.stdin.isatty()
    data = args.data or (_ask('Where are the images (folder, archive or file of labels)?') if asked else '')
    if not data:
        raise ValueError('no folder of images is given; type `mmssl init DIR`')
    goal = args.want or suggest_goal(data)
    if asked and not args.want:
        goal = _ask(f'What do you want ({", ".join(GOALS)})?', goal)
    start = args.start or suggest_start(goal)
    if asked and not args.start:
        choices = ', '.join(METHODS) if goal == PRETRAIN else 'a pre-trained checkpoint, or random'
        start = _ask(f'Start from ({choices})?', start)
    epochs = args.epochs
    if asked and epochs is None:
        epochs = _number(_ask('How many passes over the images (empty: as the recipe)?', ''))
    config, command = init(data, goal, start, epochs, args.out)
    print(f'config:  {config}\ncheck:   mmssl check-data {data}\ntrain:   {command}')


def _ask(question: str, default: str = '') -> str:
    """Return the answer to a question; the default for an empty one."""
    answer = input(f'{question} [{default}] ' if default else f'{question} ').strip()
    return answer or default


def _number(answer: str) -> int | None:
    if not answer:
        return None
    if not answer.isdigit():
        raise ValueError(f'{answer!r} is not a number of passes; give a whole number such as 40')
    return int(answer)
