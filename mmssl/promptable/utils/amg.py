"""Helpers of automatic masks with the signatures of ``segment_anything.utils.amg``.

:class:`mmssl.promptable.SamAutomaticMaskGenerator` uses those of :mod:`mmssl.promptable.amg` instead, which
work on run lengths.
"""

import copy
from collections.abc import ItemsView, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.promptable import amg
from mmssl.promptable.full_size_masks import boxes_of_masks
from mmssl.promptable.rle import coco_code, counts_of, runs_of_masks

__all__ = [
    'MaskData',
    'area_from_rle',
    'batch_iterator',
    'batched_mask_to_box',
    'box_xyxy_to_xywh',
    'build_all_layer_point_grids',
    'build_point_grid',
    'calculate_stability_score',
    'coco_encode_rle',
    'generate_crop_boxes',
    'is_box_near_crop_edge',
    'mask_to_rle_pytorch',
    'postprocess_small_regions',
    'remove_small_regions',
    'rle_to_mask',
    'uncrop_boxes_xyxy',
    'uncrop_masks',
    'uncrop_points',
]


class MaskData:
    """Lists, arrays and tensors with one entry for each mask, which are filtered and joined together.

    Args:
        **kwargs: The values by name.
    """

    def __init__(self, **kwargs):
        self._stats: dict[str, Any] = {}
        for name, value in kwargs.items():
            self[name] = value

    def __setitem__(self, key: str, item: Any) -> None:
        if not isinstance(item, (list, np.ndarray, Tensor)):
            raise AssertionError(f'{key} is a {type(item).__name__}; give a list, an array or a tensor')
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        """Names and values."""
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Keep the entries of a boolean mask (N,), or those with the given indices."""
        indices = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        for key, value in self._stats.items():
            if isinstance(value, Tensor):
                self._stats[key] = value[indices.to(value.device)]
            elif isinstance(value, np.ndarray):
                self._stats[key] = value[indices.cpu().numpy()]
            elif value is not None:
                self._stats[key] = [value[index] for index in indices.tolist()]

    def cat(self, new_stats: 'MaskData') -> None:
        """Append the entries of another object; names that are new are added."""
        for key, value in new_stats.items():
            known = self._stats.get(key)
            if known is None:
                self._stats[key] = copy.deepcopy(value)
            elif isinstance(value, Tensor):
                self._stats[key] = torch.cat([known, value])
            elif isinstance(value, np.ndarray):
                self._stats[key] = np.concatenate([known, value])
            else:
                self._stats[key] = known + copy.deepcopy(value)

    def to_numpy(self) -> None:
        """Turn tensors into arrays."""
        for key, value in self._stats.items():
            if isinstance(value, Tensor):
                self._stats[key] = value.detach().cpu().numpy()


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: list[int], orig_box: list[int], atol: float = 20.0
) -> Tensor:
    """Whether boxes (N, 4) in pixels of a crop touch an edge of it that is no edge of the image."""
    boxes = uncrop_boxes_xyxy(boxes, crop_box).float()
    distances = [
        (boxes - torch.tensor(edges, dtype=torch.float32, device=boxes.device)).abs()
        for edges in (crop_box, orig_box)
    ]
    return ((distances[0] <= atol) & (distances[1] > atol)).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Tensor) -> Tensor:
    """Left, top, right, bottom (4,) to left, top, width, height, in a copy."""
    box = copy.deepcopy(box_xyxy)
    box[2] -= box[0]
    box[3] -= box[1]
    return box


def batch_iterator(batch_size: int, *args) -> Iterator[list[Any]]:
    """Yield slices of ``batch_size`` entries of several sequences of the same length."""
    if not args or len({len(values) for values in args}) > 1:
        raise AssertionError(f'sequences of {[len(values) for values in args]} entries; give the same number')
    for start in range(0, len(args[0]), batch_size):
        yield [values[start : start + batch_size] for values in args]


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """Masks (N, H, W) bool to COCO's uncompressed run lengths."""
    height, width = tensor.shape[1:]
    counts = [counts_of(runs, height * width).tolist() for runs in runs_of_masks(tensor)]
    return [{'size': [height, width], 'counts': entry} for entry in counts]


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """COCO's uncompressed run lengths to (H, W) bool."""
    height, width = rle['size']
    inside = np.arange(len(rle['counts'])) % 2 == 1
    return np.repeat(inside, rle['counts']).reshape(width, height).T


def area_from_rle(rle: dict[str, Any]) -> int:
    """Number of pixels of COCO's uncompressed run lengths."""
    return sum(rle['counts'][1::2])


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """IoU (...) of the masks of logits (..., H, W) at a higher and at a lower threshold."""
    inner, outer = (
        (masks > mask_threshold + offset).sum((-2, -1), dtype=torch.int32)
        for offset in (threshold_offset, -threshold_offset)
    )
    return inner / outer


def build_point_grid(n_per_side: int) -> np.ndarray:
    """As :func:`mmssl.promptable.amg.build_point_grid`."""
    return amg.build_point_grid(n_per_side)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[np.ndarray]:
    """Grids of points of the whole image and of each layer of crops."""
    return [build_point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """As :func:`mmssl.promptable.amg.generate_crop_boxes`, with boxes as lists."""
    boxes, layers = amg.generate_crop_boxes((im_size[0], im_size[1]), n_layers, overlap_ratio)
    return [list(box) for box in boxes], layers


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: list[int]) -> Tensor:
    """Move boxes (..., 4) from pixels of a crop to pixels of the image."""
    return boxes + torch.tensor([*crop_box[:2], *crop_box[:2]], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: list[int]) -> Tensor:
    """Move points (..., 2) from pixels of a crop to pixels of the image."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: list[int], orig_h: int, orig_w: int) -> Tensor:
    """Pad masks (..., h, w) of a crop with zeros to the size of the image."""
    left, top, right, bottom = crop_box
    return F.pad(masks, (left, orig_w - right, top, orig_h - bottom))


def remove_small_regions(mask: np.ndarray, area_thresh: float, mode: str) -> tuple[np.ndarray, bool]:
    """Fill small holes or remove small islands of a mask (H, W).

    Args:
        mask: (H, W) bool.
        area_thresh: Number of pixels below which a region is small.
        mode: 'holes' or 'islands'.

    Returns:
        The mask, and whether it has changed.
    """
    if mode not in ('holes', 'islands'):
        raise AssertionError(f"mode={mode!r}; give 'holes' or 'islands'")
    clean = amg._without_small_holes if mode == 'holes' else amg._without_small_islands
    cleaned = clean(mask, area_thresh)
    return cleaned, cleaned is not mask


def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
    """Fill small holes and remove small islands of masks, and suppress duplicates again.

    Args:
        mask_data: Data with ``rles`` and ``boxes`` (N, 4), which is changed.
        min_area: Number of pixels below which a hole or an island is small.
        nms_thresh: Of two boxes with a larger IoU only one stays, preferably one of an unchanged mask.

    Returns:
        The same data.
    """
    from torchvision.ops import batched_nms

    if not mask_data['rles']:
        return mask_data
    before = [rle_to_mask(rle) for rle in mask_data['rles']]
    after = [
        remove_small_regions(remove_small_regions(mask, min_area, 'holes')[0], min_area, 'islands')[0]
        for mask in before
    ]
    unchanged = torch.tensor([float(new is old) for new, old in zip(after, before, strict=True)])
    masks = torch.from_numpy(np.stack(after))
    boxes = batched_mask_to_box(masks)
    keep = batched_nms(boxes.float(), unchanged, torch.zeros(len(boxes)), nms_thresh)
    stored = torch.as_tensor(mask_data['boxes'])  # shares its memory
    for index in keep[unchanged[keep] == 0].tolist():
        mask_data['rles'][index] = mask_to_rle_pytorch(masks[index : index + 1])[0]
        stored[index] = boxes[index]
    mask_data.filter(keep)
    return mask_data


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """Compress COCO's run lengths; needs pycocotools."""
    return coco_code(uncompressed_rle['counts'], tuple(uncompressed_rle['size']))


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Left, top, right, bottom (..., 4), inclusive, of masks (..., H, W) bool; zeros for an empty one."""
    if not masks.numel():
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    return boxes_of_masks(masks.reshape(-1, *masks.shape[-2:])).view(*masks.shape[:-2], 4)
