"""``mmssl visualize detections|scores|sampling|curves``: what a detector finds, R-FCN's score maps, where a deformable convolution reads,
and the curves of runs."""

import argparse

HELP = (
    'draw detections, score maps of a class, sampling points of a deformable convolution, or training curves'
)
PICTURES = {
    'detections': 'boxes with their classes and scores over images',
    'scores': "the k x k position-sensitive score maps of a class (R-FCN's)",
    'sampling': 'the points that a deformable convolution reads',
    'curves': 'training curves of several runs in one picture',
}
MOST_POINTS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command: a picture each."""
    from mmssl.commands import curves

    kinds = parser.add_subparsers(dest='what', metavar='PICTURE', required=True, title='pictures')
    for name, text in PICTURES.items():
        kind = kinds.add_parser(name, help=text, description=f'draw {text}')
        if name == 'curves':
            curves.add_arguments(kind)
            continue
        kind.add_argument('config', help='config of a detector: a path, or its name below configs/')
        kind.add_argument('checkpoint', help="weights of the detector; 'random' for a random initialisation")
        kind.add_argument(
            'images',
            nargs='+',
            metavar='IMAGE',
            help='image files' if name == 'detections' else 'an image file',
        )
        kind.add_argument('--out', required=True, metavar='PNG', help='picture to write')
        if name == 'detections':
            kind.add_argument(
                '--score-thr',
                type=float,
                default=0.3,
                metavar='SCORE',
                help='least score to draw (default: 0.3)',
            )
        elif name == 'scores':
            kind.add_argument(
                '--class',
                dest='class_name',
                metavar='NAME',
                help='the class (default: that of the best detection)',
            )
            kind.add_argument(
                '--box',
                type=float,
                nargs=4,
                metavar=('X1', 'Y1', 'X2', 'Y2'),
                help='the RoI in pixels of the image (default: the best detection of the class)',
            )
        else:
            kind.add_argument(
                '--point',
                type=float,
                nargs=2,
                action='append',
                metavar=('X', 'Y'),
                help='where to look, in pixels of the image; may be repeated (default: middles of the best detections)',
            )
            kind.add_argument(
                '--layer', metavar='NAME', help='the deformable convolution (default: the last one)'
            )
            kind.add_argument(
                '--levels',
                type=int,
                default=1,
                metavar='N',
                help='follow the taps back through up to N deformable convolutions of one size (default: 1)',
            )
        kind.add_argument('--seed', type=int, default=0, help='of a random initialisation')
        kind.add_argument(
            '--cfg-options',
            nargs='+',
            default=[],
            metavar='KEY=VALUE',
            help='override settings of the config',
        )
        kind.add_argument(
            '--trust-checkpoint', action='store_true', help='load a checkpoint that holds pickled code'
        )


def run(args: argparse.Namespace) -> None:
    """Draw.

    Raises:
        FileNotFoundError: no such config, checkpoint or image.
        ValueError: the model has nothing of the kind, the checkpoint does not fit, or a name, box or point is
            none.
    """
    import os
    from pathlib import Path

    from mmssl.commands.features import RANDOM
    from mmssl.hints import nearest_path

    if args.what == 'curves':
        from mmssl.commands import curves

        return curves.run(args)
    for path in (*([] if args.checkpoint == RANDOM else [args.checkpoint]), *args.images):
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'{path} does not exist{nearest_path(path)}'
                if not os.path.exists(path)
                else f'{path} is not a file'
            )
    if Path(args.out).suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
        raise ValueError(f'--out {args.out}: give a name that ends in .png')
    if args.what != 'detections' and len(args.images) > 1:
        raise ValueError(f'visualize {args.what} takes one image, not {len(args.images)}')
    if getattr(args, 'levels', 1) < 1:
        raise ValueError(f'--levels {args.levels} must be at least 1')
    detector = Detector(args)
    picture, text = {'detections': draw_detections, 'scores': draw_scores, 'sampling': draw_sampling}[
        args.what
    ](detector, args)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    picture.save(args.out)
    print(f'{args.out}: {text}')


class Detector:
    """The model of a config with its weights, the names of its classes, and its way to read images.

    Raises:
        ValueError: the config is of no detector, or the checkpoint does not fit.
    """

    def __init__(self, args: argparse.Namespace):
        from mmengine.registry import TRANSFORMS

        from mmssl.commands.features import RANDOM, build_model
        from mmssl.engine.launch import load_config

        cfg = load_config(args.config, args.cfg_options)
        if cfg.get('default_scope') != 'mmdet' or not cfg.get('test_dataloader'):
            raise ValueError(
                f'{args.config} is of no detector with data to test on (default_scope={cfg.get("default_scope")!r}); '
                'give a config of mmdet or of configs/rfcn'
            )
        self.model, _ = build_model(args.config, RANDOM, args.cfg_options, args.seed)
        found = (
            None if args.checkpoint == RANDOM else _load(self.model, args.checkpoint, args.trust_checkpoint)
        )
        self.model.eval()
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        self.classes = _classes(found, dataset, self.model)
        steps = [
            step
            for step in dataset.pipeline
            if not str(step['type']).endswith(('LoadAnnotations', 'LoadLabelMap'))
        ]
        self.pipeline = [TRANSFORMS.build(step) for step in steps]

    def read(self, path: str) -> tuple:
        """An image as (H, W, 3) RGB, and the batch of one that the model tests."""
        try:
            results = self.pipeline[0](dict(img_path=path, img_id=0))
        except AssertionError:  # what the host says to bytes that are no image
            results = None
        if results is None:
            raise ValueError(f'{path} cannot be decoded')
        original = results['img'][..., ::-1].copy()
        for step in self.pipeline[1:]:
            results = step(results)
        return original, dict(inputs=[results['inputs']], data_samples=[results['data_samples']])

    def test(self, batch: dict):
        """Detections of a batch of one, in pixels of the original image, best first."""
        import torch

        with torch.no_grad():
            found = self.model.test_step(dict(batch))[0].pred_instances.cpu()
        return found[found.scores.argsort(descending=True, stable=True)]

    def seen(self, batch: dict) -> tuple:
        """The image as the network saw it, (H, W, 3) RGB without padding; its (x, y) scale; and the height with padding."""
        pixels = (
            batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1].round().clip(0, 255).astype('uint8').copy()
        )
        original = batch['data_samples'][0].ori_shape
        padded = self.model.data_preprocessor(dict(inputs=list(batch['inputs'])), False)['inputs'].shape[2]
        return pixels, (pixels.shape[1] / original[1], pixels.shape[0] / original[0]), padded


def _load(model, path: str, trust: bool) -> dict:
    from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of

    checkpoint = load_file(path, trust=trust)
    report = load_weights(model, dict(strip_module(weights_of(checkpoint, path))))
    if report.missing or report.mismatched:
        raise ValueError(f'{path} is not the checkpoint of this detector:\n{report}')
    return checkpoint


def _classes(checkpoint: dict | None, dataset: dict, model) -> list[str]:
    """Names of the classes: of the checkpoint, of the data set's settings, of its class; numbers where nobody knows."""
    from mmengine.registry import DATASETS

    meta = (checkpoint or {}).get('meta') or {}
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None) or getattr(model, 'bbox_head', None)
    count = getattr(head, 'num_classes', None)
    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    for names in (
        (meta.get('dataset_meta') or {}).get('classes'),
        (dataset.get('metainfo') or {}).get('classes'),
        getattr(kind, 'METAINFO', {}).get('classes'),
    ):
        names = [names] if isinstance(names, str) else names
        if names and count in (None, len(names)):
            return list(names)
    return [str(number) for number in range(count or 1000)]


def draw_detections(detector: Detector, args: argparse.Namespace) -> tuple:
    """Picture and text of ``mmssl visualize detections``."""
    from mmssl.visualization import detection

    pictures, count = [], 0
    for path in args.images:
        image, batch = detector.read(path)
        found = detector.test(batch)
        found = found[found.scores >= args.score_thr]
        count += len(found)
        boxes, labels, scores = (found[name].numpy() for name in ('bboxes', 'labels', 'scores'))
        pictures.append(detection.draw_detections(image, boxes, labels, scores, detector.classes))
    return detection.sheet(
        pictures
    ), f'{len(pictures)} images, {count} objects with a score of {args.score_thr:g} or more'


def draw_scores(detector: Detector, args: argparse.Namespace) -> tuple:
    """Picture and text of ``mmssl visualize scores``."""
    from mmssl.hints import nearest
    from mmssl.visualization import detection

    head = detection.position_sensitive_head(detector.model)
    image, batch = detector.read(args.images[0])
    found = []
    (maps,) = detection.record([head.rfcn_cls], lambda: found.append(detector.test(batch)))
    found = found[0]
    if args.class_name is None and not len(found):
        raise ValueError(
            f'nothing was found in {args.images[0]}; name a class: --class {detector.classes[0]}'
        )
    if args.class_name is not None and args.class_name not in detector.classes:
        near = nearest(args.class_name, detector.classes)
        raise ValueError(f'--class {args.class_name!r} is none of {", ".join(detector.classes)}{near}')
    label = int(found.labels[0]) if args.class_name is None else detector.classes.index(args.class_name)
    seen, scale, padded = detector.seen(batch)
    box, text = args.box, 'the given box'
    if box is None:
        found = found[found.labels == label]
        box = found.bboxes[0].tolist() if len(found) else None
        text = f'score {found.scores[0]:.2f}' if len(found) else 'not found'
    elif not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f'--box {" ".join(map(str, box))} has no area; give X1 Y1 X2 Y2')
    if box is not None:
        box = [side * scale[axis % 2] for axis, side in enumerate(box)]
    own = maps[0].cpu().unflatten(0, (-1, head.k, head.k))[label]
    name = detector.classes[label]
    picture = detection.score_picture(
        seen, own, detection.stride_of(padded, own.shape[2]), box, f'{name}, {text}'
    )
    return picture, f'{head.k} x {head.k} score maps of {name}, {text}'


def draw_sampling(detector: Detector, args: argparse.Namespace) -> tuple:
    """Picture and text of ``mmssl visualize sampling``."""
    import torch

    from mmssl.hints import nearest
    from mmssl.visualization import detection

    layers = detection.deformable_layers(detector.model)
    names = list(layers)
    last = args.layer or names[-1]
    if last not in layers:
        raise ValueError(
            f'--layer {last!r} is no deformable convolution{nearest(last, names)}; there are {", ".join(names)}'
        )
    _, batch = detector.read(args.images[0])
    found = []
    offsets = detection.record(
        [layer.conv_offset for layer in layers.values()], lambda: found.append(detector.test(batch))
    )
    moved = {name: value[0].cpu() for name, value in zip(names, offsets, strict=True)}
    chain = [last]
    for name in reversed(names[: names.index(last)]):
        if (
            len(chain) == args.levels
            or moved[name].shape[1:] != moved[last].shape[1:]
            or max(layers[chain[0]].stride) > 1
        ):
            break
        chain.insert(0, name)
    seen, scale, padded = detector.seen(batch)
    places_of_boxes = [
        ((box[0] + box[2]).item() / 2, (box[1] + box[3]).item() / 2) for box in found[0].bboxes[:MOST_POINTS]
    ]
    points = args.point or places_of_boxes or [(seen.shape[1] / scale[0] / 2, seen.shape[0] / scale[1] / 2)]
    cells_out = detection.stride_of(padded, moved[last].shape[1])
    first = layers[chain[0]]
    places, groups, drawn = [], [], []
    for x, y in points:
        x, y = x * scale[0], y * scale[1]
        if not (0 <= x < seen.shape[1] and 0 <= y < seen.shape[0]):
            raise ValueError(f'--point {x / scale[0]:g} {y / scale[1]:g} is outside of the image')
        cell = torch.tensor([y, x]).div(cells_out).round().long()
        cell = torch.minimum(cell, torch.tensor(moved[last].shape[1:]) - 1)
        found_places, kinds = detection.stacked_places(
            [layers[name] for name in chain], [moved[name] for name in chain], cell
        )
        places.append(found_places)
        groups.append(kinds)
        drawn.append((int(cell[1]) * cells_out, int(cell[0]) * cells_out))
    titles = [
        f'{len(found_places)} places for ({x:.0f}, {y:.0f})'
        for found_places, (x, y) in zip(places, points, strict=True)
    ]
    picture = detection.sampling_picture(seen, drawn, places, groups, cells_out // max(first.stride), titles)
    return picture, f'{len(points)} points, {" <- ".join(reversed(chain))}'
