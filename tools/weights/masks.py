"""Masks of the training images of the packaged weights: regions, random shapes, annotations."""

import cv2
import numpy as np
from pycocotools import mask as coco

# ids of COCO's panoptic label maps up to this one are objects, which have masks of their own
LAST_THING = 91


def stuff_masks(label_map: np.ndarray, min_fraction: float = 0.02) -> list[np.ndarray]:
    """Return the connected regions of a panoptic label map that are no objects: sky, road, wall, ..."""
    masks = []
    for label in np.unique(label_map[label_map > LAST_THING]):
        count, parts = cv2.connectedComponents((label_map == label).astype(np.uint8))
        masks += [parts == index for index in range(1, count)]
    return [mask for mask in masks if mask.mean() > min_fraction]


def cut_out(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image and a mask to the mask's bounding box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    area = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return pixels[area].copy(), mask[area].copy()


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a random shape on (H, W): an ellipse, a polygon, or a smooth closed curve."""
    mask = np.zeros(size, np.uint8)
    centre = rng.uniform(0.15, 0.85, 2) * size[::-1]
    radius = max(size) * rng.uniform(0.06, 0.3)
    if rng.random() < 0.3:
        axes = (radius * rng.uniform(0.4, 1.0, 2)).astype(int) + 2
        cv2.ellipse(mask, tuple(map(int, centre)), tuple(map(int, axes)), rng.uniform(0, 180), 0, 360, 1, -1)
        return mask.astype(bool)
    corners = int(rng.integers(3, 8)) if rng.random() < 0.5 else 64
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    if corners < 64:
        lengths = rng.uniform(0.5, 1.0, corners)
    else:
        waves = [
            rng.uniform(0, 0.3 / n) * np.cos(n * angles + rng.uniform(0, 2 * np.pi)) for n in range(1, 6)
        ]
        lengths = 0.75 + np.sum(waves, axis=0)
    points = centre + radius * lengths[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
    return mask.astype(bool)


def record(mask: np.ndarray) -> dict:
    """Return a mask as an annotation of COCO."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        category_id=1,
        iscrowd=0,
        area=int(mask.sum()),
        bbox=[float(value) for value in coco.toBbox(rle)],
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
    )
