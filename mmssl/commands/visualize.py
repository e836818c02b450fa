"""``mmssl visualize``: detections, score maps, sampling points, receptive fields, and training curves."""

import argparse

from mmssl.commands import curves, receptive_field
from mmssl.commands.arguments import (
    add_cfg_options,
    add_trust,
    check_files,
    check_minimums,
    check_output_suffix,
    checkpoint_files,
    make_parent,
)
from mmssl.commands.picture_arguments import add_bands, reading_and_pictures

HELP = (
    'draw detections, score maps of a class, sampling points of a deformable convolution, or training curves'
)
FIGURES = {
    'detections': 'boxes with their classes and scores over images',
    'scores': "the k x k position-sensitive score maps of a class (R-FCN's)",
    'sampling': 'the points that a deformable convolution samples',
    'receptive-field': 'the pixels that change the central output of a backbone, by the gradient',
    'curves': 'training curves of several runs in one figure',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of each figure."""
    subparsers = parser.add_subparsers(dest='what', metavar='FIGURE', required=True, title='figures')
    for name, text in FIGURES.items():
        subparser = subparsers.add_parser(name, help=text, description=f'Draw {text}.')
        if name == 'curves':
            curves.add_arguments(subparser)
        elif name == 'receptive-field':
            receptive_field.add_arguments(subparser)
        else:
            _add_detector_arguments(subparser, name)


def _add_detector_arguments(parser: argparse.ArgumentParser, figure: str) -> None:
    parser.add_argument('config', help='config of a detector: a path, or its name below configs/')
    parser.add_argument('checkpoint', help="weights of the detector; 'random' for random weights")
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help='image files' if figure == 'detections' else 'an image file',
    )
    parser.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    if figure == 'detections':
        parser.add_argument(
            '--score-thr',
            type=float,
            default=0.3,
            metavar='SCORE',
            help='lowest score to draw (default: 0.3)',
        )
    elif figure == 'scores':
        parser.add_argument(
            '--class', dest='class_name', metavar='NAME', help='class (default: that of the best detection)'
        )
        parser.add_argument(
            '--box',
            type=float,
            nargs=4,
            metavar=('X1', 'Y1', 'X2', 'Y2'),
            help='region of interest in pixels of the image (default: the best detection of the class)',
        )
    else:
        _add_sampling_arguments(parser)
    parser.add_argument('--seed', type=int, default=0, help='seed of random weights (default: 0)')
    add_bands(parser)
    add_cfg_options(parser)
    add_trust(parser)


def _add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--point',
        type=float,
        nargs=2,
        action='append',
        metavar=('X', 'Y'),
        help='output position in pixels of the image; may be repeated (default: centers of the best '
        'detections)',
    )
    parser.add_argument('--layer', metavar='NAME', help='deformable convolution (default: the last one)')
    parser.add_argument(
        '--levels',
        type=int,
        default=1,
        metavar='N',
        help='follow the samples back through up to N deformable convolutions of one size (default: 1)',
    )


def run(args: argparse.Namespace) -> None:
    """Draw the figure.

    Raises:
        FileNotFoundError: The config, the checkpoint or an image does not exist.
        ValueError: The model lacks what the figure shows, the checkpoint does not fit, or a name, box or
            point is invalid.
    """
    if args.what == 'curves':
        return curves.run(args)
    if args.what == 'receptive-field':
        return receptive_field.run(args)
    check_files([*checkpoint_files(args.checkpoint), *args.images])
    check_output_suffix(args.out)
    if args.what != 'detections' and len(args.images) > 1:
        raise ValueError(f'visualize {args.what} takes one image, not {len(args.images)}')
    if args.what == 'sampling':
        check_minimums(args, levels=1)
    from mmssl.commands.detector_figures import Detector, draw_detections, draw_sampling, draw_scores
    from mmssl.data.pictures import showing

    draw = {'detections': draw_detections, 'scores': draw_scores, 'sampling': draw_sampling}[args.what]
    with showing(reading_and_pictures(args)[1]):
        figure, text = draw(Detector(args), args)
    make_parent(args.out)
    figure.save(args.out)
    print(f'{args.out}: {text}')
