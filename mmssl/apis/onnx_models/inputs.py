"""Images as the graphs take them: RGB pixels, normalised and padded inside the graph."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import UserError


class ImageInput(nn.Module):
    """Normalise and pad a batch as the data preprocessor of a model does at test time.

    Args:
        preprocessor: Data preprocessor of a toolbox or of this package.
        dtype: Data type of the results.

    Raises:
        UserError: The model does not take images of three channels from 0 to 255.
    """

    def __init__(self, preprocessor: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        # files are read as BGR, which the preprocessor then flips or leaves
        converts = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'to_rgb', False))
        self.takes_bgr = not converts
        self.is_normalized = bool(getattr(preprocessor, '_enable_normalize', False))
        if getattr(preprocessor, 'value_range', None) is not None:
            raise UserError(
                f'value_range={preprocessor.value_range!r} of the data preprocessor: a graph takes pixels '
                'from 0 to 255; export a model of such images'
            )
        if self.is_normalized:
            if preprocessor.mean.numel() not in (1, 3):
                raise UserError(
                    f'the model takes {preprocessor.mean.numel()} channels; a graph takes RGB, of 3 channels'
                )
            self.register_buffer('mean', preprocessor.mean.float().view(-1, 1, 1).clone())
            self.register_buffer('std', preprocessor.std.float().view(-1, 1, 1).clone())
        test_cfg = getattr(preprocessor, 'test_cfg', None) or {}
        self.divisor = int(getattr(preprocessor, 'pad_size_divisor', 0) or test_cfg.get('size_divisor') or 1)
        self.min_size = tuple(test_cfg.get('size') or (0, 0))
        value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
        self.pad_value = float(value)

    def forward(self, image: Tensor) -> Tensor:
        """Prepare images.

        Args:
            image: (B, 3, H, W), RGB, 0 to 255.

        Returns:
            (B, 3, H', W'), padded at the bottom and at the right.
        """
        height, width = image.shape[2:]
        if self.takes_bgr:
            image = image.flip(1)
        if self.is_normalized:
            image = (image - self.mean) / self.std
        if self.divisor > 1:
            # also without need: a trace has no branches
            down, right = (-height % self.divisor, -width % self.divisor)
            image = F.pad(image, (0, right, 0, down), value=self.pad_value)
        elif any(self.min_size):
            down, right = (
                torch.clamp(torch.as_tensor(least - size), min=0)
                for least, size in zip(self.min_size, (height, width), strict=True)
            )
            image = F.pad(image, (0, right, 0, down), value=self.pad_value)
        return image.to(self.dtype)
