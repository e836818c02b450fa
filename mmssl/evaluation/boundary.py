"""How good a segmentation is near boundaries: accuracy inside and outside a band, and Boundary IoU."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.logging import MMLogger

from mmssl.evaluation.confusion import mean_of_known
from mmssl.evaluation.segmentation import AccumulatingMetric
from mmssl.registry import METRICS


def boundary_band(label: np.ndarray, width: float, ignore_index: int = 255) -> np.ndarray:
    """Pixels near a change of label (GCN, arXiv:1703.02719, section 4.1.3).

    Args:
        label: (H, W) integers.
        width: largest distance in pixels, from centre to centre, to a pixel with a neighbour of another
            label.
        ignore_index: its pixels make no boundary.

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
    """Pixels of every class that ``distance`` erosions by 3 x 3 take away, the image's border included (Boundary IoU, arXiv:2103.16562).

    A pixel stays where all pixels of the square of 2 * distance + 1 around it have its label, for all classes
    at once.

    Args:
        label: (H, W) integers, up to 16 bits.
        distance: in pixels, at least 1.

    Returns:
        (H, W) bool.
    """
    image = np.asarray(label).astype(np.float32)
    values = cv2.copyMakeBorder(
        image, distance, distance, distance, distance, cv2.BORDER_CONSTANT, value=-1.0
    )
    kernel = np.ones((2 * distance + 1, 1), np.uint8)
    inside = slice(distance, -distance)
    low, high = (
        operation(operation(values, kernel), kernel.T)[inside, inside]
        for operation in (cv2.erode, cv2.dilate)
    )
    return low != high


@METRICS.register_module()
class BoundaryMetric(AccumulatingMetric):
    """Pixel accuracy inside and outside a band around the label's boundaries, and Boundary IoU, in percent. No host has either.

    Args:
        width: of the band to each side, in pixels; the GCN paper's is 7.
        dilation_ratio: thickness of the contours that Boundary IoU compares, as a share of the image's
            diagonal; its paper's is 0.02.
        ignore_index: pixels with this value in either map do not count.
        prefix: of the names.
    """

    def __init__(
        self,
        width: float = 7,
        dilation_ratio: float = 0.02,
        ignore_index: int = 255,
        prefix: str | None = None,
    ):
        super().__init__(prefix=prefix)
        if not width >= 0 or not dilation_ratio > 0:
            raise ValueError(
                f'width={width} of BoundaryMetric must not be negative, and dilation_ratio={dilation_ratio} must be above 0'
            )
        self.width, self.dilation_ratio, self.ignore_index = width, dilation_ratio, ignore_index

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        classes = len((self.dataset_meta or {}).get('classes') or ())
        for sample in data_samples:
            pred, label = (
                sample[name]['data'].squeeze(0).cpu().numpy() for name in ('pred_sem_seg', 'gt_sem_seg')
            )
            self.add(self.count(pred, label, max(classes, 2)))

    def count(self, pred: np.ndarray, label: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
        """Summands of one image.

        Args:
            pred, label: (H, W) integers.
            num_classes: C.

        Returns:
            'band', (2, 2) int64, [outside, inside] x [right, all]; 'contour', (2, C) int64, [in both
            contours, in either].
        """
        counted = (label != self.ignore_index) & (pred != self.ignore_index)
        band, right = boundary_band(label, self.width, self.ignore_index), pred == label
        table = np.array(
            [[(right & counted & zone).sum(), (counted & zone).sum()] for zone in (~band, band)],
            dtype=np.int64,
        )
        distance = max(1, round(self.dilation_ratio * float(np.hypot(*label.shape))))
        contours = [(inner_boundary(values, distance) & counted, values) for values in (label, pred)]
        sizes = [
            np.bincount(values[contour].astype(np.int64), minlength=num_classes)[:num_classes]
            for contour, values in contours
        ]
        both = contours[0][0] & contours[1][0] & right
        common = np.bincount(label[both].astype(np.int64), minlength=num_classes)[:num_classes]
        return {'band': table, 'contour': np.stack([common, sizes[0] + sizes[1] - common]).astype(np.int64)}

    def compute_sum(self, total: dict) -> dict[str, float]:
        """'boundary_acc', 'interior_acc' and 'boundary_IoU' in percent; one that does not exist is left out and named."""
        if not total:
            raise ValueError('no image was evaluated: the data set is empty')
        (right_out, all_out), (right_in, all_in) = total['band'].tolist()
        common, union = total['contour']
        ious = np.divide(common, union, out=np.full(len(union), np.nan), where=union > 0)
        values = {
            'boundary_acc': right_in / all_in if all_in else None,
            'interior_acc': right_out / all_out if all_out else None,
            'boundary_IoU': mean_of_known(ious) if not np.isnan(ious).all() else None,
        }
        missing = [name for name, value in values.items() if value is None]
        if missing:
            MMLogger.get_current_instance().info(f'no pixel to count for {", ".join(missing)}')
        return {name: 100 * value for name, value in values.items() if value is not None}
