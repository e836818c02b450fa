"""Receptive fields of backbones: pixels that can change an output, and those that do (arXiv:1701.04128)."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mmssl.visualization.heat import overlay_heat

# two standard deviations of a Gaussian, as in the paper
MIN_GRADIENT = 0.0455


class ReceptiveField(NamedTuple):
    """The receptive field of the central output of a feature map.

    Attributes:
        reach: (height, width) in pixels of the smallest box with every pixel that can change the output;
            that of the image if it is smaller.
        gradient: (H, W), mean absolute gradient of the output by the pixels, largest 1.
        effective: Side in pixels of a square of as many pixels as have more than 4.55 % of the largest
            gradient.
    """

    reach: tuple[int, int]
    gradient: np.ndarray
    effective: float


def receptive_field(
    backbone: nn.Module, size: int, channels: int = 3, level: int = -1, draws: int = 8, seed: int = 0
) -> ReceptiveField:
    """Measure the receptive field of a backbone.

    Args:
        backbone: From images (B, C, H, W) to feature maps.
        size: Side of the images in pixels.
        channels: C.
        level: Which of the maps.
        draws: Number of images of noise over which gradients are averaged.
        seed: Seed of the noise.

    Raises:
        ValueError: The level does not exist, or is no map.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(draws, channels, size, size, generator=generator)
    backbone = copy.deepcopy(backbone).cpu().float()
    backbone.eval()  # returns None in some toolboxes
    gradient = _gradient(backbone, images, level).abs().mean((0, 1))
    # small values, which saturate no activation
    steady = torch.full_like(images[:1], 1e-3, dtype=torch.float64)
    reached = (gradient > 0) | (_gradient(_positive(backbone.double()), steady, level)[0].sum(0) > 0)
    gradient /= gradient.max().clamp(min=torch.finfo(gradient.dtype).tiny)
    rows, columns = (torch.nonzero(reached.any(axis)).flatten() for axis in (1, 0))
    reach = (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    return ReceptiveField(reach, gradient.numpy(), float((gradient > MIN_GRADIENT).sum()) ** 0.5)


def _gradient(backbone: nn.Module, images: Tensor, level: int) -> Tensor:
    """Return the gradient of the sum of the channels at the centre of a map by the images."""
    images = images.requires_grad_()
    maps = backbone(images)
    maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
    if not -len(maps) <= level < len(maps):
        raise ValueError(f'level {level} does not exist: the backbone returns {len(maps)} maps')
    output = maps[level]
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ValueError(f'level {level} of {type(backbone).__name__} is no map (B, C, H, W)')
    height, width = output.shape[2:]
    (gradient,) = torch.autograd.grad(output[:, :, height // 2, width // 2].sum(), images)
    return gradient


def _positive(backbone: nn.Module) -> nn.Module:
    """Make all weights positive and pool by means, so that every path through convolutions has a gradient."""
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, mean)
        for parameter in module.parameters(recurse=False):
            parameter.data.fill_(1 / max(1, parameter[0].numel()) if parameter.ndim > 1 else 0.0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            if module.affine:
                nn.init.ones_(module.weight)
    return backbone


def draw_receptive_field(field: ReceptiveField, scale: int = 1) -> Image.Image:
    """Draw the gradient, brightest 1, with the box of the reach."""
    height, width = field.gradient.shape
    colors = overlay_heat(np.zeros((height, width, 3)), field.gradient, 1.0).round().astype(np.uint8)
    size = (width * scale, height * scale)
    picture = Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)
    middle = (height * scale / 2, width * scale / 2)
    half = [side * scale / 2 for side in field.reach]
    box = (middle[1] - half[1], middle[0] - half[0], middle[1] + half[1] - 1, middle[0] + half[0] - 1)
    ImageDraw.Draw(picture).rectangle(box, outline=(0, 230, 60))
    return picture
