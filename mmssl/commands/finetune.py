"""``mmssl finetune``: from labels to a trained model, by a config that is written and then trained."""

import argparse

from mmssl.commands.arguments import add_cfg_options, add_trust

HELP = 'train a classifier, detector or segmenter on your labels: writes a config, and trains it'
TASKS = ('classify', 'detect', 'instance', 'semantic')
FORMATS = ('coco', 'voc', 'yolo', 'png', 'classes', 'csv', 'labelme', 'cvat', 'label-studio')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='pre-trained checkpoint, or random')
    parser.add_argument(
        '--task', required=True, choices=TASKS, metavar='TASK', help=f'one of {", ".join(TASKS)}'
    )
    parser.add_argument('--data', required=True, metavar='DIR', help='folder or file of your labels')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='folder for everything (default: work_dirs/finetune-TASK-DATA)'
    )
    parser.add_argument('--dry-run', action='store_true', help='write the config and do not train')
    parser.add_argument(
        '--backbone-config',
        metavar='CONFIG',
        help='config that names the backbone, if the checkpoint does not hold it',
    )
    parser.add_argument(
        '--recipe',
        metavar='RECIPE',
        help='sam-lora: masks from boxes by Segment Anything, of the task instance (default: the usual one)',
    )
    parser.add_argument('--freeze', action='store_true', help='train the classifier only (linear probing)')
    parser.add_argument('--epochs', type=int, metavar='N', help='passes over the images')
    parser.add_argument('--iters', type=int, metavar='N', help='steps, in place of --epochs')
    parser.add_argument('--batch-size', type=int, metavar='N', help='images of a step')
    parser.add_argument(
        '--size', type=int, metavar='N', help='longest side of the images as the model gets them, in pixels'
    )
    parser.add_argument(
        '--stats',
        metavar='FILE.py',
        help='what mmssl stats --out has written of images that are not 8-bit RGB: channels, range, mean and '
        'std (default: as for pre-training)',
    )
    parser.add_argument(
        '--format', choices=FORMATS, metavar='FORMAT', help='format of the labels, if there are several'
    )
    parser.add_argument(
        '--ignore',
        type=int,
        nargs='+',
        default=[],
        metavar='N',
        help='values of label maps to ignore, besides 255 and those named void',
    )
    parser.add_argument(
        '--by-folder', action='store_true', help='split by folders: a video or a patient stays in one part'
    )
    parser.add_argument(
        '--labels',
        metavar='N,N,...',
        help='few-label curve: a run for each number of training images, such as 10,50,1%%,10%%,all',
    )
    parser.add_argument('--seeds', metavar='N,N,...', default='0', help='a run for each seed (default: 0)')
    parser.add_argument(
        '--compare',
        metavar='CHECKPOINT',
        help='train from this start too: random, or another pre-trained checkpoint',
    )
    parser.add_argument(
        '--pseudo',
        metavar='FILE',
        help='predictions of mmssl predict on images without labels, which are trained on, too; those it '
        'marks as uncertain are ignored',
    )
    add_cfg_options(parser, 'the written config')
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Write the config and train it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Labels, backbone and task do not fit.
        TrainingError: The run failed after its first step; checkpoints and logs are kept.
    """
    from mmssl.apis.finetune_run import finetune

    names = [
        'backbone_config',
        'recipe',
        'freeze',
        'epochs',
        'iters',
        'batch_size',
        'size',
        'stats',
        'format',
        'by_folder',
        'labels',
        'compare',
        'pseudo',
    ]
    finetune(
        args.checkpoint,
        args.task,
        args.data,
        args.work_dir,
        **{name: getattr(args, name) for name in names},
        ignore=tuple(args.ignore),
        seeds=_numbers(args.seeds),
        trust=args.trust_checkpoint,
        cfg_options=tuple(args.cfg_options),
        dry_run=args.dry_run,
        report=print,
    )


def _numbers(text: str) -> tuple[int, ...]:
    from mmssl.errors import UserError

    try:
        return tuple(int(part) for part in text.split(','))
    except ValueError:
        raise UserError(f'--seeds {text} must be whole numbers with commas between them') from None
