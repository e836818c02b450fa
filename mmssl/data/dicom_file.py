"""DICOM, read by pydicom: frames after the modality LUT, and the windows that they are shown with."""

import io
from typing import Any

import numpy as np

from mmssl.data.array_file import ArrayFile

_EXTENDED_JPEG = '1.2.840.10008.1.2.4.51'  # 8 or 12 bits
_BYTE_BITS = 8
# decoders of imagecodecs by transfer syntax, for which pydicom needs further packages
_DECODERS = {
    _EXTENDED_JPEG: 'jpeg_decode',
    '1.2.840.10008.1.2.4.57': 'ljpeg_decode',
    '1.2.840.10008.1.2.4.70': 'ljpeg_decode',
    '1.2.840.10008.1.2.4.80': 'jpegls_decode',
    '1.2.840.10008.1.2.4.81': 'jpegls_decode',
}


class DicomFile(ArrayFile):
    """A DICOM file, its modality LUT or rescale slope and intercept applied: CT in Hounsfield units.

    Args:
        data: Bytes of the file.
    """

    def __init__(self, data: bytes):
        import pydicom

        self._dataset = pydicom.dcmread(io.BytesIO(data))
        self.pages = int(self._dataset.get('NumberOfFrames', None) or 1)

    def size(self, page: int) -> tuple[int, int]:
        """Return height and width of a frame without decoding it."""
        return self._dataset.Rows, self._dataset.Columns

    def read(self, page: int) -> np.ndarray:
        """Return the values of a frame, (H, W, C); colors of palettes are looked up."""
        from pydicom.pixels import apply_color_lut, apply_modality_lut, convert_color_space

        dataset = self._dataset
        values = self._decode(page)
        space = dataset.PhotometricInterpretation
        if values.ndim == 3:
            return convert_color_space(values, space, 'RGB') if space.startswith('YBR_FULL') else values
        if space == 'PALETTE COLOR':
            return apply_color_lut(values, dataset)
        rescale = self._of_frame(page, 'PixelValueTransformationSequence')
        if rescale is not None:
            return (values * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept))[..., None]
        return apply_modality_lut(values, dataset)[..., None]

    def _decode(self, page: int) -> np.ndarray:
        """Return the stored values of a frame; lossless JPEG, JPEG-LS and 12-bit JPEG by imagecodecs."""
        from pydicom.encaps import get_frame
        from pydicom.pixels import pixel_array

        syntax = str(self._dataset.file_meta.TransferSyntaxUID)
        decode = _DECODERS.get(syntax)
        if decode is None or (syntax == _EXTENDED_JPEG and self._dataset.BitsStored <= _BYTE_BITS):
            return pixel_array(self._dataset, index=page, raw=True)
        import imagecodecs

        frame = get_frame(self._dataset.PixelData, page, number_of_frames=self.pages)
        values = getattr(imagecodecs, decode)(frame)
        if not self._dataset.PixelRepresentation:
            return values
        unused = 8 * values.dtype.itemsize - self._dataset.BitsStored
        return (values << unused).view(f'i{values.dtype.itemsize}') >> unused

    def window(self, page: int) -> tuple[float, float] | None:
        """Return what a viewer shows as black and as white: PS3.3, C.11.2.1.2.

        Low is above high where small values are white (MONOCHROME1).

        Raises:
            ValueError: The window is no linear function.
        """
        source = self._of_frame(page, 'FrameVOILUTSequence') or self._dataset
        center, width = (_first(source.get(name)) for name in ('WindowCenter', 'WindowWidth'))
        if center is None or width is None:
            return None
        function = source.get('VOILUTFunction') or 'LINEAR'
        if function == 'LINEAR' and width > 1:
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        elif function == 'LINEAR_EXACT' and width > 0:
            low, high = center - width / 2, center + width / 2
        else:
            raise ValueError(f'its window of {width:g} ({function}) is no range; set value_range=(low, high)')
        return (high, low) if self._dataset.PhotometricInterpretation == 'MONOCHROME1' else (low, high)

    def _of_frame(self, page: int, name: str) -> Any:
        """Return an item of the functional groups of enhanced multi-frame images, or None."""
        each = self._dataset.get('PerFrameFunctionalGroupsSequence') or []
        shared = self._dataset.get('SharedFunctionalGroupsSequence') or []
        for group in [*each[page : page + 1], *shared[:1]]:
            if group.get(name):
                return group[name].value[0]
        return None


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers."""
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return None if value is None else float(value)
