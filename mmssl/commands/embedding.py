"""``mmssl embedding``: features of images as points in the plane."""

HELP = 't-SNE, UMAP or PCA picture of the features of a checkpoint, coloured by class'
MOST_IMAGES = 2000
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.pdf', '.svg')


def add_arguments(parser) -> None:
    """Arguments of the command."""
    from types import SimpleNamespace

    from mmssl.commands import features as command

    other = ('--out', '--max-train', '--max-val')  # something else here
    command.add_arguments(
        SimpleNamespace(
            add_argument=lambda name, **settings: (
                None if name in other else parser.add_argument(name, **settings)
            )
        )
    )
    parser.add_argument('--out', required=True, metavar='PNG', help='picture to write')
    parser.add_argument(
        '--method',
        choices=['tsne', 'umap', 'pca'],
        default='tsne',
        help='umap needs umap-learn (default: tsne)',
    )
    parser.add_argument(
        '--split', choices=['train', 'val'], default='val', help='which images (default: val)'
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=MOST_IMAGES,
        metavar='N',
        help=f'show N images at most, of every class its share (default: {MOST_IMAGES})',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='show these classes only')
    parser.add_argument(
        '--perplexity',
        type=float,
        default=30.0,
        help='neighbours that t-SNE looks at; UMAP takes half (default: 30)',
    )


def run(args) -> int:
    """Draw.

    Raises:
        ValueError: an argument that makes no sense, or weights that do not fit.
        ImportError: the method needs a package that is not installed.
    """
    import os
    from pathlib import Path

    from mmssl.commands import features as command

    if args.max_images < 4:
        raise ValueError(f'--max-images {args.max_images} must be at least 4')
    args.max_train = args.max_val = None
    command.check_arguments(args)
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise ValueError(f'--out {args.out}: give a name that ends in .png')
    if not args.perplexity >= 2:
        raise ValueError(f'--perplexity {args.perplexity} must be at least 2')
    from mmssl.evaluation.labelled import labelled_images
    from mmssl.visualization.embedding import METHODS, check_method, embed, scatter

    check_method(args.method)
    device = command.pick_device(args.device)
    model, _ = command.build_model(
        args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint
    )
    images = labelled_images(args.data, command.image_size_for(args, model))[args.split == 'val']
    images = _only(images, args.classes).take(args.max_images, args.seed)
    features, labels = command.features_of(model, images, args, device)
    name = METHODS[args.method][0]
    figure = scatter(
        embed(features, args.method, args.seed, args.perplexity),
        labels,
        images.classes,
        f'{name} of {len(labels)} images: {Path(args.config).stem}, {Path(args.checkpoint).name}',
    )
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    figure.savefig(args.out)
    print(f'{args.out}: {name} of {len(labels)} images of {len(labels.unique())} classes')
    return 0


def _only(images, names: list[str] | None):
    """The images of some classes; all when None."""
    if not names:
        return images
    from mmssl.evaluation.labelled import LabelledImages
    from mmssl.hints import nearest

    for name in names:
        if name not in images.classes:
            raise ValueError(f'--classes: no class {name!r}{nearest(name, images.classes)}')
    wanted = {images.classes.index(name) for name in names}
    return LabelledImages(
        images.folder, images.indices[[label in wanted for label in images.labels.tolist()]]
    )
