"""Predictions of large images, tile by tile."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# boxes nearer to the inner border of a tile than this, in pixels, are cut by it
BORDER = 2.0
NMS_IOU = 0.5


class Tiling(NamedTuple):
    """How images are cut into tiles.

    Attributes:
        size: Side of a tile in pixels.
        overlap: Pixels that a tile shares with the next one at least.
    """

    size: int
    overlap: int

    def check(self) -> None:
        """Raise ValueError unless tiles overlap, and go on."""
        if self.size < 1 or not 0 <= self.overlap < self.size:
            raise ValueError(f'--overlap {self.overlap} must be at least 0 and below --tile {self.size}')

    def applies(self, width: int, height: int) -> bool:
        """Whether an image is larger than a tile."""
        return max(width, height) > self.size

    def starts(self, length: int) -> list[int]:
        """Return where tiles begin along a side; the last one ends with it."""
        last = max(0, length - self.size)
        return [*range(0, last, self.size - self.overlap), last]


def detect_in_tiles(
    image: np.ndarray, tiling: Tiling, detect: Callable[[np.ndarray], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the objects of an image, found tile by tile.

    A box that is cut by the border of a tile and is smaller than the overlap is left out, since another tile
    holds it whole. Of boxes of a class that cover each other with an IoU above 0.5, the best is kept.

    Args:
        image: (H, W, 3).
        tiling: The tiles.
        detect: Returns 'bboxes' (N, 4), 'labels' (N,), 'scores' (N,) and maybe 'masks', run lengths, of a
            tile.

    Returns:
        The same for the image, best first.
    """
    height, width = image.shape[:2]
    boxes, labels, scores, masks = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], [], []
    for left, top, tile in _tiles(image, tiling):
        result = detect(tile)
        corners = np.asarray(result['bboxes'], np.float32).reshape(-1, 4)
        offset = np.array([left, top, left, top], np.float32)
        whole = ~_is_cut(corners, (left, top), tile.shape[:2], (height, width), tiling.overlap)
        boxes.append(corners[whole] + offset)
        labels.append(np.asarray(result['labels'])[whole])
        scores.append(np.asarray(result['scores'])[whole])
        if 'masks' in result:
            masks += [
                _moved(result['masks'][index], left, top, (height, width)) for index in np.flatnonzero(whole)
            ]
    all_boxes, all_labels = np.concatenate(boxes), np.concatenate(labels)
    all_scores = np.concatenate(scores)
    best = suppress(all_boxes, all_scores, all_labels, NMS_IOU)
    merged = {'bboxes': all_boxes[best], 'labels': all_labels[best], 'scores': all_scores[best]}
    return {**merged, 'masks': [masks[index] for index in best]} if masks else merged


def segment_in_tiles(
    image: np.ndarray, tiling: Tiling, scores_of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the scores of the rows of an image, means over the tiles that cover each pixel.

    Only the rows of one row of tiles are in memory.

    Args:
        image: (H, W, 3).
        tiling: The tiles.
        scores_of: Returns the scores (C, h, w) of the classes of a tile.

    Yields:
        (C, rows, W) float32, from the top to the bottom.
    """
    height, width = image.shape[:2]
    tops = tiling.starts(height)
    total: np.ndarray | None = None
    count = np.zeros((min(height, tiling.size), width), np.float32)
    for index, top in enumerate(tops):
        bottom = min(height, top + tiling.size)
        for left in tiling.starts(width):
            right = min(width, left + tiling.size)
            scores = scores_of(np.ascontiguousarray(image[top:bottom, left:right]))
            if total is None:
                total = np.zeros((len(scores), *count.shape), np.float32)
            total[:, :, left:right] += scores
            count[:, left:right] += 1
        assert total is not None
        done = tops[index + 1] - top if index + 1 < len(tops) else bottom - top
        yield total[:, :done] / count[:done]
        if index + 1 < len(tops):
            rest = total.shape[1] - done
            total[:, :rest], count[:rest] = total[:, done:].copy(), count[done:].copy()
            total[:, rest:], count[rest:] = 0, 0


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Return the indices of the boxes that non-maximum suppression keeps in each class, best first.

    Args:
        boxes: (N, 4), left, top, right, bottom.
        scores: (N,).
        labels: (N,) integers.
        iou: IoU above which the lower score is left out.
    """
    import torch
    from torchvision.ops import nms

    order = np.argsort(-scores, kind='stable')
    is_best = np.zeros(len(order), bool)
    for label in np.unique(labels):
        (of_class,) = np.nonzero(labels[order] == label)
        chosen = order[of_class]
        corners, values = (torch.from_numpy(each[chosen].astype(np.float32)) for each in (boxes, scores))
        indices = nms(corners, values, iou)
        is_best[of_class[indices.numpy()]] = True
    return order[is_best]


def _tiles(image: np.ndarray, tiling: Tiling) -> Iterator[tuple[int, int, np.ndarray]]:
    height, width = image.shape[:2]
    for top in tiling.starts(height):
        for left in tiling.starts(width):
            tile = image[top : top + tiling.size, left : left + tiling.size]
            yield left, top, np.ascontiguousarray(tile)


def _is_cut(
    boxes: np.ndarray,
    start: tuple[int, int],
    tile_size: tuple[int, int],
    image_size: tuple[int, int],
    overlap: int,
) -> np.ndarray:
    """Return (N,) bool, which boxes an inner border of a tile cuts and another tile holds whole.

    Args:
        boxes: (N, 4) in pixels of the tile.
        start: (left, top) of the tile.
        tile_size: (height, width) of the tile.
        image_size: (height, width) of the image.
        overlap: Pixels that tiles share at least.
    """
    cut = np.zeros(len(boxes), bool)
    for axis in (0, 1):  # x, y
        side, length = tile_size[1 - axis], image_size[1 - axis]
        first, last = boxes[:, axis], boxes[:, axis + 2]
        is_small = last - first < overlap - BORDER
        if start[axis] > 0:
            cut |= (first < BORDER) & is_small
        if start[axis] + side < length:
            cut |= (last > side - BORDER) & is_small
    return cut


def _moved(rle: Mapping[str, Any], left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run lengths of a mask of a tile in the whole image."""
    from mmssl.data.label_formats.shapes import coco_masks, encode

    part = coco_masks().decode(dict(rle)).astype(bool)
    mask = np.zeros(size, bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode(mask)
