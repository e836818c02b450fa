"""Figures of a detector for ``mmssl visualize``: its detections, its score maps, its sampling points."""

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmssl.apis.detection import num_classes_of
from mmssl.apis.loading import build_model, load_all_weights
from mmssl.apis.toolbox import build_pipeline, class_info, innermost_dataset
from mmssl.config import RANDOM
from mmssl.data.pictures import show_pixels
from mmssl.hints import nearest

if TYPE_CHECKING:
    from PIL import Image

MAX_POINTS = 3


class Detector:
    """A detector with the pipeline of its test data, for one image at a time.

    Args:
        args: Arguments of the command.

    Raises:
        ValueError: The config is not of a detector with test data, or the checkpoint does not fit.
    """

    def __init__(self, args: argparse.Namespace):
        from mmssl.config.load import load_config

        cfg = load_config(args.config, args.cfg_options)
        if cfg.get('default_scope') != 'mmdet' or not cfg.get('test_dataloader'):
            raise ValueError(
                f'{args.config} is of no detector with data to test on '
                f'(default_scope={cfg.get("default_scope")!r}); give a config of mmdet or of configs/rfcn'
            )
        self.model: Any
        self.model, _ = build_model(args.config, RANDOM, args.cfg_options, args.seed)
        content = None
        if args.checkpoint != RANDOM:
            content = load_all_weights(self.model, args.checkpoint, args.trust_checkpoint)
        self.model.eval()
        dataset = innermost_dataset(cfg.test_dataloader.dataset)
        num_classes = num_classes_of(self.model)
        names = class_info(content, dataset, num_classes).names
        self.classes = list(names) or [str(label) for label in range(1000)]
        self.pipeline = build_pipeline(dataset['pipeline'])

    def read(self, path: str) -> tuple[np.ndarray, dict]:
        """Return an image as (H, W, 3) RGB, and the batch of one that the model takes."""
        try:
            results = self.pipeline[0](dict(img_path=path, img_id=0))
        except AssertionError:  # raised by mmdet for bytes that are not an image
            results = None
        if results is None:
            raise ValueError(f'{path} cannot be decoded')
        original = show_pixels(results['img'])
        for step in self.pipeline[1:]:
            results = step(results)
        return original, dict(inputs=[results['inputs']], data_samples=[results['data_samples']])

    @torch.no_grad()
    def detect(self, batch: dict) -> Any:
        """Return the detections of a batch of one in pixels of the original image, best first."""
        instances = self.model.test_step(dict(batch))[0].pred_instances.cpu()
        return instances[instances.scores.argsort(descending=True, stable=True)]

    def network_input(self, batch: dict) -> tuple[np.ndarray, tuple[float, float], int]:
        """Return the image as the network sees it.

        Returns:
            (H, W, 3) RGB without padding, its (x, y) scale, and its height with padding.
        """
        image = show_pixels(batch['inputs'][0].permute(1, 2, 0).numpy())
        height, width = batch['data_samples'][0].ori_shape[:2]
        padded = self.model.data_preprocessor(dict(inputs=list(batch['inputs'])), False)['inputs'].shape[2]
        return image, (image.shape[1] / width, image.shape[0] / height), padded


def draw_detections(detector: Detector, args: argparse.Namespace) -> 'tuple[Image.Image, str]':
    """Return the figure and the summary of ``mmssl visualize detections``."""
    from mmssl.visualization.detection import draw_detections as draw
    from mmssl.visualization.layout import tile_images

    tiles = []
    count = 0
    for path in args.images:
        image, batch = detector.read(path)
        instances = detector.detect(batch)
        instances = instances[instances.scores >= args.score_thr]
        count += len(instances)
        boxes, labels, scores = (instances[name].numpy() for name in ('bboxes', 'labels', 'scores'))
        tiles.append(draw(image, boxes, labels, scores, detector.classes))
    text = f'{len(tiles)} images, {count} objects with a score of {args.score_thr:g} or more'
    return tile_images(tiles), text


def draw_scores(detector: Detector, args: argparse.Namespace) -> 'tuple[Image.Image, str]':
    """Return the figure and the summary of ``mmssl visualize scores``."""
    from mmssl.visualization.deform_sampling import record_outputs, stride_of
    from mmssl.visualization.score_maps import position_sensitive_head, score_map_figure

    head = position_sensitive_head(detector.model)
    _, batch = detector.read(args.images[0])
    results: list = []
    (maps,) = record_outputs([head.rfcn_cls], lambda: results.append(detector.detect(batch)))
    label = _label(detector, results[0], args)
    box, box_text = _region(results[0], label, args.box)
    image, scale, padded_height = detector.network_input(batch)
    if box is not None:
        box = [edge * scale[axis % 2] for axis, edge in enumerate(box)]
    class_maps = maps[0].cpu().unflatten(0, (-1, head.k, head.k))[label]
    stride = stride_of(padded_height, class_maps.shape[2])
    name = detector.classes[label]
    figure = score_map_figure(image, class_maps, stride, box, f'{name}, {box_text}')
    return figure, f'{head.k} x {head.k} score maps of {name}, {box_text}'


def _label(detector: Detector, instances: Any, args: argparse.Namespace) -> int:
    """Return the class that was asked for, or that of the best detection."""
    if args.class_name is None:
        if not len(instances):
            raise ValueError(
                f'nothing was found in {args.images[0]}; name a class: --class {detector.classes[0]}'
            )
        return int(instances.labels[0])
    if args.class_name not in detector.classes:
        hint = nearest(args.class_name, detector.classes)
        raise ValueError(f'--class {args.class_name!r} is none of {", ".join(detector.classes)}{hint}')
    return detector.classes.index(args.class_name)


def _region(instances: Any, label: int, box: list[float] | None) -> tuple[list[float] | None, str]:
    """Return the given box, or the best detection of a class, None without one; and the words for it."""
    if box is not None:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f'--box {" ".join(map(str, box))} has no area; give X1 Y1 X2 Y2')
        return box, 'the given box'
    instances = instances[instances.labels == label]
    if not len(instances):
        return None, 'not found'
    return instances.bboxes[0].tolist(), f'score {instances.scores[0]:.2f}'


def draw_sampling(detector: Detector, args: argparse.Namespace) -> 'tuple[Image.Image, str]':
    """Return the figure and the summary of ``mmssl visualize sampling``."""
    from mmssl.visualization.deform_sampling import (
        deformable_layers,
        record_outputs,
        sampling_figure,
        stacked_positions,
        stride_of,
    )

    layers = deformable_layers(detector.model)
    last = args.layer or list(layers)[-1]
    if last not in layers:
        hint = nearest(last, layers)
        raise ValueError(
            f'--layer {last!r} is no deformable convolution{hint}; there are {", ".join(layers)}'
        )
    _, batch = detector.read(args.images[0])
    results: list = []
    recorded = record_outputs(
        [layer.conv_offset for layer in layers.values()], lambda: results.append(detector.detect(batch))
    )
    offsets = {name: value[0].cpu() for name, value in zip(layers, recorded, strict=True)}
    stack = _stack(layers, offsets, last, args.levels)
    image, scale, padded_height = detector.network_input(batch)
    map_size = offsets[last].shape[1:]
    stride = stride_of(padded_height, map_size[0])
    points = args.point or _default_points(results[0], image, scale)
    positions, groups, crosses, titles = [], [], [], []
    for x, y in points:
        column, row = x * scale[0], y * scale[1]
        if not (0 <= column < image.shape[1] and 0 <= row < image.shape[0]):
            raise ValueError(f'--point {x:g} {y:g} is outside of the image')
        output = torch.tensor([row, column]).div(stride).round().long()
        output = torch.minimum(output, torch.tensor(map_size) - 1)
        point_positions, point_groups = stacked_positions(
            [layers[name] for name in stack], [offsets[name] for name in stack], output
        )
        positions.append(point_positions)
        groups.append(point_groups)
        crosses.append((int(output[1]) * stride, int(output[0]) * stride))
        titles.append(f'{len(point_positions)} positions for ({x:.0f}, {y:.0f})')
    input_stride = stride // max(layers[stack[0]].stride)
    figure = sampling_figure(image, crosses, positions, groups, input_stride, titles)
    return figure, f'{len(points)} points, {" <- ".join(reversed(stack))}'


def _stack(layers: dict, offsets: dict, last: str, levels: int) -> list[str]:
    """Return up to ``levels`` deformable convolutions on maps of one size that end with ``last``."""
    names = list(layers)
    stack = [last]
    for name in reversed(names[: names.index(last)]):
        same_size = offsets[name].shape[1:] == offsets[last].shape[1:]
        if len(stack) == levels or not same_size or max(layers[stack[0]].stride) > 1:
            break
        stack.insert(0, name)
    return stack


def _default_points(
    instances: Any, image: np.ndarray, scale: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the centers of the best detections, or else of the image, in pixels of the original."""
    centers = [
        ((box[0] + box[2]).item() / 2, (box[1] + box[3]).item() / 2) for box in instances.bboxes[:MAX_POINTS]
    ]
    return centers or [(image.shape[1] / scale[0] / 2, image.shape[0] / scale[1] / 2)]
