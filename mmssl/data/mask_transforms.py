"""Transforms of images with masks, for the promptable segmenter."""

import random

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement, InstanceData

from mmssl.data.images import resize
from mmssl.errors import warn_renamed
from mmssl.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadMasks(BaseTransform):
    """Read the masks of an entry of :class:`mmssl.data.mask_datasets.MaskDataset`.

    After a resize in the pipeline the masks keep the size of the file: evaluation compares at that size.

    Required keys: ``read_masks``, ``ori_shape``. Added keys: ``masks``, (N, H, W) bool.

    Args:
        max_masks: Largest number of masks, which are drawn at random before they are decoded; None for all.
        max_area_fraction: Masks that cover a larger fraction of the image are left out (arXiv:2304.02643,
            appendix A).
        **renamed: ``largest_share``, the former name of ``max_area_fraction``.

    Raises:
        ValueError: An argument out of range, or masks of another size than the image.
    """

    def __init__(self, max_masks: int | None = None, max_area_fraction: float = 0.9, **renamed):
        if 'largest_share' in renamed:
            warn_renamed('largest_share of LoadMasks', 'max_area_fraction')
            max_area_fraction = renamed.pop('largest_share')
        if renamed:
            raise TypeError(f'LoadMasks takes max_masks and max_area_fraction, not {", ".join(renamed)}')
        if max_masks is not None and max_masks < 1:
            raise ValueError(f'max_masks={max_masks} of LoadMasks must be at least 1, or None for all')
        if not 0 < max_area_fraction <= 1:
            raise ValueError(f'max_area_fraction={max_area_fraction} of LoadMasks must be in (0, 1]')
        self.max_masks = max_masks
        self.max_area_fraction = max_area_fraction

    def _choose(self, count: int) -> list[int]:
        if self.max_masks is None or count <= self.max_masks:
            return list(range(count))
        return sorted(random.sample(range(count), self.max_masks))

    def transform(self, results: dict) -> dict:
        """Read the masks."""
        masks = results['read_masks'](results, self._choose)
        if masks.shape[1:] != tuple(results['ori_shape']):
            height, width = results['ori_shape']
            raise ValueError(
                f'{results["img_path"]} is {height}x{width} (height x width), but its masks are '
                f'{masks.shape[1]}x{masks.shape[2]}; masks are of the upright image'
            )
        if len(masks):
            area = masks.sum((1, 2))
            masks = masks[(area > 0) & (area <= self.max_area_fraction * masks[0].size)]
        results['masks'] = masks
        return results


@TRANSFORMS.register_module()
class ResizeLongest(BaseTransform):
    """Resize image and masks so that the longest side has a given length.

    With ``ratio_range`` this is large-scale jitter with a random crop (arXiv:2012.07177). The image is
    resized with antialiasing; a pixel of a mask is set if half of what it covers was. Padding to the square
    is left to the model, after normalisation.

    Required keys: ``img``. Modified keys: ``img``, ``img_shape``, and ``masks`` if present.

    Args:
        scale: Length in pixels.
        ratio_range: Range of a random factor of the length; what is then longer is cropped to ``scale`` at a
            random position.
        min_pixels: Masks with fewer pixels afterwards are dropped.
    """

    def __init__(
        self, scale: int = 1024, ratio_range: tuple[float, float] | None = None, min_pixels: int = 1
    ):
        if scale < 1 or (ratio_range is not None and not 0 < ratio_range[0] <= ratio_range[1]):
            raise ValueError(
                f'scale={scale} and ratio_range={ratio_range} of ResizeLongest must be positive, the range '
                'ascending'
            )
        self.scale = scale
        self.ratio_range = ratio_range
        self.min_pixels = min_pixels

    def transform(self, results: dict) -> dict:
        """Resize, and crop with ``ratio_range``."""
        image = results['img']
        length = self.scale * (random.uniform(*self.ratio_range) if self.ratio_range else 1.0)
        factor = length / max(image.shape[:2])
        height, width = (max(1, int(side * factor + 0.5)) for side in image.shape[:2])
        image = resize(image, (height, width), 'bilinear')
        top = random.randint(0, max(height - self.scale, 0))
        left = random.randint(0, max(width - self.scale, 0))
        crop = np.s_[top : top + self.scale, left : left + self.scale]
        results['img'] = image[crop]
        results['img_shape'] = results['img'].shape[:2]
        if 'masks' in results:
            resized = [_resize_mask(mask, (height, width))[crop] for mask in results['masks']]
            large = [mask for mask in resized if mask.sum() >= self.min_pixels]
            results['masks'] = np.stack(large) if large else np.zeros((0, *results['img_shape']), bool)
        return results


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask to (height, width); a pixel is set if half of what it covers was."""
    return cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA) >= 128


@TRANSFORMS.register_module()
class FlipWithMasks(BaseTransform):
    """Flip image and masks horizontally.

    Args:
        prob: Probability of a flip.
    """

    def __init__(self, prob: float = 0.5):
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} of FlipWithMasks must be in [0, 1]')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Flip with the given probability."""
        if random.random() < self.prob:
            results['img'] = results['img'][:, ::-1]
            if 'masks' in results:
                results['masks'] = results['masks'][:, :, ::-1]
        return results


@TRANSFORMS.register_module()
class PackPrompts(BaseTransform):
    """Convert to 'inputs' (3, H, W) uint8 BGR, and a sample with ``gt_instances.masks`` (N, H, W) bool.

    Args:
        meta_keys: Keys that are copied to the sample if present.
    """

    def __init__(self, meta_keys: tuple[str, ...] = ('img_path', 'img_id', 'ori_shape', 'img_shape')):
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack image and masks."""
        sample = BaseDataElement(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'masks' in results:
            sample.gt_instances = InstanceData(masks=torch.from_numpy(np.ascontiguousarray(results['masks'])))
        pixels = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)
