"""Checks and rounding shared by the operators on regions of interest."""

import torch
from torch import Tensor

from mmssl.ops.switch import values_readable


def check_rois(name: str, features: Tensor, rois: Tensor, channels: int, formula: str) -> None:
    """Raise if features and RoIs do not fit together.

    Args:
        name: Name of the operator, for messages.
        features: Expected to be (B, channels, H, W).
        rois: Expected to be (N, 5).
        channels: Number of channels that the operator needs.
        formula: How the number of channels comes about, for messages.

    Raises:
        TypeError: Features or rois are not floating point.
        ValueError: A shape is wrong, the devices differ, or an image index is outside the batch (checked on
            the CPU only).
    """
    if not (features.is_floating_point() and rois.is_floating_point()):
        raise TypeError(
            f'{name} needs floating point features and rois, not {features.dtype} and {rois.dtype}'
        )
    if features.dim() != 4 or features.shape[1] != channels:
        raise ValueError(
            f'{name} needs features (B, {channels}, H, W), {formula}; got {tuple(features.shape)}'
        )
    if features.shape[2] < 1 or features.shape[3] < 1:
        raise ValueError(f'{name} needs a map of at least one pixel, got {tuple(features.shape)}')
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            f'{name} needs rois (N, 5) as (image index, x1, y1, x2, y2), got {tuple(rois.shape)}; '
            'mmdet.structures.bbox.bbox2roi returns them in this form'
        )
    if features.device != rois.device:
        raise ValueError(
            f'{name} needs features and rois on one device, got {features.device} and {rois.device}'
        )
    check_image_indices(name, rois, features.shape[0])


def check_image_indices(name: str, rois: Tensor, batch: int) -> None:
    """Raise ValueError if RoIs (N, 5) are of images outside a batch; checked on the CPU only.

    Memory outside of the features would be read.
    """
    if values_readable(rois) and len(rois):
        first, last = (float(bound) for bound in rois[:, 0].detach().aminmax())
        if not (first >= 0 and last < batch):
            raise ValueError(
                f'{name}: image indices of rois go from {first:g} to {last:g}, but the batch of features '
                f'has {batch} images'
            )


def round_half_away(x: Tensor) -> Tensor:
    """Round halves away from zero, as C does; torch rounds them to even."""
    whole = x.trunc()
    return torch.where((x - whole).abs() >= 0.5, whole + x.sign(), whole)
