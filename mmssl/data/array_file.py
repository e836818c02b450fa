"""The pages of an image file, each an array of values."""

import abc

import numpy as np


class ArrayFile(abc.ABC):
    """The pages of an open file, each an array of values.

    Attributes:
        pages: Number of pages: pages of a TIFF, frames of a DICOM file, arrays of a stack.
        orientation: EXIF orientation, 1 to 8.
        no_data: Value that stands for no data (GDAL's tag of GeoTIFF), or None.
    """

    pages: int
    orientation: int = 1
    no_data: float | None = None

    @abc.abstractmethod
    def size(self, page: int) -> tuple[int, int]:
        """Return height and width of a page without decoding it."""

    @abc.abstractmethod
    def read(self, page: int) -> np.ndarray:
        """Return the values of a page, (H, W, C)."""

    def window(self, page: int) -> tuple[float, float] | None:
        """Return the values that a viewer shows as black and as white, if the file says so."""
        return None
