"""Automatic masks of images much larger than the model: tile by tile, in the memory of one tile and of the run lengths found."""

import itertools
from typing import Any

import numpy as np
import torch

from mmssl.promptable.automatic import Mask, SamAutomaticMaskGenerator, shifted, suppress
from mmssl.promptable.predictor import check_image
from mmssl.promptable.rle import area_of, box_of_runs, covered, mask_of, rectangle, runs_of

Box = tuple[int, int, int, int]


class TiledMaskGenerator:
    """Segments tiles at the image's own resolution and joins what they cut.

    Crops of the official class see the whole image first, make masks of its full size and drop what a crop
        cuts off: an object that is
    larger than a crop and small in the whole image is lost. Here masks of two neighbouring tiles of which at
    least one reaches its border there are one object where they agree in the overlap, each being the other's
    best match; chains of such pairs make objects of any size. What both tiles see whole is there twice until
    boxes suppress each other, whole masks first. A mask that its tile cuts off and that the neighbour does
    not confirm stays as it is.

    Args:
        generator: segments a tile, with all its settings; of boxes that overlap more than its
            ``crop_nms_thresh`` one stays.
        tile: longest side of a tile in pixels; None: what the model encodes.
        overlap: pixels that neighbours share at least; None: a quarter of a tile.
        join_iou: least IoU in the overlap of two masks that become one.

    Raises:
        ValueError: an overlap that does not leave tiles apart; ``join_iou`` out of range.
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
                f'overlap={overlap} of tiles of {self.tile} pixels; give at least 1 and at most half of a tile, '
                f'{self.tile // 2}'
            )
        if not 0 < join_iou <= 1:
            raise ValueError(f'join_iou={join_iou}; give an IoU above 0, at most 1')

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Masks of an image.

        Args:
            image: (H, W, 3) uint8, RGB; an array in a file (``np.load(FILE, mmap_mode='r')``) is read tile by
                tile.

        Returns:
            records as :meth:`SamAutomaticMaskGenerator.generate` gives them; a joined mask has the points of
            its parts, their predicted IoU and stability weighted by area, and a 'crop_box' around their
            tiles. With ``output_mode='binary_mask'`` each takes the memory of the whole image.

        Raises:
            TypeError, ValueError: as :meth:`SamPredictor.set_image`.
        """
        return self.generator.records(self.masks(image), image.shape[:2])

    def masks(self, image: np.ndarray) -> list[Mask]:
        """As :meth:`generate`, as run lengths."""
        check_image(image)
        size = image.shape[:2]
        rows, columns = (spans(edge, self.tile, self.overlap) for edge in size)
        if len(rows) == len(columns) == 1:
            return self.generator.masks(image)
        found: list[Mask] = []
        members: dict[tuple[int, int], range] = {}
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            (top, bottom), (left, right) = rows[row], columns[column]
            tile = np.ascontiguousarray(image[top:bottom, left:right])
            first = len(found)
            found += [
                placed(mask, (bottom - top, right - left), size, left, top)
                for mask in self.generator.masks(tile)
            ]
            members[row, column] = range(first, len(found))
        cut = [_sides(mask, size) for mask in found]
        pairs = []
        for (row, column), here in members.items():
            for other, side in (((row, column + 1), 2), ((row + 1, column), 3)):
                if other in members:
                    pairs += self._matches(found, cut, here, members[other], side, size)
        return self._merged(found, cut, pairs, size)

    def _matches(
        self,
        found: list[Mask],
        cut: list[set[int]],
        here: range,
        there: range,
        side: int,
        size: tuple[int, int],
    ) -> list:
        """Pairs of masks of a tile and of its neighbour at the right (side 2) or below (3) that are one object."""
        if not here or not there:
            return []
        one, other = found[here[0]].crop, found[there[0]].crop
        shared = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
        area = rectangle(*shared, size[0])
        inside = {
            number: covered(found[number].runs, area, least=2)
            for number in (*here, *there)
            if _meet(found[number].box, shared)
        }
        ious = np.zeros((len(here), len(there)))
        for row, column in itertools.product(range(len(here)), range(len(there))):
            a, b = here[row], there[column]
            if (
                (side in cut[a] or side - 2 in cut[b])
                and a in inside
                and b in inside
                and _meet(found[a].box, found[b].box, 0)
            ):
                common = area_of(covered(inside[a], inside[b], least=2))
                ious[row, column] = common / max(area_of(inside[a]) + area_of(inside[b]) - common, 1)
        best = ious.argmax(1)
        return [
            (here[row], there[column])
            for row, column in enumerate(best)
            if ious[row, column] >= self.join_iou and ious[:, column].argmax() == row
        ]

    def _merged(
        self, found: list[Mask], cut: list[set[int]], pairs: list[tuple[int, int]], size: tuple[int, int]
    ) -> list[Mask]:
        """Masks that pairs connect as one, then suppression by boxes."""
        group = list(range(len(found)))

        def root(number: int) -> int:
            while group[number] != number:
                group[number] = number = group[group[number]]
            return number

        for a, b in pairs:
            group[max(root(a), root(b))] = min(root(a), root(b))
        parts: dict[int, list[int]] = {}
        for number in range(len(found)):
            parts.setdefault(root(number), []).append(number)
        masks = [joined([found[number] for number in numbers], size[0]) for numbers in parts.values()]
        partial = [len(numbers) == 1 and bool(cut[numbers[0]]) for numbers in parts.values()]
        scores = torch.tensor([mask.iou - 1e3 * late for mask, late in zip(masks, partial, strict=True)])
        return suppress(masks, scores, self.generator.crop_nms_thresh)


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """First and end of tiles along an axis, of the same length, spread evenly, sharing at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    return [
        (start, start + tile)
        for start in ((length - tile) * number // (count - 1) for number in range(count))
    ]


def placed(mask: Mask, tile: tuple[int, int], size: tuple[int, int], left: int, top: int) -> Mask:
    """A mask of a tile of (height, width) as one of the image of (height, width)."""
    runs = runs_of(mask_of(mask.runs, tile), size[0], left, top)
    return Mask(
        runs,
        shifted(mask.box, left, top),
        mask.iou,
        mask.stability,
        mask.points + np.array([left, top]),
        (left, top, left + tile[1], top + tile[0]),
    )


def joined(masks: list[Mask], height: int) -> Mask:
    """One mask of several."""
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


def _sides(mask: Mask, size: tuple[int, int]) -> set[int]:
    """Borders of its tile (0 left, 1 top, 2 right, 3 below) that a mask reaches and that are none of the image."""
    reached = [
        edge == border
        for edge, border in zip(mask.box, (*mask.crop[:2], mask.crop[2] - 1, mask.crop[3] - 1), strict=True)
    ]
    inner = mask.crop[0] > 0, mask.crop[1] > 0, mask.crop[2] < size[1], mask.crop[3] < size[0]
    return {side for side in range(4) if reached[side] and inner[side]}


def _meet(box: Box, other: Box, beyond: int = 1) -> bool:
    """Whether a box, inclusive, meets another, of which the last two are ``beyond`` the end."""
    return (
        box[0] <= other[2] - beyond
        and box[1] <= other[3] - beyond
        and box[2] >= other[0]
        and box[3] >= other[1]
    )
