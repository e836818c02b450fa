"""What the operators on regions share: checks, rounding and names."""

import torch
from torch import Tensor

from mmssl.ops.dispatch import checks_values


def check_rois(name: str, features: Tensor, rois: Tensor, channels: int, formula: str) -> None:
    """Refuse arguments that do not belong together.

    Raises:
        TypeError: features or rois that are not floating point.
        ValueError: features not (B, channels, H, W), rois not (N, 5), another device, an image index outside
            the batch (CPU only).
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
            f'{name} needs rois (N, 5) as (image index, x1, y1, x2, y2), got {tuple(rois.shape)}; mmdet.structures.bbox '
            'bbox2roi makes them'
        )
    if features.device != rois.device:
        raise ValueError(
            f'{name} needs features and rois on one device, got {features.device} and {rois.device}'
        )
    if checks_values(rois) and len(rois):
        first, last = (float(bound) for bound in rois[:, 0].detach().aminmax())
        if not (first >= 0 and last < features.shape[0]):
            raise ValueError(
                f'{name}: image indices of rois go from {first:g} to {last:g}, but features hold {features.shape[0]} images'
            )


def round_half_away(x: Tensor) -> Tensor:
    """Rounding of C, halves away from zero; torch rounds them to even."""
    whole = x.trunc()
    return torch.where((x - whole).abs() >= 0.5, whole + x.sign(), whole)
