"""Masks of everything in an image: the official ``SamAutomaticMaskGenerator``, with the same masks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.ops.precision import widest_float
from mmssl.promptable.amg import (
    Mask,
    build_point_grid,
    generate_crop_boxes,
    is_box_near_crop_edge,
    remove_small_regions,
    shift_box,
    suppress,
)
from mmssl.promptable.checks import check_image
from mmssl.promptable.confident_masks import confidence_mask, confident_masks
from mmssl.promptable.full_size_masks import CropSizes, full_size_masks
from mmssl.promptable.predictor import SamPredictor
from mmssl.promptable.rle import area_of, coco_code, counts_of, mask_of
from mmssl.promptable.utils.amg import MaskData, postprocess_small_regions

OUTPUT_MODES = ('binary_mask', 'uncompressed_rle', 'coco_rle')
# called with the number of finished batches of points and the number of all of them
Progress = Callable[[int, int], None]


class SamAutomaticMaskGenerator:
    """Prompts a model with a grid of points and keeps the good masks, without duplicates.

    Arguments and records are those of the official class. Masks with a low predicted IoU are never
    upscaled, and the others become run lengths, so that memory does not grow with the number of points.

    Args:
        model: A :class:`mmssl.SAM`, or a :class:`mmssl.InteractiveSAM`.
        points_per_side: Number of points along a side of the grid; None with ``point_grids``.
        points_per_batch: Number of points that are decoded at a time.
        pred_iou_thresh: Masks must have a higher predicted IoU; 0 keeps all.
        stability_score_thresh: Smallest stability of a mask; 0 keeps all.
        stability_score_offset: Distance of the thresholds that the stability compares from that of the masks.
        box_nms_thresh: Of two boxes in a crop with a larger IoU, the one with the lower predicted IoU is
            removed.
        crop_n_layers: Number of layers of crops besides the whole image; layer i has ``2**i`` crops along
            each side.
        crop_nms_thresh: Of two boxes in different crops with a larger IoU, that of the larger crop is
            removed.
        crop_overlap_ratio: Overlap of the crops of the first layer as a fraction of the shorter side of the
            image.
        crop_n_points_downscale_factor: Layer i has this many times fewer points along a side, to the power
            of i.
        point_grids: Points (N, 2), x and y from 0 to 1, for each layer, instead of ``points_per_side``.
        min_mask_region_area: Holes and islands with fewer pixels are removed; needs opencv.
        output_mode: 'binary_mask', 'uncompressed_rle' or 'coco_rle' (needs pycocotools).
        cache_dir: Folder for embeddings, see :class:`SamPredictor`.

    Raises:
        ValueError: An argument out of range, both or neither of ``points_per_side`` and ``point_grids``, or
            fewer grids than layers.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
        self,
        model: nn.Module,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = 'binary_mask',
        *,
        cache_dir: str | Path | None = None,
    ):
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f'output_mode={output_mode!r}; one of {", ".join(map(repr, OUTPUT_MODES))}')
        if points_per_batch < 1 or crop_n_layers < 0 or crop_n_points_downscale_factor < 1:
            raise ValueError(
                f'points_per_batch={points_per_batch} and crop_n_points_downscale_factor='
                f'{crop_n_points_downscale_factor} must be at least 1, crop_n_layers={crop_n_layers} '
                'at least 0'
            )
        if output_mode == 'coco_rle':
            import pycocotools.mask  # noqa: F401  a missing package is reported before the work
        if min_mask_region_area > 0:
            import cv2  # noqa: F401
        self.predictor = SamPredictor(model, cache_dir)
        self.point_grids = _grids(points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode

    @torch.no_grad()
    def generate(self, image: np.ndarray, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Generate the masks of an image.

        Args:
            image: (H, W, 3) uint8, RGB.
            progress: Called after each batch of points with the number of finished batches and of all
                batches.

        Returns:
            A dict for each mask with 'segmentation' ((H, W) bool or a dict of run lengths), 'area' in pixels,
            'bbox' (left, top, width, height), 'predicted_iou', 'point_coords' [[x, y]], 'stability_score' and
            'crop_box' (left, top, width, height). Empty if no mask is good enough.

        Raises:
            TypeError: As in :meth:`SamPredictor.set_image`.
            ValueError: As in :meth:`SamPredictor.set_image`.
        """
        check_image(image, self.predictor.channels)
        size = image.shape[:2]
        return self.records(self.masks(image, batch_counter(progress, self.num_batches(size))), size)

    @torch.no_grad()
    def generate_encoded(
        self, features: Tensor, input_size: Sequence[int], original_size: Sequence[int]
    ) -> list[dict[str, Any]]:
        """As :meth:`generate`, for an image that is encoded already; see :meth:`SamPredictor.set_embedding`.

        Raises:
            ValueError: There are layers of crops, which need the image.
        """
        if self.crop_n_layers:
            raise ValueError(
                f'crop_n_layers={self.crop_n_layers} needs the image, and there is only an embedding; give '
                'the image to generate'
            )
        self.predictor.set_embedding(features, input_size, original_size)
        _, size = self.predictor.sizes()
        height, width = size
        masks = self._crop_masks((0, 0, width, height), size, self.point_grids[0])
        self.predictor.reset_image()
        return self.records(self._without_small_regions(masks, size), size)

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """As :func:`mmssl.promptable.utils.amg.postprocess_small_regions`; :meth:`generate` does it too."""
        return postprocess_small_regions(mask_data, min_area, nms_thresh)

    def num_batches(self, size: Sequence[int]) -> int:
        """Number of batches of points, in all crops, for an image of (height, width)."""
        _, layers = self._crops(size)
        return sum(-(-len(self.point_grids[layer]) // self.points_per_batch) for layer in layers)

    @torch.no_grad()
    def masks(self, image: np.ndarray, after_batch: Callable[[], None] | None = None) -> list[Mask]:
        """As :meth:`generate`, as run lengths; ``after_batch`` is called after each batch of points."""
        size = image.shape[:2]
        masks = []
        crops, layers = self._crops(size)
        for crop, layer in zip(crops, layers, strict=True):
            left, top, right, bottom = crop
            self.predictor.set_image(image[top:bottom, left:right])
            masks += self._crop_masks(crop, size, self.point_grids[layer], after_batch)
            self.predictor.reset_image()
        if len(crops) > 1:  # masks of smaller crops first
            areas = [(mask.crop[2] - mask.crop[0]) * (mask.crop[3] - mask.crop[1]) for mask in masks]
            masks = suppress(masks, 1 / torch.tensor(areas), self.crop_nms_thresh)
        return self._without_small_regions(masks, size)

    def records(self, masks: list[Mask], size: tuple[int, int]) -> list[dict[str, Any]]:
        """Records of :meth:`generate` for masks of an image of (height, width)."""
        return [
            {
                'segmentation': self._segmentation(mask.runs, size),
                'area': area_of(mask.runs),
                'bbox': _as_xywh(mask.box),
                'predicted_iou': mask.iou,
                'point_coords': mask.points.tolist(),
                'stability_score': mask.stability,
                'crop_box': _as_xywh(mask.crop),
            }
            for mask in masks
        ]

    def _crops(self, size: Sequence[int]):
        return generate_crop_boxes((size[0], size[1]), self.crop_n_layers, self.crop_overlap_ratio)

    def _crop_masks(
        self,
        crop: tuple[int, int, int, int],
        size: tuple[int, int],
        grid: np.ndarray,
        after_batch: Callable[[], None] | None = None,
    ) -> list[Mask]:
        """Masks of the crop that the predictor has encoded, without those that its edge cuts off."""
        left, top, right, bottom = crop
        points = grid * np.array([[right - left, bottom - top]])
        masks: list[Mask] = []
        for start in range(0, len(points), self.points_per_batch):
            masks += self._batch_masks(points[start : start + self.points_per_batch], crop, size)
            if after_batch is not None:
                after_batch()
        return suppress(masks, torch.tensor([mask.iou for mask in masks]), self.box_nms_thresh)

    def _batch_masks(
        self, points: np.ndarray, crop: tuple[int, int, int, int], size: tuple[int, int]
    ) -> list[Mask]:
        """Stable masks of points (P, 2) in pixels of the crop."""
        left, top, right, bottom = crop
        logits, ious = self._decode(points)
        confident = confidence_mask(ious, self._min_iou)
        point_index = confident.nonzero()[:, 0].cpu().numpy()
        scores = ious[confident].cpu().numpy()
        full_size = full_size_masks(
            logits,
            self.predictor.model,
            CropSizes(self.predictor.sizes()[0], (bottom - top, right - left), size[0], left, top),
            self.stability_score_offset,
            self.stability_score_thresh if self.stability_score_thresh > 0 else None,
            lambda box: not is_box_near_crop_edge(shift_box(box, left, top), crop, size),
        )
        corner = np.array([left, top])
        return [
            Mask(
                mask.runs,
                shift_box(mask.box, left, top),
                float(scores[mask.row]),
                float(mask.stability),
                points[point_index[mask.row]][None] + corner,
                crop,
            )
            for mask in full_size
            if mask.runs is not None
        ]

    @property
    def _min_iou(self) -> float | None:
        return self.pred_iou_thresh if self.pred_iou_thresh > 0 else None

    def _decode(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits (K, 4h, 4w) of the confident masks of points (P, 2), and predicted IoU (P, M) of all."""
        predictor = self.predictor
        encoder, device = predictor.model.prompt_encoder, predictor.device
        resized = predictor.transform.apply_coords(points, predictor.sizes()[1])
        coords = torch.from_numpy(resized).to(device=device, dtype=widest_float(device))[:, None]
        labels = torch.ones(len(points), 1, dtype=torch.int32, device=device)
        sparse, dense = encoder(points=(coords, labels), boxes=None, masks=None)
        logits, ious = confident_masks(
            predictor.model.mask_decoder,
            predictor.get_image_embedding(),
            encoder.get_dense_pe(),
            sparse,
            dense[:1],
            self._min_iou,
        )
        return logits, ious.float()

    def _without_small_regions(self, masks: list[Mask], size: tuple[int, int]) -> list[Mask]:
        if self.min_mask_region_area <= 0:
            return masks
        threshold = max(self.box_nms_thresh, self.crop_nms_thresh)
        return remove_small_regions(masks, size, self.min_mask_region_area, threshold)

    def _segmentation(self, runs: np.ndarray, size: tuple[int, int]) -> np.ndarray | dict:
        if self.output_mode == 'binary_mask':
            return mask_of(runs, size)
        counts = counts_of(runs, size[0] * size[1]).tolist()
        if self.output_mode == 'coco_rle':
            return coco_code(counts, size)
        return {'size': list(size), 'counts': counts}


def batch_counter(progress: Progress | None, total: int) -> Callable[[], None] | None:
    """A function that counts its calls and reports them as ``progress(count, total)``."""
    if progress is None:
        return None
    count = 0

    def advance() -> None:
        nonlocal count
        count += 1
        progress(count, total)

    return advance


def _grids(
    points_per_side: int | None, point_grids: list[np.ndarray] | None, n_layers: int, downscale_factor: int
) -> list[np.ndarray]:
    """Points (N, 2) of the whole image and of each layer of crops."""
    if (points_per_side is None) == (point_grids is None):
        raise ValueError(
            'give points_per_side or point_grids: both or neither leave the points open '
            '(points_per_side=None goes with point_grids)'
        )
    if point_grids is None:
        assert points_per_side is not None
        sides = [int(points_per_side / downscale_factor**layer) for layer in range(n_layers + 1)]
        if min(sides) < 1:
            raise ValueError(
                f'points_per_side={points_per_side} leaves {sides} points per side in the layers of crops; '
                f'give more, or a smaller crop_n_points_downscale_factor than {downscale_factor}'
            )
        point_grids = [build_point_grid(side) for side in sides]
    if len(point_grids) <= n_layers:
        raise ValueError(
            f'{len(point_grids)} point_grids for the whole image and {n_layers} layers of crops; give one '
            'each'
        )
    return [np.asarray(grid, dtype=np.float64).reshape(-1, 2) for grid in point_grids]


def _as_xywh(box: Sequence[int]) -> list[int]:
    return [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])]
