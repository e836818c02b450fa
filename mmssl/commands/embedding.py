"""``mmssl embedding``: features of images as points in the plane."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import check_minimums, check_output_suffix, make_parent
from mmssl.commands.features import (
    add_model_arguments,
    check_model_arguments,
    features_of,
    image_size_for,
    reading_of,
)

if TYPE_CHECKING:
    from mmssl.evaluation.labelled import LabelledImages

HELP = 'plot the features of a checkpoint by t-SNE, UMAP or PCA, colored by class'
MAX_IMAGES = 2000
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.pdf', '.svg')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    parser.add_argument(
        '--method',
        choices=['tsne', 'umap', 'pca'],
        default='tsne',
        help='projection; umap needs umap-learn (default: tsne)',
    )
    parser.add_argument(
        '--split', choices=['train', 'val'], default='val', help='images to use (default: val)'
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=MAX_IMAGES,
        metavar='N',
        help=f'show at most N images, balanced over the classes (default: {MAX_IMAGES})',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='show only these classes')
    parser.add_argument(
        '--perplexity',
        type=float,
        default=30.0,
        help='effective number of neighbors of t-SNE; UMAP uses half (default: 30)',
    )


def run(args: argparse.Namespace) -> int:
    """Draw the figure.

    Raises:
        ValueError: An argument is out of range, or the weights do not fit.
        ImportError: The method needs a package that is not installed.
    """
    check_minimums(args, max_images=4)
    check_model_arguments(args)
    check_output_suffix(args.out, SUFFIXES)
    check_minimums(args, perplexity=2)
    from mmssl.apis.loading import build_model, pick_device
    from mmssl.evaluation.labelled import labelled_images
    from mmssl.visualization.embedding import METHODS, check_method, embed, scatter

    check_method(args.method)
    device = pick_device(args.device)
    model, _ = build_model(args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint)
    images = labelled_images(args.data, image_size_for(args, model), **reading_of(args))[args.split == 'val']
    images = _select_classes(images, args.classes).take(args.max_images, args.seed)
    features, labels = features_of(model, images, args, device)
    method = METHODS[args.method][0]
    figure = scatter(
        embed(features, args.method, args.seed, args.perplexity),
        labels,
        images.classes,
        f'{method} of {len(labels)} images: {Path(args.config).stem}, {Path(args.checkpoint).name}',
    )
    make_parent(args.out)
    figure.savefig(args.out)
    print(f'{args.out}: {method} of {len(labels)} images of {len(labels.unique())} classes')
    return 0


def _select_classes(images: 'LabelledImages', names: list[str] | None) -> 'LabelledImages':
    """Return the images of the named classes; all if None."""
    if not names:
        return images
    from mmssl.evaluation.labelled import LabelledImages
    from mmssl.hints import nearest

    for name in names:
        if name not in images.classes:
            raise ValueError(f'--classes: no class {name!r}{nearest(name, images.classes)}')
    labels = {images.classes.index(name) for name in names}
    selected = [label in labels for label in images.labels.tolist()]
    return LabelledImages(images.folder, images.indices[selected])
