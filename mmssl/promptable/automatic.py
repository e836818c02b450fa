"""Masks of everything in an image: the interface of the official ``SamAutomaticMaskGenerator``, with the same masks."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.promptable.full_size import FullSize
from mmssl.promptable.predictor import SamPredictor, check_image
from mmssl.promptable.rle import area_of, box_of_runs, coco_code, counts_of, mask_of, runs_of

MODES = ('binary_mask', 'uncompressed_rle', 'coco_rle')
# pixels within which a box counts as touching the border of a crop
NEAR = 20


class Mask(NamedTuple):
    """One automatic mask.

    Attributes:
        runs: see :mod:`mmssl.promptable.rle`.
        box: left, top, right, bottom, inclusive, in pixels of the image.
        iou: predicted IoU.
        stability: IoU of the mask at a higher and at a lower threshold.
        points: (N, 2), x and y of the prompts that gave it, in pixels of the image.
        crop: left, top, right, bottom of the crop that it was found in, the last two exclusive.
    """

    runs: np.ndarray
    box: tuple[int, int, int, int]
    iou: float
    stability: float
    points: np.ndarray
    crop: tuple[int, int, int, int]


class SamAutomaticMaskGenerator:
    """Prompts a model with a grid of points and keeps the good masks, each once. Arguments and records of the official class.

    Masks that are not predicted to be good are never enlarged, the others only where they may be, and become
        run lengths one by one: memory
    does not grow with the number of points. The official class makes all masks of a batch at the size of the
    image in float32.

    Args:
        model: a :class:`mmssl.SAM`, or a :class:`mmssl.InteractiveSAM`.
        points_per_side: points along a side of the grid; None with ``point_grids``.
        points_per_batch: points that are decoded at a time.
        pred_iou_thresh: predicted IoU is above it; 0 keeps all.
        stability_score_thresh: stability is at least that; 0 keeps all.
        stability_score_offset: of the two thresholds that stability compares.
        box_nms_thresh: of two boxes in a crop that overlap more, the one with the lower predicted IoU goes.
        crop_n_layers: layers of crops beside the whole image; layer i has ``2**i`` crops a side.
        crop_nms_thresh: of two boxes of different crops that overlap more, the one of the larger crop goes.
        crop_overlap_ratio: overlap of the crops of the first layer, of the shorter side of the image.
        crop_n_points_downscale_factor: layer i has so many times fewer points a side, to the power of i.
        point_grids: (N, 2) x and y from 0 to 1 for every layer, in place of ``points_per_side``.
        min_mask_region_area: holes and islands with fewer pixels are removed; needs opencv.
        output_mode: 'binary_mask', 'uncompressed_rle' or 'coco_rle' (needs pycocotools).
        cache_dir: folder for embeddings, see :class:`SamPredictor`.

    Raises:
        ValueError: an argument out of range; points twice or not at all; a grid too few for the layers.
    """

    def __init__(
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
        if (points_per_side is None) == (point_grids is None):
            raise ValueError(
                'give points_per_side or point_grids: both or neither leave the points open (points_per_side=None goes with '
                'point_grids)'
            )
        if output_mode not in MODES:
            raise ValueError(f'output_mode={output_mode!r}; one of {", ".join(map(repr, MODES))}')
        if points_per_batch < 1 or crop_n_layers < 0 or crop_n_points_downscale_factor < 1:
            raise ValueError(
                f'points_per_batch={points_per_batch} and crop_n_points_downscale_factor={crop_n_points_downscale_factor} '
                f'must be at least 1, crop_n_layers={crop_n_layers} at least 0'
            )
        if point_grids is None:
            sides = [
                int(points_per_side / crop_n_points_downscale_factor**layer)
                for layer in range(crop_n_layers + 1)
            ]
            if min(sides) < 1:
                raise ValueError(
                    f'points_per_side={points_per_side} leaves {sides} points a side in the layers of crops; give more, or a '
                    f'smaller crop_n_points_downscale_factor than {crop_n_points_downscale_factor}'
                )
            point_grids = [grid_of_points(side) for side in sides]
        if len(point_grids) <= crop_n_layers:
            raise ValueError(
                f'{len(point_grids)} point_grids for the whole image and {crop_n_layers} layers of crops; give one each'
            )
        if output_mode == 'coco_rle':
            import pycocotools.mask  # noqa: F401  what is missing is said before the work
        if min_mask_region_area > 0:
            import cv2  # noqa: F401
        self.predictor = SamPredictor(model, cache_dir)
        self.point_grids = [np.asarray(grid, dtype=np.float64).reshape(-1, 2) for grid in point_grids]
        self.points_per_batch, self.pred_iou_thresh = points_per_batch, pred_iou_thresh
        self.stability_score_thresh, self.stability_score_offset = (
            stability_score_thresh,
            stability_score_offset,
        )
        self.box_nms_thresh, self.crop_nms_thresh = box_nms_thresh, crop_nms_thresh
        self.crop_n_layers, self.crop_overlap_ratio = crop_n_layers, crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area, self.output_mode = min_mask_region_area, output_mode

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Masks of an image.

        Args:
            image: (H, W, 3) uint8, RGB.

        Returns:
            for each mask a dict of 'segmentation' ((H, W) bool or a dict of run lengths), 'area' in pixels,
            'bbox' (left, top, width, height), 'predicted_iou', 'point_coords' [[x, y]], 'stability_score' and
            'crop_box' (left, top, width, height). Empty where nothing survives.

        Raises:
            TypeError, ValueError: as :meth:`SamPredictor.set_image`.
        """
        check_image(image)
        return self.records(self.masks(image), image.shape[:2])

    @torch.no_grad()
    def generate_encoded(
        self, features: Tensor, input_size: Sequence[int], original_size: Sequence[int]
    ) -> list[dict[str, Any]]:
        """As :meth:`generate`, of an image that is encoded already; arguments of :meth:`SamPredictor.set_embedding`.

        Raises:
            ValueError: layers of crops, which need the image.
        """
        if self.crop_n_layers:
            raise ValueError(
                f'crop_n_layers={self.crop_n_layers} needs the image, and there is an embedding alone; give it to generate'
            )
        self.predictor.set_embedding(features, input_size, original_size)
        _, size = self.predictor.sizes()
        height, width = size
        found = self.crop_masks((0, 0, width, height), size, self.point_grids[0])
        self.predictor.reset_image()
        return self.records(self._mended(found, size), size)

    def masks(self, image: np.ndarray) -> list[Mask]:
        """As :meth:`generate`, as run lengths."""
        size = image.shape[:2]
        crops = crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        found = []
        for crop, layer in crops:
            self.predictor.set_image(image[crop[1] : crop[3], crop[0] : crop[2]])
            found += self.crop_masks(crop, size, self.point_grids[layer])
            self.predictor.reset_image()
        if len(crops) > 1:  # masks of smaller crops first
            areas = torch.tensor(
                [(mask.crop[2] - mask.crop[0]) * (mask.crop[3] - mask.crop[1]) for mask in found]
            )
            found = suppress(found, 1 / areas, self.crop_nms_thresh)
        return self._mended(found, size)

    def _mended(self, found: list[Mask], size: tuple[int, int]) -> list[Mask]:
        if self.min_mask_region_area <= 0:
            return found
        return without_small_regions(
            found, size, self.min_mask_region_area, max(self.box_nms_thresh, self.crop_nms_thresh)
        )

    def crop_masks(self, crop: Sequence[int], size: tuple[int, int], grid: np.ndarray) -> list[Mask]:
        """Masks of the crop that the predictor has as its image, without those that its border cuts off.

        Args:
            crop: left, top, right, bottom.
            size: (height, width) of the image.
            grid: (N, 2) points from 0 to 1.
        """
        left, top, right, bottom = crop
        predictor = self.predictor
        enlarge = FullSize(
            predictor.model, predictor.sizes()[0], (bottom - top, right - left), size[0], left, top
        )
        points = grid * np.array([[right - left, bottom - top]])
        found = []
        for start in range(0, len(points), self.points_per_batch):
            batch = points[start : start + self.points_per_batch]
            found += self._batch(
                batch, enlarge, crop, lambda box: not is_cut(shifted(box, left, top), crop, size)
            )
        return suppress(found, torch.tensor([mask.iou for mask in found]), self.box_nms_thresh)

    def _batch(
        self, points: np.ndarray, enlarge: FullSize, crop: Sequence[int], wanted: Callable
    ) -> list[Mask]:
        logits, ious = self.decode(points)
        good = (
            torch.ones_like(ious, dtype=torch.bool)
            if self.pred_iou_thresh <= 0
            else ious > self.pred_iou_thresh
        )
        numbers, scores = good.nonzero()[:, 0].cpu().numpy(), ious[good].cpu().numpy()
        least = self.stability_score_thresh if self.stability_score_thresh > 0 else None
        left, top, right, bottom = crop
        corner = np.array([left, top])
        return [
            Mask(
                found.runs,
                shifted(found.box, *corner.tolist()),
                float(scores[found.number]),
                float(found.stability),
                points[numbers[found.number]][None] + corner,
                (left, top, right, bottom),
            )
            for found in enlarge(logits, self.stability_score_offset, least, wanted)
            if found.runs is not None
        ]

    def decode(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Masks of points that are predicted to be good.

        Args:
            points: (P, 2) in pixels of the predictor's image.

        Returns:
            logits (K, 4h, 4w) and predicted IoU (P, M) float32; K of them are above ``pred_iou_thresh``.
        """
        predictor = self.predictor
        encoder = predictor.model.prompt_encoder
        coords = torch.from_numpy(predictor.transform.apply_coords(points, predictor.sizes()[1]))[:, None]
        if predictor.device.type == 'mps':  # has no float64
            coords = coords.float()
        labels = torch.ones(len(points), 1, dtype=torch.int32, device=predictor.device)
        sparse, _ = encoder(points=(coords.to(predictor.device), labels), boxes=None, masks=None)
        least = self.pred_iou_thresh if self.pred_iou_thresh > 0 else None
        logits, ious = predictor.model.mask_decoder.confident(
            predictor.image_side(), sparse, encoder.image_embedding_size, least
        )
        return logits, ious.float()

    def records(self, masks: list[Mask], size: tuple[int, int]) -> list[dict[str, Any]]:
        """What :meth:`generate` returns for masks of an image of (height, width)."""
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

    def _segmentation(self, runs: np.ndarray, size: tuple[int, int]) -> np.ndarray | dict:
        if self.output_mode == 'binary_mask':
            return mask_of(runs, size)
        counts = counts_of(runs, size[0] * size[1]).tolist()
        return (
            coco_code(counts, size)
            if self.output_mode == 'coco_rle'
            else {'size': list(size), 'counts': counts}
        )


def grid_of_points(side: int) -> np.ndarray:
    """(side * side, 2) centres of the cells of a grid over the unit square, row by row."""
    offset = 1 / (2 * side)
    places = np.linspace(offset, 1 - offset, side)
    return np.stack([np.tile(places, side), np.repeat(places, side)], axis=1)


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> list[tuple[tuple[int, int, int, int], int]]:
    """The whole image and its crops: (left, top, right, bottom) and the layer, column by column of each layer."""
    height, width = size
    crops = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        side = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / side))
        wide, high = (int(math.ceil((overlap * (side - 1) + edge) / side)) for edge in (width, height))
        crops += [
            ((left, top, min(left + wide, width), min(top + high, height)), layer)
            for left, top in product(
                [(wide - overlap) * number for number in range(side)],
                [(high - overlap) * number for number in range(side)],
            )
        ]
    return crops


def shifted(box: tuple[int, int, int, int], left: int, top: int) -> tuple[int, int, int, int]:
    """A box moved."""
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def is_cut(box: Sequence[int], crop: Sequence[int], size: tuple[int, int], near: float = NEAR) -> bool:
    """Whether a box reaches a border of a crop that is not near a border of the image of (height, width)."""
    image = (0, 0, size[1], size[0])
    return any(
        abs(edge - border) <= near < abs(edge - end)
        for edge, border, end in zip(box, crop, image, strict=True)
    )


def suppress(masks: list[Mask], scores: Tensor, threshold: float) -> list[Mask]:
    """Non-maximum suppression by boxes; what is left, best first."""
    try:
        from torchvision.ops import batched_nms
    except ImportError:
        raise ImportError('automatic masks need the package torchvision: pip install torchvision') from None
    if not masks:
        return []
    boxes = torch.tensor([mask.box for mask in masks], dtype=torch.float32)
    return [
        masks[number]
        for number in batched_nms(boxes, scores.float(), torch.zeros(len(boxes)), threshold).tolist()
    ]


def without_small_regions(
    masks: list[Mask], size: tuple[int, int], least: int, threshold: float
) -> list[Mask]:
    """Fill holes and drop islands of fewer than ``least`` pixels, then suppress again: masks that were changed lose."""
    mended, unchanged = [], []
    for one in masks:
        before = mask_of(one.runs, size)
        after = _large_regions(_large_regions(before, least, holes=True), least, holes=False)
        unchanged.append(float(after is before))
        if after is not before:
            runs = runs_of(after)
            one = one._replace(runs=runs, box=box_of_runs(runs, size[0]))
        mended.append(one)
    return suppress(mended, torch.tensor(unchanged), threshold)


def _large_regions(mask: np.ndarray, least: int, holes: bool) -> np.ndarray:
    """The mask with small holes filled, or without small islands; itself where there are none. The largest island stays."""
    import cv2

    count, parts, stats, _ = cv2.connectedComponentsWithStats((mask ^ holes).astype(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA]
    small = np.append(False, sizes[1:] < least)
    if not small.any():
        return mask
    kept = small | (np.arange(count) == 0) if holes else ~small & (np.arange(count) > 0)
    if not holes and not kept.any():
        kept[1 + sizes[1:].argmax()] = True
    return kept[parts]


def _as_xywh(box: Sequence[int]) -> list[int]:
    return [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])]
