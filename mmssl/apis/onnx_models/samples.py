"""Images that a graph and the model are compared on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

MADE_UP_SIZES = ((640, 480), (360, 500), (512, 512))


def made_up_images(folder: Path) -> list[Path]:
    """Write images of smooth random patches of three sizes, and return their files."""
    generator = np.random.default_rng(0)
    files = []
    for index, (width, height) in enumerate(MADE_UP_SIZES):
        patches = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
        files.append(folder / f'made-up-{index + 1}.png')
        image.save(files[-1])
    return files


def _with_pixels(sample: dict, pixels: torch.Tensor) -> dict[str, Any]:
    data_sample = sample['data_samples'].clone()
    shape = tuple(pixels.shape[1:])
    data_sample.set_metainfo({'img_shape': shape, 'ori_shape': shape})
    return {**sample, 'inputs': pixels, 'data_samples': data_sample}


def resized_sample(sample: dict, is_smaller: bool) -> dict[str, Any]:
    """Return a sample of another size and another ratio of the sides.

    Args:
        sample: Output of a test pipeline.
        is_smaller: Cut out the upper left part; otherwise repeat the image, to a size that is divided by
            the patches of a ViT if that of the image is.
    """
    pixels = sample['inputs']
    height, width = pixels.shape[1:]
    if is_smaller:
        return _with_pixels(sample, pixels[:, : height * 3 // 5 + 1, : width * 3 // 4 + 1])
    return _with_pixels(sample, pixels.repeat(1, 2, 2)[:, :, : width * 3 // 2])


def flip_sample(sample: dict) -> dict[str, Any]:
    """Return the mirror image of a sample."""
    return _with_pixels(sample, sample['inputs'].flip(2))


def pad_sample(sample: dict, size: tuple[int, int], color: tuple[int, ...]) -> dict[str, Any]:
    """Return a sample that is padded at the bottom and at the right.

    Args:
        sample: Output of a test pipeline, with inputs (3, H, W), BGR.
        size: (height, width).
        color: RGB.
    """
    pixels = sample['inputs']
    height, width = pixels.shape[1:]
    padded = torch.tensor(color[::-1]).view(3, 1, 1).expand(3, *size).to(pixels.dtype).clone()
    padded[:, :height, :width] = pixels
    return _with_pixels(sample, padded)
