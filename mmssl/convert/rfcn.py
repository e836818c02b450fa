"""R-FCN of msracver/Deformable-ConvNets (MXNet ``.params``), plain and deformable, to ``mmssl.RFCN`` with a caffe-style ResNet.

Read such a file where MXNet is, and keep it for us::

    torch.save({name: torch.from_numpy(value.asnumpy()) for name, value in
    mx.nd.load('rfcn_voc-0000.params').items()}, 'rfcn.pth')

``arg:`` and ``aux:`` may stand before the names. Besides names, this changes:

==============================
======================================================================================================
``rfcn_cls``, its offsets       the release has background first, here it is last: blocks of k * k channels (2
* k * k) are rotated ``rfcn_bbox``                   the release has boxes of background too, 8 k * k
channels; the first 4 k * k are dropped ``rfcn_bbox_*_test``            copies that a checkpoint keeps with
the targets' deviations multiplied in; dropped: our coder has them ``rpn_cls_score``               two logits
an anchor, background first, behind a softmax; here their difference, behind a sigmoid batch norm
has no ``num_batches_tracked`` there; zero here ==============================
======================================================================================================

Nothing of what is dropped changes a prediction. The other way, it is filled with zeros, so that ours come
back as they were.
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
    """The release's name of a block, as res4b22 for the last of stage 4 in a ResNet-101."""
    many = depth > 50 and stage in (3, 4)
    return f'res{stage}' + ('a' if block == 0 else f'b{block}' if many else 'abcdef'[block])


def batch_norm_rows(official: str, ours: str, width: str) -> list[Row]:
    """Rows of a batch norm."""
    return [
        *(Row(f'{official}_{theirs}', f'{ours}.{name}', width) for theirs, name in STATISTICS.items()),
        Row(f'{official}{TRACKED}', f'{ours}.num_batches_tracked', ''),
    ]


def resnet_rows(depth: int, deformable: bool) -> list[Row]:
    """Rows of a ResNet of bottlenecks; deformable in all of conv5."""
    rows = [
        Row('conv1_weight', 'backbone.conv1.weight', 'W 3 7 7'),
        *batch_norm_rows('bn_conv1', 'backbone.bn1', 'W'),
    ]
    inputs = 1
    for index, number in enumerate(DEPTHS[depth][0]):
        inner = 2**index
        for block in range(number):
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
    """Rows of a whole detector: F hidden channels of the RPN, A anchors, H channels before the maps, S of scores, B of boxes."""
    rpn, head = 'rpn_head.', 'roi_head.bbox_head.'
    found = [
        *resnet_rows(depth, deformable),
        *_convolution('rpn_conv_3x3', f'{rpn}rpn_conv', 'F 16W 3 3', 'F'),
        *_convolution('rpn_cls_score', f'{rpn}rpn_cls', 'A F 1 1', 'A'),
        *_convolution('rpn_bbox_pred', f'{rpn}rpn_reg', '4A F 1 1', '4A'),
        *_convolution('conv_new_1', f'{head}conv_new', 'H 32W 1 1', 'H'),
        *_convolution('rfcn_cls', f'{head}rfcn_cls', 'S H 1 1', 'S'),
        *_convolution('rfcn_bbox', f'{head}rfcn_bbox', 'B H 1 1', 'B'),
    ]
    if deformable:
        found += _convolution('rfcn_cls_offset_t', f'{head}rfcn_cls_offset', '2S H 1 1', '2S')
        found += _convolution('rfcn_bbox_offset_t', f'{head}rfcn_bbox_offset', 'T H 1 1', 'T')
    return found


def cells(scores: int, boxes: int, official: bool) -> int:
    """k * k, from the channels of the two maps.

    Raises:
        ValueError: no k fits.
    """
    if official:  # boxes of background and object, or of every class
        found = (
            next((k * k for k in (7, 3) if scores % (k * k) == 0), 0)
            if boxes == 4 * scores
            else boxes // 8
            if boxes % 8 == 0
            else 0
        )
    else:
        found = boxes // 4
        if math.isqrt(found) ** 2 != found or not found or scores % found:
            found = scores - found
    if found < 1 or math.isqrt(found) ** 2 != found or scores % found:
        raise ValueError(
            f'rfcn_cls has {scores} and rfcn_bbox {boxes} channels: not k * k * (classes + 1) and k * k * '
            f'{8 if official else 4}, or k * k * 4 a class, for any k'
        )
    return found


def rotate(tensor: Tensor, block: int, by: int) -> Tensor:
    """Blocks of channels, moved around: by -1 the first becomes the last."""
    return tensor.unflatten(0, (-1, block)).roll(by, dims=0).flatten(0, 1)


def adapt(weights: Mapping, to_official: bool) -> dict:
    """What renaming cannot do, under the names of the release; see the head of this file."""
    weights = dict(weights)
    if not to_official:
        weights = {name.removeprefix('arg:').removeprefix('aux:'): value for name, value in weights.items()}
        weights = {name: value for name, value in weights.items() if not name.endswith('_test')}
        weights |= {
            name.removesuffix('_gamma') + TRACKED: torch.zeros((), dtype=torch.long)
            for name in weights
            if name.endswith('_gamma')
        }
    else:
        weights = {name: value for name, value in weights.items() if not name.endswith(TRACKED)}
    scores, boxes = weights.get('rfcn_cls_bias'), weights.get('rfcn_bbox_bias')
    if scores is None or boxes is None:
        return weights  # what is missing is said when the names are looked up
    block = cells(len(scores), len(boxes), official=not to_official)
    for kind in ('weight', 'bias'):
        for name, size in (('rfcn_cls', block), ('rfcn_cls_offset_t', 2 * block)):
            if f'{name}_{kind}' in weights:
                weights[f'{name}_{kind}'] = rotate(weights[f'{name}_{kind}'], size, 1 if to_official else -1)
        box = weights.get(f'rfcn_bbox_{kind}')
        if box is not None:
            weights[f'rfcn_bbox_{kind}'] = (
                torch.cat([torch.zeros_like(box[: 4 * block]), box]) if to_official else box[4 * block :]
            )
        score = weights.get(f'rpn_cls_score_{kind}')
        if score is not None:
            background, foreground = (torch.zeros_like(score), score) if to_official else score.chunk(2)
            weights[f'rpn_cls_score_{kind}'] = (
                torch.cat([background, foreground]) if to_official else foreground - background
            )
    return weights


FAMILY = Family(
    name='rfcn',
    layouts={
        f'{"deformable " if deformable else ""}R-FCN, ResNet-{depth}': rows(depth, deformable)
        for deformable in (False, True)
        for depth in (101, 50)
    },
    adapt=adapt,
)
