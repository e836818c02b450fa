"""Masks of a batch that interactive training uses, and which of them are prompted by boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmssl.promptable.prompts import uniform

CPU = torch.device('cpu')


class Targets(NamedTuple):
    """N masks of B images of S x S pixels, those prompted by boxes first.

    Attributes:
        masks: (N, S, S) bool, none empty.
        image_index: (N,) int64, the image of each mask.
        valid: (B, S, S) bool, False on the padding of an image.
        num_boxes: Number of masks whose first prompt is a box.
    """

    masks: Tensor
    image_index: Tensor
    valid: Tensor
    num_boxes: int


def draw_targets(
    data_samples: Sequence[BaseDataElement],
    size: int,
    max_masks: int,
    box_prob: float,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Targets:
    """Draw the masks to train; empty ones are left out.

    Rows are drawn on the CPU, so that a batch waits for the device only twice: to read which masks are empty,
    and to copy the rows.

    Args:
        data_samples: Samples with ``gt_instances.masks`` (N, h, w) bool at the size of the image.
        size: Side S of the padded square.
        max_masks: Largest number of masks of an image, drawn at random if there are more.
        box_prob: Probability that the first prompt of a mask is a box.
        device: Device of the results.
        generator: Source of all random numbers; that of torch if None.

    Raises:
        ValueError: Masks have another size than their image.
    """
    valid = torch.zeros(len(data_samples), size, size, dtype=torch.bool, device=device)
    padded, image_index = [], []
    for image, sample in enumerate(data_samples):
        masks = sample.gt_instances.masks
        height, width = masks.shape[1:]
        if (height, width) != tuple(sample.img_shape[:2]):
            raise ValueError(
                f'{sample.get("img_path")}: masks of {height}x{width} for an image of '
                f'{sample.img_shape[0]}x{sample.img_shape[1]}; put LoadMasks before ResizeLongest in the '
                'pipeline of training'
            )
        valid[image, :height, :width] = True
        padded.append(F.pad(masks, (0, size - width, 0, size - height)).to(device))
        image_index.append(torch.full((len(masks),), image))
    masks, index = torch.cat(padded), torch.cat(image_index)
    present = masks.flatten(1).any(1).cpu() if len(masks) else index.bool()
    rows = torch.cat(
        [
            _at_most(max_masks, (present & (index == image)).nonzero()[:, 0], generator)
            for image in range(len(data_samples))
        ]
    )
    as_box = uniform(len(rows), 1, CPU, generator).squeeze(1) < box_prob
    rows = torch.cat([rows[as_box], rows[~as_box]])
    rows, image_of_row = torch.stack([rows, index[rows]]).to(device)
    return Targets(masks[rows], image_of_row, valid, int(as_box.sum()))


def _at_most(count: int, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """``count`` of the rows (N,), drawn at random; all of them if there are no more."""
    if len(rows) <= count:
        return rows
    return rows[uniform(1, len(rows), CPU, generator)[0].argsort()[:count]]
