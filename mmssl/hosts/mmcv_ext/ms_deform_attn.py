"""Multi-scale deformable attention (Zhu et al., ICLR 2021, arXiv:2010.04159, equation 3) as mmcv calls it."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.hosts.mmcv_ext.gradients import gradients
from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.precision import no_autocast


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    num_queries = locations.shape[1]
    out = value.new_zeros(batch * heads, channels, num_queries)
    for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(batch * heads, channels, height, width)
        points = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * heads, Q, P, 2) as (x, y)
        # at exactly one pixel outside the map the compiled operator's gradient is the one from outside, 0
        pixels = points.detach() * points.new_tensor([width, height]) - 0.5
        points = torch.where((pixels > -1).all(-1, keepdim=True), points, points.detach())
        samples = F.grid_sample(maps, 2 * points - 1, align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        out = out + (samples * weight[:, None]).sum(-1)
    return out.view(batch, heads * channels, num_queries).transpose(1, 2).contiguous()


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum weighted bilinear samples of all levels.

    Args:
        value: (B, S, heads, C), the pixels of all levels in turn.
        value_spatial_shapes: (L, 2), height and width of the levels.
        value_level_start_index: (L,), first pixel of the levels.
        sampling_locations: (B, Q, heads, L, P, 2) as (x, y), 0 to 1 across the map.
        attention_weights: (B, Q, heads, L, P).
        im2col_step: Not used.

    Returns:
        (B, Q, heads * C).
    """
    locations, weights = as_float32(sampling_locations), as_float32(attention_weights)
    with no_autocast(value):
        out = _attend(as_float32(value), locations, weights, value_spatial_shapes, value_level_start_index)
    return out.to(value.dtype)


def ms_deform_attn_backward(  # noqa: PLR0913  mmcv's signature
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradients of :func:`ms_deform_attn_forward` to the three buffers."""
    compute = functools.partial(_attend, shapes=value_spatial_shapes, starts=value_level_start_index)
    inputs = [value, sampling_locations, attention_weights]
    buffers = (grad_value, grad_sampling_loc, grad_attn_weight)
    for buffer, gradient in zip(buffers, gradients(compute, inputs, grad_output), strict=True):
        buffer.add_(gradient)
