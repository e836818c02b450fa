"""R-FCN of msracver/Deformable-ConvNets (MXNet ``.params``), plain and deformable.

Becomes an ``mmssl.RFCN`` with a caffe-style ResNet. Read the file where MXNet is installed, and save it for
conversion::

    params = mx.nd.load('rfcn_voc-0000.params')
    torch.save({name: torch.from_numpy(value.asnumpy()) for name, value in params.items()}, 'rfcn.pth')

``arg:`` and ``aux:`` in front of the names are ignored. Besides the names, these differ:

* ``rfcn_cls`` and its offsets: the release has background first, mmdet last. Blocks of k * k channels
  (2 * k * k for the offsets) are rotated.
* ``rfcn_bbox``: the release predicts boxes of background too, with 8 * k * k channels; the first 4 * k * k
  are dropped.
* ``rfcn_bbox_*_test``: copies in a checkpoint, multiplied by the standard deviations of the targets; dropped,
  because the box coder of mmdet has these.
* ``rpn_cls_score``: two logits for each anchor, background first, followed by a softmax; mmdet has their
  difference, followed by a sigmoid.
* Batch norms of the release have no ``num_batches_tracked``; it is set to zero.

Nothing that is dropped changes a prediction. In the other direction it is filled with zeros, so that weights
of mmssl come back unchanged.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import DEPTHS

STATISTICS = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_var': 'running_var'}
TRACKED = '_num_batches_tracked'


def block_name(depth: int, stage: int, block: int) -> str:
    """Name of a block in the release, such as res4b22 for the last block of stage 4 of a ResNet-101."""
    if block == 0:
        return f'res{stage}a'
    numbered = depth > 50 and stage in (3, 4)
    return f'res{stage}b{block}' if numbered else f'res{stage}{"abcdef"[block]}'


def batch_norm_rows(official: str, ours: str, width: str) -> list[Row]:
    """Rows of a batch norm."""
    return [
        *(Row(f'{official}_{theirs}', f'{ours}.{name}', width) for theirs, name in STATISTICS.items()),
        Row(f'{official}{TRACKED}', f'{ours}.num_batches_tracked', ''),
    ]


def resnet_rows(depth: int, deformable: bool) -> list[Row]:
    """Rows of a ResNet with bottlenecks, all of whose conv5 may be deformable."""
    rows = [
        Row('conv1_weight', 'backbone.conv1.weight', 'W 3 7 7'),
        *batch_norm_rows('bn_conv1', 'backbone.bn1', 'W'),
    ]
    inputs = 1
    for index, count in enumerate(DEPTHS[depth][0]):
        inner = 2**index
        for block in range(count):
            theirs, ours = block_name(depth, index + 2, block), f'backbone.layer{index + 1}.{block}.'
            parts = [
                ('2a', 'conv1', 'bn1', inner, inputs, 1),
                ('2b', 'conv2', 'bn2', inner, inner, 3),
                ('2c', 'conv3', 'bn3', 4 * inner, inner, 1),
            ]
            if block == 0:
                parts.append(('1', 'downsample.0', 'downsample.1', 4 * inner, inputs, 1))
            for branch, conv, norm, out, into, kernel in parts:
                rows.append(
                    Row(
                        f'{theirs}_branch{branch}_weight',
                        f'{ours}{conv}.weight',
                        f'{out}W {into}W {kernel} {kernel}',
                    )
                )
                rows += batch_norm_rows(f'bn{theirs[3:]}_branch{branch}', f'{ours}{norm}', f'{out}W')
            if deformable and index == 3:
                rows += _convolution(
                    f'{theirs}_branch2b_offset', f'{ours}conv2.conv_offset', f'O {inner}W 3 3', 'O'
                )
            inputs = 4 * inner
    return rows


def _convolution(official: str, ours: str, weight: str, bias: str) -> list[Row]:
    return [
        row._replace(official='_'.join(row.official.rsplit('.', 1)))
        for row in weights_and_biases(official, ours, weight, bias)
    ]


def rows(depth: int, deformable: bool) -> list[Row]:
    """Rows of a whole detector.

    F hidden channels of the RPN, A anchors, H channels before the score maps, S of the scores, B of the
    boxes.
    """
    rpn, head = 'rpn_head.', 'roi_head.bbox_head.'
    result = [
        *resnet_rows(depth, deformable),
        *_convolution('rpn_conv_3x3', f'{rpn}rpn_conv', 'F 16W 3 3', 'F'),
        *_convolution('rpn_cls_score', f'{rpn}rpn_cls', 'A F 1 1', 'A'),
        *_convolution('rpn_bbox_pred', f'{rpn}rpn_reg', '4A F 1 1', '4A'),
        *_convolution('conv_new_1', f'{head}conv_new', 'H 32W 1 1', 'H'),
        *_convolution('rfcn_cls', f'{head}rfcn_cls', 'S H 1 1', 'S'),
        *_convolution('rfcn_bbox', f'{head}rfcn_bbox', 'B H 1 1', 'B'),
    ]
    if deformable:
        result += _convolution('rfcn_cls_offset_t', f'{head}rfcn_cls_offset', '2S H 1 1', '2S')
        result += _convolution('rfcn_bbox_offset_t', f'{head}rfcn_bbox_offset', 'T H 1 1', 'T')
    return result


def bin_count(scores: int, boxes: int, official: bool) -> int:
    """Number of bins k * k, from the channels of the score maps and of the box maps.

    Args:
        scores: Channels of ``rfcn_cls``.
        boxes: Channels of ``rfcn_bbox``.
        official: The channels are those of the release, which include boxes of background.

    Raises:
        ValueError: No k fits.
    """
    bins = _official_bins(scores, boxes) if official else _bins(scores, boxes)
    if bins < 1 or math.isqrt(bins) ** 2 != bins or scores % bins:
        raise ValueError(
            f'rfcn_cls has {scores} and rfcn_bbox {boxes} channels: not k * k * (classes + 1) and k * k * '
            f'{8 if official else 4}, or k * k * 4 for each class, for any k'
        )
    return bins


def _official_bins(scores: int, boxes: int) -> int:
    if boxes == 4 * scores:  # boxes of each class
        return next((k * k for k in (7, 3) if scores % (k * k) == 0), 0)
    return boxes // 8 if boxes % 8 == 0 else 0  # of background and foreground


def _bins(scores: int, boxes: int) -> int:
    bins = boxes // 4  # if boxes are class-agnostic
    if math.isqrt(bins) ** 2 != bins or not bins or scores % bins:
        bins = scores - bins  # boxes of each class: k * k * (classes + 1) - k * k * classes
    return bins


def rotate(tensor: Tensor, block: int, shift: int) -> Tensor:
    """Rotate blocks of channels; with shift -1 the first becomes the last."""
    return tensor.unflatten(0, (-1, block)).roll(shift, dims=0).flatten(0, 1)


def adapt(weights: Mapping, to_official: bool) -> dict:
    """Convert what renaming cannot, in the names of the release; see the module and ``Family.adapt``."""
    weights = _without_tracked(weights) if to_official else _with_tracked(weights)
    scores, boxes = weights.get('rfcn_cls_bias'), weights.get('rfcn_bbox_bias')
    if scores is None or boxes is None:
        return weights  # missing names are reported when they are looked up
    bins = bin_count(len(scores), len(boxes), official=not to_official)
    convert = _to_release if to_official else _from_release
    for name, value in weights.items():
        weights[name] = convert(name, value, bins)
    return weights


def _with_tracked(weights: Mapping) -> dict:
    """Strip the prefixes of MXNet, drop the copies for testing, and add ``num_batches_tracked``."""
    stripped = {name.removeprefix('arg:').removeprefix('aux:'): value for name, value in weights.items()}
    trained = {name: value for name, value in stripped.items() if not name.endswith('_test')}
    norms = [name.removesuffix('_gamma') for name in trained if name.endswith('_gamma')]
    return {**trained, **{name + TRACKED: torch.zeros((), dtype=torch.long) for name in norms}}


def _without_tracked(weights: Mapping) -> dict:
    return {name: value for name, value in weights.items() if not name.endswith(TRACKED)}


def _from_release(name: str, value: Tensor, bins: int) -> Tensor:
    layer = name.removesuffix('_weight').removesuffix('_bias')
    if layer == 'rfcn_cls':
        return rotate(value, bins, -1)
    if layer == 'rfcn_cls_offset_t':
        return rotate(value, 2 * bins, -1)
    if layer == 'rfcn_bbox':
        return value[4 * bins :]
    if layer == 'rpn_cls_score':
        background, foreground = value.chunk(2)
        return foreground - background
    return value


def _to_release(name: str, value: Tensor, bins: int) -> Tensor:
    layer = name.removesuffix('_weight').removesuffix('_bias')
    if layer == 'rfcn_cls':
        return rotate(value, bins, 1)
    if layer == 'rfcn_cls_offset_t':
        return rotate(value, 2 * bins, 1)
    if layer == 'rfcn_bbox':
        return torch.cat([torch.zeros_like(value[: 4 * bins]), value])
    if layer == 'rpn_cls_score':
        return torch.cat([torch.zeros_like(value), value])
    return value


FAMILY = Family(
    name='rfcn',
    layouts={
        f'{"deformable " if deformable else ""}R-FCN, ResNet-{depth}': rows(depth, deformable)
        for deformable in (False, True)
        for depth in (101, 50)
    },
    adapt=adapt,
)
