"""Sampling positions of deformable convolutions (arXiv:1703.06211, figure 6)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mmssl.data.colors import class_color
from mmssl.visualization.layout import scaled_to_height, tile_images

SINGLE_GROUP_COLOR = (230, 40, 40)
CROSS_COLOR = (0, 230, 60)


def deformable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the deformable convolutions of mmssl and mmcv by name, in the order of the model.

    Raises:
        ValueError: There are none.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, 'conv_offset') and hasattr(module, 'deform_groups')
    }
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no deformable convolution (mmssl.DeformConv, DCN, DCNv2) to draw'
        )
    return layers


def record_outputs(modules: Sequence[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """Call ``run`` and return the last output of each module during the call."""
    outputs: list = [None] * len(modules)

    def hook_of(index: int):
        return lambda module, args, output: outputs.__setitem__(index, output.detach())

    handles = [module.register_forward_hook(hook_of(index)) for index, module in enumerate(modules)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def sampling_positions(layer: nn.Module, offsets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute where a deformable convolution samples its input for some of its outputs.

    Args:
        layer: The convolution, with ``kernel_size``, ``stride``, ``padding``, ``dilation``,
            ``deform_groups``.
        offsets: (C, H', W') output of its ``conv_offset``: offsets and, in version 2, the logits of the taps'
            weights.
        outputs: (N, 2) int, (y, x) of the outputs.

    Returns:
        (N, groups, K, 2) positions (y, x) in the input map, and (N, groups, K) weights of the taps, which are
        1 in version 1.
    """
    groups, (kernel_height, kernel_width) = layer.deform_groups, layer.kernel_size
    num_taps = kernel_height * kernel_width
    rows = torch.arange(kernel_height) * layer.dilation[0]
    columns = torch.arange(kernel_width) * layer.dilation[1]
    taps = torch.cartesian_prod(rows, columns)
    values = offsets.float().cpu()[:, outputs[:, 0], outputs[:, 1]].T
    num_offsets = 2 * groups * num_taps
    offset = values[:, :num_offsets].unflatten(1, (groups, num_taps, 2))
    if values.shape[1] > num_offsets:
        weight = values[:, num_offsets:].sigmoid().unflatten(1, (groups, num_taps))
    else:
        weight = torch.ones(offset.shape[:-1])
    corner = outputs * torch.tensor(layer.stride) - torch.tensor(layer.padding)
    return corner[:, None, None] + taps.reshape(num_taps, 2) + offset, weight


def stacked_positions(
    layers: Sequence[nn.Module], offsets: Sequence[Tensor], output: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute where a stack of deformable convolutions samples for one output of the last one.

    Every tap is followed to the output of the previous convolution that is next to it. Layers between the
    convolutions (1 x 1 convolutions, sums) are taken to preserve positions. A group is followed into the
    group of the same index, one of several, so that there are 9 ** levels positions per group.

    Args:
        layers: The convolutions, from the first to the last, on maps of one size.
        offsets: Output of each ``conv_offset``, (C, H, W).
        output: (2,) int, (y, x) of the output.

    Returns:
        (N, 2) positions in the input map of the first convolution, and (N,) the group of the last convolution
        that each belongs to.
    """
    num_groups = layers[-1].deform_groups
    positions, groups = output[None].float().expand(num_groups, 2), torch.arange(num_groups)
    for layer, layer_offsets in zip(reversed(layers), reversed(offsets), strict=True):
        bounds = torch.tensor(layer_offsets.shape[1:]) - 1
        nearest = torch.minimum(positions.round().long().clamp(min=0), bounds)
        sampled, _ = sampling_positions(layer, layer_offsets, nearest)
        positions = sampled[torch.arange(len(sampled)), groups % layer.deform_groups]
        groups = groups.repeat_interleave(positions.shape[1])
        positions = positions.flatten(0, 1)
    return positions, groups


def sampling_figure(
    image: np.ndarray,
    points: Sequence[tuple[float, float]],
    positions: Sequence[Tensor],
    groups: Sequence[Tensor],
    stride: int,
    titles: Sequence[str],
    height: int = 420,
) -> Image.Image:
    """Draw sampling positions as dots over an image, in one tile per point.

    Args:
        image: (H, W, 3) uint8, RGB, as the network received it, without padding.
        points: (x, y) in pixels of the image; a green cross marks each.
        positions: For each point (N, 2), (y, x) in pixels of the map that is sampled.
        groups: For each point (N,); every group has its color.
        stride: Pixels of the image per pixel of the map; with odd, padded convolutions a pixel (y, x) of the
            map is centered on (y, x) * stride.
        titles: A title per point.
        height: Height of each tile, to which the image is resized.
    """
    scale = height / image.shape[0]
    base = scaled_to_height(image, height)
    tiles = []
    for (x, y), samples, sample_groups in zip(points, positions, groups, strict=True):
        canvas = base.copy()
        draw = ImageDraw.Draw(canvas)
        num_groups = int(sample_groups.max()) + 1
        colors = [SINGLE_GROUP_COLOR] if num_groups == 1 else [class_color(i) for i in range(num_groups)]
        radius = 4 if len(samples) < 100 else 1.5
        for sample, group in zip((samples * stride * scale).tolist(), sample_groups.tolist(), strict=True):
            circle = (sample[1] - radius, sample[0] - radius, sample[1] + radius, sample[0] + radius)
            draw.ellipse(circle, fill=colors[group], outline='black' if radius > 3 else None)
        for ends in (((-8, 0), (8, 0)), ((0, -8), (0, 8))):
            draw.line([(x * scale + dx, y * scale + dy) for dx, dy in ends], fill=CROSS_COLOR, width=3)
        tiles.append(canvas)
    return tile_images(tiles, titles)


def stride_of(image_size: int, map_size: int) -> int:
    """Return the power of two by which a map is smaller than an image."""
    return 2 ** max(0, round(math.log2(image_size / map_size)))
