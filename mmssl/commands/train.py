"""``mmssl train``: train any config of mmssl or of a toolbox."""

import argparse

from mmssl.commands.arguments import add_common_arguments, add_config

HELP = 'train a config: pre-training, fine-tuning, detection, segmentation'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from this checkpoint, or from the newest complete one in the work directory',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='mixed precision: bfloat16 (default, CPU and GPU) or float16 (GPU)',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the blocks of transformers, or else the backbone, with torch.compile',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate linearly with the number of images in a step',
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='train N epochs, with the whole schedule scaled to that length',
    )
    parser.add_argument(
        '--iters', type=int, metavar='N', help='train N iterations, with the whole schedule scaled likewise'
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument(
        '--force', action='store_true', help='train even if another run uses the same work directory'
    )
    parser.add_argument(
        '--verbose', action='store_true', help='show all that is logged: environment, config, hooks, notes'
    )


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: Config and data do not fit; no files are left
            behind.
        TrainingError: The run failed after its first step; checkpoints and logs are kept.
    """
    from mmssl.apis.training import train
    from mmssl.engine.screen import quiet_screen

    with quiet_screen(args.config, args.verbose):
        train(args)
