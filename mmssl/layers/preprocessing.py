"""Data preprocessors: images travel to the device as bytes and are normalised there.

Those of the toolboxes copy a list of channel numbers to the device for every view or image, where the CPU
waits for it, and make three passes over the images in float32. Results are equal.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import ImgDataPreprocessor as MMEngineImgDataPreprocessor
from mmengine.utils import is_seq_of
from torch import Tensor

from mmssl.ops.normalize import normalize_images
from mmssl.ops.value_range import check_value_range, scale_images
from mmssl.registry import MODELS

if TYPE_CHECKING:
    from mmengine.model import ImgDataPreprocessor as _Base
else:
    _Base = object  # a data preprocessor of mmengine, mmdet or mmseg follows in the order of resolution


class FastNormalization(_Base):
    """What the data preprocessors of this package override in those of the toolboxes.

    Args:
        *args: Passed on to the toolbox's.
        non_blocking: Copy from pinned memory without waiting for the device.
        value_range: Values that become 0 and 255 before ``mean`` and ``std`` apply: (low, high), such a pair
            for each channel in the order of the file, or 'image' for percentiles of each image. The loader
            transform needs ``value_range='raw'``. None for images that are from 0 to 255.
        mean: One value for each channel, or a single one; of any number of channels.
        std: As ``mean``.
        **kwargs: Passed on to the toolbox's.

    Attributes:
        memory_format: Memory format of the batches of methods whose views are stacked by the loader.
    """

    memory_format = torch.preserve_format
    _enable_normalize: bool
    _channel_conversion: bool
    # whether the toolbox's forward pass gets images that are on the device and normalised
    _prepared = False

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *args,
        non_blocking: bool = True,
        value_range: Any = None,
        **kwargs,
    ):
        # the toolboxes refuse other numbers of channels than 1 and 3
        is_usual = mean is None or std is None or len(mean) in (1, 3)
        super().__init__(*((mean, std) if is_usual else (None, None)), *args, **kwargs)
        if not is_usual:
            assert mean is not None and std is not None
            self._enable_normalize = True
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)
        self._non_blocking = non_blocking
        if value_range == 'window':
            raise ValueError("value_range='window' is for the loader transform, which reads the files")
        self.value_range = check_value_range(value_range)

    def cast_data(self, data: Any) -> Any:
        """Copy the tensors in ``data`` to the device."""
        return data if self._prepared else super().cast_data(data)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale the values of images (..., C, H, W), change BGR to RGB and normalise, as the settings say."""
        images = self._scale(images)
        mean, std = (self.mean, self.std) if self._enable_normalize else (None, None)
        memory_format = self.memory_format if images.ndim == 4 else torch.preserve_format
        return normalize_images(images, mean, std, self._channel_conversion, memory_format)

    def _scale(self, images: Tensor) -> Tensor:
        if self.value_range is None:
            return images
        return scale_images(images, self.value_range, reverse=images.shape[-3] == 3)

    def forward(self, data: dict, training: bool = False) -> Any:
        """Normalise the images, then pad and stack them as the toolbox does."""
        if self._enable_normalize and self.mean.dtype == torch.float64:
            if self.value_range is not None:
                raise ValueError('a data preprocessor with a value_range takes a mean and std of float32')
            return super().forward(data, training)  # which rounds images to float32 before it normalises them
        data = self.cast_data(data)
        inputs = data['inputs']
        if isinstance(inputs, Tensor):
            data['inputs'] = self.normalize(inputs)
        elif is_seq_of(inputs, Tensor):  # the toolbox refuses anything else
            data['inputs'] = [self.normalize(image) for image in inputs]
        with self._only_padding():
            return super().forward(data, training)

    @contextlib.contextmanager
    def _only_padding(self) -> Iterator[None]:
        settings = self._enable_normalize, self._channel_conversion
        self._prepared = True
        self._enable_normalize = False
        self._channel_conversion = False
        try:
            yield
        finally:
            self._prepared = False
            self._enable_normalize, self._channel_conversion = settings


@MODELS.register_module()
class ImgDataPreprocessor(FastNormalization, MMEngineImgDataPreprocessor):
    """mmengine's ImgDataPreprocessor for images (3, H, W) of any sizes, padded to a batch (B, 3, H, W)."""


@MODELS.register_module()
class SelfSupDataPreprocessor(FastNormalization, MMEngineImgDataPreprocessor):
    """Data preprocessor of self-supervised methods: a batch (B, 3, H, W), or a list of one for each view.

    Args:
        *args: Passed on to mmengine's ImgDataPreprocessor.
        to_rgb: As ``bgr_to_rgb``.
        **kwargs: Passed on to mmengine's ImgDataPreprocessor; nothing is padded.
    """

    def __init__(self, *args, to_rgb: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self._channel_conversion = self._channel_conversion or to_rgb

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``dict(inputs=..., data_samples=...)`` with normalised images."""
        if not isinstance(data, dict):
            raise TypeError(
                f"a batch is a {type(data).__name__}; give the loader collate_fn=dict(type='default_collate')"
            )
        data = self.cast_data(data)
        inputs = data['inputs']
        if isinstance(inputs, (list, tuple)):
            inputs = [self.normalize(view) for view in inputs]
        else:
            inputs = self.normalize(inputs)
        return {'inputs': inputs, 'data_samples': data.get('data_samples')}
