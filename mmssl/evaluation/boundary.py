"""Quality of a segmentation near boundaries: accuracy inside and outside a band, and Boundary IoU."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.logging import MMLogger

from mmssl.evaluation.accumulating import AccumulatingMetric
from mmssl.evaluation.class_maps import as_maps, check_values
from mmssl.evaluation.confusion import mean_of_known
from mmssl.evaluation.segmentation import naming_file
from mmssl.registry import METRICS

# value of pixels beyond the border of the image and of ignored ones
NO_CLASS = np.int32(-1)


def boundary_band(label: np.ndarray, width: float, ignore_index: int = 255) -> np.ndarray:
    """Mask of the pixels near a change of label (GCN, arXiv:1703.02719, section 4.1.3).

    Args:
        label: (H, W) integers.
        width: Maximum distance in pixels, between pixel centres, to a pixel that has a neighbour with another
            label.
        ignore_index: Label whose pixels have no boundary.

    Returns:
        (H, W) bool.
    """
    label = np.asarray(label)
    edge = np.zeros(label.shape, np.uint8)
    known = label != ignore_index
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        change = (label[before] != label[after]) & known[before] & known[after]
        edge[before] |= change
        edge[after] |= change
    if not edge.any():
        return edge.astype(bool)
    return cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= width


def inner_boundary(label: np.ndarray, distance: int) -> np.ndarray:
    """Mask of the pixels that ``distance`` erosions by 3 x 3 remove from each class (Boundary IoU).

    Everything beyond the border of the image belongs to no class (arXiv:2103.16562, section 4). All classes
    are eroded at once: a pixel remains if all pixels of the square of 2 * distance + 1 around it have its
    label.

    Args:
        label: (H, W) integers of up to 16 bits.
        distance: Number of erosions, at least 1.

    Returns:
        (H, W) bool.
    """
    image = np.asarray(label).astype(np.float32)
    values = cv2.copyMakeBorder(
        image, distance, distance, distance, distance, cv2.BORDER_CONSTANT, value=float(NO_CLASS)
    )
    kernel = np.ones((2 * distance + 1, 1), np.uint8)
    smallest = cv2.erode(cv2.erode(values, kernel), kernel.T)
    largest = cv2.dilate(cv2.dilate(values, kernel), kernel.T)
    return (smallest != largest)[distance:-distance, distance:-distance]


@METRICS.register_module()
class BoundaryMetric(AccumulatingMetric):
    """Pixel accuracy inside and outside a band around the boundaries, and Boundary IoU, in percent.

    Args:
        width: Width of the band on each side of a boundary, in pixels; 7 in the GCN paper.
        dilation_ratio: Thickness of the contours that Boundary IoU compares, as a fraction of the diagonal of
            the image; 0.02 in its paper.
        ignore_index: Pixels whose label is this value are not counted, and belong to no class.
        prefix: Prefix of the names of the scores.
        trimap_widths: Further widths, for the accuracy inside the band as a function of its width: a trimap.
    """

    def __init__(
        self,
        width: float = 7,
        dilation_ratio: float = 0.02,
        ignore_index: int = 255,
        prefix: str | None = None,
        trimap_widths: Sequence[float] = (),
    ):
        super().__init__(prefix=prefix)
        if not width >= 0 or not dilation_ratio > 0:
            raise ValueError(
                f'width={width} of BoundaryMetric must not be negative, and dilation_ratio={dilation_ratio} '
                'must be above 0'
            )
        if any(not each >= 0 for each in trimap_widths):
            raise ValueError(f'trimap_widths={tuple(trimap_widths)} of BoundaryMetric must not be negative')
        self.width = width
        self.trimap_widths = tuple(trimap_widths)
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: The sizes differ, or a value is not a class; the file is named.
        """
        classes = len((self.dataset_meta or {}).get('classes') or ())
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy()
            label = sample['gt_sem_seg']['data'].squeeze(0).cpu().numpy()
            with naming_file(sample):
                self.add(self.count(pred, label, max(classes, 2)), sample)

    def count(self, pred: np.ndarray, label: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
        """Count the pixels of an image.

        Args:
            pred: (H, W) predicted classes.
            label: (H, W) true classes.
            num_classes: C.

        Returns:
            'band', (2, 2) int64, [outside, inside] x [correct, all]; 'contour', (2, C) int64, [in both
            contours, in either]; with ``trimap_widths`` also 'trimap', (widths, 2) int64, [correct, all].

        Raises:
            ValueError: See :func:`mmssl.evaluation.confusion.confusion_matrix`.
        """
        pred, label = as_maps(pred, label)
        check_values(pred, label, num_classes, self.ignore_index)
        valid = label != self.ignore_index
        correct = pred == label
        inside = boundary_band(label, self.width, self.ignore_index)
        band = [[(correct & valid & zone).sum(), (valid & zone).sum()] for zone in (~inside, inside)]

        distance = max(1, round(self.dilation_ratio * float(np.hypot(*label.shape))))
        # nothing is known about ignored pixels, so the prediction has the same border to them as the label
        label_contour = inner_boundary(np.where(valid, label, NO_CLASS), distance) & valid
        pred_contour = inner_boundary(np.where(valid, pred, NO_CLASS), distance) & valid
        common = _count(label[label_contour & pred_contour & correct], num_classes)
        union = _count(label[label_contour], num_classes) + _count(pred[pred_contour], num_classes) - common
        counts = {'band': np.array(band, dtype=np.int64), 'contour': np.stack([common, union])}
        if self.trimap_widths:
            zones = [boundary_band(label, each, self.ignore_index) & valid for each in self.trimap_widths]
            counts['trimap'] = np.array([[(correct & zone).sum(), zone.sum()] for zone in zones])
        return counts

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Return 'boundary_acc', 'interior_acc' and 'boundary_IoU' in percent.

        ``trimap_widths`` add 'trimap_acc.3' and so on, by the width.

        A score without any pixel is left out and logged.
        """
        if not total:
            raise ValueError('no image was evaluated: the dataset is empty')
        (correct_outside, all_outside), (correct_inside, all_inside) = total['band'].tolist()
        common, union = total['contour']
        ious = np.divide(common, union, out=np.full(len(union), np.nan), where=union > 0)
        values = {
            'boundary_acc': correct_inside / all_inside if all_inside else None,
            'interior_acc': correct_outside / all_outside if all_outside else None,
            'boundary_IoU': mean_of_known(ious) if not np.isnan(ious).all() else None,
        }
        trimap = total['trimap'].tolist() if self.trimap_widths else []
        for width, (correct, count) in zip(self.trimap_widths, trimap, strict=True):
            values[f'trimap_acc.{width:g}'] = correct / count if count else None
        missing = [name for name, value in values.items() if value is None]
        if missing:
            MMLogger.get_current_instance().info(f'no pixel to count for {", ".join(missing)}')
        return {name: 100 * value for name, value in values.items() if value is not None}


def _count(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of pixels of each class."""
    return np.bincount(values.astype(np.int64), minlength=num_classes)
