"""From an image and its masks to what the promptable segmenter learns from."""

import random

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement, InstanceData

from mmssl.data.images import resize
from mmssl.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadMasks(BaseTransform):
    """Read the masks of an entry of :class:`mmssl.promptable.data.MaskDataset`; the hosts load every mask to drop most of them later.

    After a resize in the pipeline the masks stay at the size of the file: evaluation compares there.

    Required keys: ``read_masks``, ``ori_shape``. Added keys: ``masks``, (N, H, W) bool.

    Args:
        max_masks: so many at most, drawn before they are decoded; None: all.
        largest_share: masks over more than this share of the image are left out (arXiv:2304.02643, appendix
            A).

    Raises:
        ValueError: masks of another size than the image.
    """

    def __init__(self, max_masks: int | None = None, largest_share: float = 0.9):
        if max_masks is not None and max_masks < 1:
            raise ValueError(f'max_masks={max_masks} of LoadMasks must be at least 1, or None for all')
        if not 0 < largest_share <= 1:
            raise ValueError(f'largest_share={largest_share} of LoadMasks must be in (0, 1]')
        self.max_masks, self.largest_share = max_masks, largest_share

    def _choose(self, count: int) -> list[int]:
        if self.max_masks is None or count <= self.max_masks:
            return list(range(count))
        return sorted(random.sample(range(count), self.max_masks))

    def transform(self, results: dict) -> dict:
        """Read the masks."""
        masks = results['read_masks'](results, self._choose)
        if masks.shape[1:] != tuple(results['ori_shape']):
            raise ValueError(
                f'{results["img_path"]} is {results["ori_shape"][0]}x{results["ori_shape"][1]} (height x width), but its '
                f'masks are {masks.shape[1]}x{masks.shape[2]}; masks are of the upright image'
            )
        area = masks.sum((1, 2))
        results['masks'] = (
            masks[(area > 0) & (area <= self.largest_share * masks[0].size)] if len(masks) else masks
        )
        return results


@TRANSFORMS.register_module()
class ResizeLongest(BaseTransform):
    """Longest side to a length, for image and masks alike; with a range, large-scale jitter and a random crop (arXiv:2012.07177).

    The image is resized with antialiasing, a mask's pixel is set where half of what it covers was. Padding to
    the square is the model's, after normalisation.

    Required keys: ``img``. Modified keys: ``img``, ``img_shape``, ``masks`` where they are there.

    Args:
        scale: length in pixels.
        ratio_range: factors of the length, drawn uniformly; what is then longer is cut to ``scale`` at a
            random place.
        min_pixels: masks with fewer pixels afterwards are dropped.
    """

    def __init__(
        self, scale: int = 1024, ratio_range: tuple[float, float] | None = None, min_pixels: int = 1
    ):
        if scale < 1 or (ratio_range is not None and not 0 < ratio_range[0] <= ratio_range[1]):
            raise ValueError(
                f'scale={scale} and ratio_range={ratio_range} of ResizeLongest must be positive, the range ascending'
            )
        self.scale, self.ratio_range, self.min_pixels = scale, ratio_range, min_pixels

    def transform(self, results: dict) -> dict:
        """Resize."""
        image = results['img']
        length = self.scale * (random.uniform(*self.ratio_range) if self.ratio_range else 1.0)
        factor = length / max(image.shape[:2])
        height, width = (max(1, int(edge * factor + 0.5)) for edge in image.shape[:2])
        image = resize(image, (height, width), 'bilinear')
        top, left = (
            random.randint(0, max(height - self.scale, 0)),
            random.randint(0, max(width - self.scale, 0)),
        )
        cut = np.s_[top : top + self.scale, left : left + self.scale]
        results['img'] = image[cut]
        results['img_shape'] = results['img'].shape[:2]
        if 'masks' in results:
            small = [
                cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA)[cut]
                >= 128
                for mask in results['masks']
            ]
            small = [mask for mask in small if mask.sum() >= self.min_pixels]
            results['masks'] = np.stack(small) if small else np.zeros((0, *results['img_shape']), bool)
        return results


@TRANSFORMS.register_module()
class FlipWithMasks(BaseTransform):
    """Mirror image and masks from left to right; the hosts' flips want their own mask classes.

    Args:
        prob: how often.
    """

    def __init__(self, prob: float = 0.5):
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} of FlipWithMasks must be in [0, 1]')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Mirror, or not."""
        if random.random() < self.prob:
            results['img'] = results['img'][:, ::-1]
            if 'masks' in results:
                results['masks'] = results['masks'][:, :, ::-1]
        return results


@TRANSFORMS.register_module()
class PackPrompts(BaseTransform):
    """To tensors: 'inputs' (3, H, W) uint8 BGR, and a sample with ``gt_instances.masks`` (N, H, W) bool and the image's facts.

    Args:
        meta_keys: facts that go along.
    """

    def __init__(self, meta_keys: tuple[str, ...] = ('img_path', 'img_id', 'ori_shape', 'img_shape')):
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack."""
        sample = BaseDataElement(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'masks' in results:
            sample.gt_instances = InstanceData(masks=torch.from_numpy(np.ascontiguousarray(results['masks'])))
        pixels = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)
