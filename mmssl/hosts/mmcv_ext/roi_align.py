"""RoI align with the arguments of mmcv's compiled operators."""

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.hosts.mmcv_ext.roi_align_max import max_backward, max_forward
from mmssl.ops.rois import check_image_indices
from mmssl.ops.switch import values_readable


def _check_sizes(rois: Tensor, spatial_scale: float, aligned: bool) -> None:
    """Raise for a region that is reversed or has NaN, if ``aligned``, as the compiled operator on the CPU."""
    if not aligned or not values_readable(rois):
        return
    corners = rois[:, 1:] * spatial_scale - 0.5
    refused = ~(corners[:, 2:] >= corners[:, :2]).all(1)
    if refused.any():
        index = int(refused.nonzero()[0, 0])
        raise ValueError(
            f'region {index} of roi_align, (x1, y1, x2, y2) = {tuple(rois[index, 1:].tolist())}, has a '
            'negative size or NaN; order its corners, or remove it'
        )


def roi_align_forward(  # noqa: PLR0913  mmcv's signature
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI align (arXiv:1703.06870).

    Args:
        input: (B, C, H, W).
        rois: (N, 5) as batch index, x1, y1, x2, y2.
        output: (N, C, aligned_height, aligned_width), filled.
        argmax_y: As ``output``, filled with the rows of the samples if ``pool_mode`` is 0.
        argmax_x: Their columns.
        aligned_height: Number of bins along the height.
        aligned_width: Number of bins along the width.
        spatial_scale: Size of the map relative to the image.
        sampling_ratio: Samples along each side of a bin; 0 for one per pixel.
        pool_mode: 1 for the mean of the samples, 0 for their maximum.
        aligned: Whether a pixel's centre is half a pixel from its index.

    Raises:
        ValueError: On the CPU, a region is of an image outside the batch or, with ``aligned``, has x2 < x1,
            y2 < y1 or NaN.
    """
    import torchvision

    check_image_indices('roi_align', rois, len(input))
    _check_sizes(rois, spatial_scale, aligned)
    features = as_float32(input)
    size = (aligned_height, aligned_width)
    if pool_mode == 0:
        results = max_forward(features, rois, size, spatial_scale, sampling_ratio, aligned)
        for buffer, result in zip((output, argmax_y, argmax_x), results, strict=True):
            buffer.copy_(result)
        return
    output.copy_(
        torchvision.ops.roi_align(
            features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned
        )
    )


def roi_align_backward(  # noqa: PLR0913  mmcv's signature
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input`` (B, C, H, W)."""
    import torchvision  # noqa: F401  registers the operator

    grad = as_float32(grad_output)
    if pool_mode == 0:
        max_backward(grad, rois, argmax_y.to(grad.dtype), argmax_x.to(grad.dtype), grad_input)
        return
    grad_input.add_(
        torch.ops.torchvision._roi_align_backward(
            grad,
            rois.to(grad.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )
