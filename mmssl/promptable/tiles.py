"""Automatic masks of images much larger than the model, in the memory of one tile and of the run lengths."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmssl.promptable.amg import Box, Mask, shift_box, suppress
from mmssl.promptable.automatic import Progress, SamAutomaticMaskGenerator, batch_counter
from mmssl.promptable.checks import check_image
from mmssl.promptable.rle import area_of, box_of_runs, covered, mask_of, rectangle, runs_of

# edges of a tile
LEFT, TOP, RIGHT, BOTTOM = range(4)


class TiledMaskGenerator:
    """Segment tiles at the resolution of the image, and join masks that are cut by the edges of tiles.

    Two masks of neighbouring tiles, at least one of which touches the common edge, are joined if they agree
    in the overlap and each is the best match of the other; chains of such pairs make objects of any size. An
    object that two tiles contain completely is deduplicated by non-maximum suppression of the boxes, complete
    masks first. A mask that its tile cuts off and the neighbour does not confirm is kept unchanged.

    (The official class drops masks that a crop cuts off, so objects larger than a crop can be lost.)

    Args:
        generator: Segments a tile, with all its settings; ``crop_nms_thresh`` also holds between tiles.
        tile: Longest side of a tile in pixels; None for the size that the model encodes.
        overlap: Pixels that neighbours share at least; None for a quarter of a tile.
        join_iou: Smallest IoU, in the overlap, of two masks that are joined.

    Raises:
        ValueError: An overlap out of range, or ``join_iou`` out of range.
    """

    def __init__(
        self,
        generator: SamAutomaticMaskGenerator,
        tile: int | None = None,
        overlap: int | None = None,
        join_iou: float = 0.5,
    ):
        self.generator = generator
        self.tile = generator.predictor.transform.target_length if tile is None else tile
        self.overlap = self.tile // 4 if overlap is None else overlap
        self.join_iou = join_iou
        if not 0 < self.overlap <= self.tile // 2:
            raise ValueError(
                f'overlap={overlap} of tiles of {self.tile} pixels; give at least 1 and at most half of a '
                f'tile, {self.tile // 2}'
            )
        if not 0 < join_iou <= 1:
            raise ValueError(f'join_iou={join_iou}; give an IoU above 0, at most 1')

    def generate(self, image: np.ndarray, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Generate the masks of an image.

        Args:
            image: (H, W, 3) uint8, RGB; an array in a file (``np.load(FILE, mmap_mode='r')``) is read tile
                by tile.
            progress: As in :meth:`SamAutomaticMaskGenerator.generate`.

        Returns:
            Records as :meth:`SamAutomaticMaskGenerator.generate` returns them. A joined mask has the points
            of its parts, their predicted IoU and stability weighted by area, and a 'crop_box' around their
            tiles. With ``output_mode='binary_mask'`` each needs the memory of the whole image.

        Raises:
            TypeError: As in :meth:`SamPredictor.set_image`.
            ValueError: As in :meth:`SamPredictor.set_image`.
        """
        check_image(image, self.generator.predictor.channels)
        size = image.shape[:2]
        after_batch = None if progress is None else batch_counter(progress, self.num_batches(size))
        return self.generator.records(self.masks(image, after_batch), size)

    def num_batches(self, size: tuple[int, int]) -> int:
        """Number of batches of points, in all tiles, for an image of (height, width)."""
        rows, columns = (spans(length, self.tile, self.overlap) for length in size)
        return sum(
            self.generator.num_batches((bottom - top, right - left))
            for (top, bottom), (left, right) in itertools.product(rows, columns)
        )

    def masks(self, image: np.ndarray, after_batch: Callable[[], None] | None = None) -> list[Mask]:
        """As :meth:`generate`, as run lengths; ``after_batch`` is called after each batch of points."""
        check_image(image, self.generator.predictor.channels)
        size = image.shape[:2]
        callbacks = () if after_batch is None else (after_batch,)
        rows, columns = (spans(length, self.tile, self.overlap) for length in size)
        if len(rows) == len(columns) == 1:
            return self.generator.masks(image, *callbacks)
        masks: list[Mask] = []
        members: dict[tuple[int, int], range] = {}
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            (top, bottom), (left, right) = rows[row], columns[column]
            tile = np.ascontiguousarray(image[top:bottom, left:right])
            first = len(masks)
            for mask in self.generator.masks(tile, *callbacks):
                masks.append(move_to_image(mask, (bottom - top, right - left), size, left, top))
            members[row, column] = range(first, len(masks))
        joiner = _Joiner(masks, size, self.join_iou)
        pairs = []
        for (row, column), group in members.items():
            pairs += joiner.matches(group, members.get((row, column + 1), range(0)), RIGHT)
            pairs += joiner.matches(group, members.get((row + 1, column), range(0)), BOTTOM)
        return joiner.join(pairs, self.generator.crop_nms_thresh)


class _Joiner:
    """Finds the masks of neighbouring tiles that are one object, and joins them.

    Args:
        masks: Masks of all tiles.
        size: (height, width) of the image.
        join_iou: Smallest IoU, in the overlap, of two masks that are joined.
    """

    def __init__(self, masks: list[Mask], size: tuple[int, int], join_iou: float):
        self.masks = masks
        self.size = size
        self.join_iou = join_iou
        self.cut_edges = [cut_edges(mask, size) for mask in masks]

    def matches(self, group: range, neighbours: range, edge: int) -> list[tuple[int, int]]:
        """Pairs of masks of a tile and of its neighbour at the right or at the bottom that are one object."""
        if not group or not neighbours:
            return []
        first, second = self.masks[group[0]].crop, self.masks[neighbours[0]].crop
        overlap = (
            max(first[0], second[0]),
            max(first[1], second[1]),
            min(first[2], second[2]),
            min(first[3], second[3]),
        )
        area = rectangle(*overlap, self.size[0])
        inside = {
            index: covered(self.masks[index].runs, area, min_count=2)
            for index in (*group, *neighbours)
            if intersects(self.masks[index].box, overlap)
        }
        ious = np.zeros((len(group), len(neighbours)))
        for row, column in itertools.product(range(len(group)), range(len(neighbours))):
            a, b = group[row], neighbours[column]
            cut = edge in self.cut_edges[a] or edge - 2 in self.cut_edges[b]
            if not cut or a not in inside or b not in inside:
                continue
            if intersects(self.masks[a].box, self.masks[b].box, beyond=0):
                common = area_of(covered(inside[a], inside[b], min_count=2))
                union = area_of(inside[a]) + area_of(inside[b]) - common
                ious[row, column] = common / max(union, 1)
        best = ious.argmax(1)
        return [
            (group[row], neighbours[column])
            for row, column in enumerate(best)
            if ious[row, column] >= self.join_iou and ious[:, column].argmax() == row
        ]

    def join(self, pairs: list[tuple[int, int]], nms_threshold: float) -> list[Mask]:
        """Join masks that pairs connect, and suppress duplicates by their boxes."""
        parent = list(range(len(self.masks)))

        def root(index: int) -> int:
            while parent[index] != index:
                parent[index] = index = parent[parent[index]]
            return index

        for a, b in pairs:
            parent[max(root(a), root(b))] = min(root(a), root(b))
        groups: dict[int, list[int]] = {}
        for index in range(len(self.masks)):
            groups.setdefault(root(index), []).append(index)
        height = self.size[0]
        masks = [join_masks([self.masks[i] for i in indices], height) for indices in groups.values()]
        partial = [len(indices) == 1 and bool(self.cut_edges[indices[0]]) for indices in groups.values()]
        scores = [mask.iou - 1e3 * last for mask, last in zip(masks, partial, strict=True)]
        return suppress(masks, torch.tensor(scores), nms_threshold)


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """First and end of equally long tiles along an axis, spread evenly, sharing at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [(length - tile) * index // (count - 1) for index in range(count)]
    return [(start, start + tile) for start in starts]


def move_to_image(mask: Mask, tile: tuple[int, int], size: tuple[int, int], left: int, top: int) -> Mask:
    """Turn a mask of a tile of (height, width) into one of the image of (height, width)."""
    return Mask(
        runs_of(mask_of(mask.runs, tile), size[0], left, top),
        shift_box(mask.box, left, top),
        mask.iou,
        mask.stability,
        mask.points + np.array([left, top]),
        (left, top, left + tile[1], top + tile[0]),
    )


def join_masks(masks: list[Mask], height: int) -> Mask:
    """Union of masks of an image of that height."""
    if len(masks) == 1:
        return masks[0]
    weights = np.array([area_of(mask.runs) for mask in masks], dtype=float)
    weights = weights / weights.sum() if weights.any() else np.full(len(masks), 1 / len(masks))
    runs = covered(*(mask.runs for mask in masks))
    corners = np.array([mask.crop for mask in masks])
    crop = (*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist())
    return Mask(
        runs,
        box_of_runs(runs, height),
        float(weights @ [mask.iou for mask in masks]),
        float(weights @ [mask.stability for mask in masks]),
        np.concatenate([mask.points for mask in masks]),
        crop,
    )


def cut_edges(mask: Mask, size: tuple[int, int]) -> set[int]:
    """Edges of its tile that a mask touches and that are no edges of the image of (height, width)."""
    left, top, right, bottom = mask.crop
    edges = (left, top, right - 1, bottom - 1)
    inner = left > 0, top > 0, right < size[1], bottom < size[0]
    return {
        index
        for index, (value, edge) in enumerate(zip(mask.box, edges, strict=True))
        if value == edge and inner[index]
    }


def intersects(box: Box, other: Box, beyond: int = 1) -> bool:
    """True if a box meets another; right and bottom are inclusive, of the other one ``beyond`` too large."""
    return (
        box[0] <= other[2] - beyond
        and box[1] <= other[3] - beyond
        and box[2] >= other[0]
        and box[3] >= other[1]
    )
