"""The sampling core of DCNv3 (InternImage, Wang et al., CVPR 2023, arXiv:2211.05778, equation 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.bilinear import bilinear_neighbours
from mmssl.ops.conv_geometry import Geometry, Pair, pair
from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.weighted_sum import weighted_sum


def dcnv3(  # noqa: PLR0913
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Sum bilinear samples at taps that are moved by offsets and weighted by a mask, group by group.

    Tap (a, b), with a along x and counted slowest, of the output at (h, w) samples at
    x = w * stride - padding + r + (a * dilation - r + dx) * offset_scale, where
    r = dilation * (kernel - 1) // 2, and at y likewise with b; outside the map is zero. InternImage divides
    the same positions by the padded size, for ``grid_sample``.

    Args:
        input: (B, H, W, C).
        offset: (B, Ho, Wo, groups * K * 2), (x, y) of the K taps in turn.
        mask: (B, Ho, Wo, groups * K), after the softmax over K.
        kernel_size: A number, or (y, x).
        stride: A number, or (y, x).
        padding: A number, or (y, x).
        dilation: A number, or (y, x).
        groups: Number of groups of channels, each with its own offsets and mask.
        offset_scale: Factor on the distance of the taps from their centre.
        remove_center: Leave out the middle tap; K is one less.
        backend: 'auto' or 'torch'; no released package has this operator.

    Returns:
        (B, Ho, Wo, C), in the data type of ``input``.

    Raises:
        ValueError: The shapes do not fit, the backend is unknown, or ``remove_center`` is set for an even
            kernel.
    """
    kernel = pair('kernel_size', kernel_size)
    geometry = Geometry(pair('stride', stride), pair('padding', padding), pair('dilation', dilation))
    if input.dim() != 4 or input.shape[3] % groups:
        raise ValueError(
            f'dcnv3 needs input (B, H, W, C) with C divisible by groups={groups}, got {tuple(input.shape)}'
        )
    if remove_center and (kernel[0] % 2 == 0 or kernel[0] != kernel[1]):
        raise ValueError(f'remove_center of dcnv3 needs an odd square kernel, not {kernel[0]}x{kernel[1]}')
    batch, height, width, channels = input.shape
    size = geometry.output_size((height, width), kernel)
    num_taps = kernel[0] * kernel[1] - int(remove_center)
    for name, tensor, values in (('offset', offset, 2), ('mask', mask, 1)):
        if tuple(tensor.shape) != (batch, *size, groups * num_taps * values):
            raise ValueError(
                f'{name} of dcnv3 must be ({batch}, {size[0]}, {size[1]}, {groups * num_taps * values}) for '
                f'{groups} groups of {num_taps} taps, got {tuple(tensor.shape)}'
            )
    pick('dcnv3', backend, input, ())
    input_dtype = input.dtype
    dtype = compute_type(input)
    with no_autocast(input):
        input, offset, mask = input.to(dtype), offset.to(dtype), mask.to(dtype)
        offset = offset.reshape(batch, *size, groups, num_taps, 2) * offset_scale
        y, x = _tap_positions(size, kernel, geometry, offset_scale, like=offset)
        if remove_center:
            y, x = (
                torch.cat((axis[..., : num_taps // 2], axis[..., num_taps // 2 + 1 :]), -1) for axis in (y, x)
            )
        index, weight = bilinear_neighbours(offset[..., 1] + y, offset[..., 0] + x, height, width)
        weight = weight * mask.reshape(batch, *size, groups, num_taps, 1)
        images = torch.arange(batch, device=input.device, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1)
        group = torch.arange(groups, device=input.device, dtype=torch.int32).view(-1, 1, 1)
        index = (index + images * ((height + 2) * (width + 2))) * groups + group
        table = F.pad(input, (0, 0, 1, 1, 1, 1)).reshape(-1, channels // groups)
        out = weighted_sum(table, index.flatten(4).flatten(0, 3), weight.flatten(4).flatten(0, 3))
        return out.view(batch, *size, channels).to(input_dtype)


def _tap_positions(
    size: tuple[int, int], kernel: tuple[int, int], geometry: Geometry, offset_scale: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """y (Ho, 1, 1, K) and x (Wo, 1, K) of the taps without offsets, in the order of the offsets."""
    centres, taps = [], []
    for axis in (0, 1):
        radius = geometry.dilation[axis] * (kernel[axis] - 1) // 2
        output = torch.arange(size[axis], device=like.device, dtype=like.dtype)
        centres.append(output * geometry.stride[axis] - geometry.padding[axis] + radius)
        tap = torch.arange(kernel[axis], device=like.device, dtype=like.dtype)
        taps.append((tap * geometry.dilation[axis] - radius) * offset_scale)
    y = centres[0].view(-1, 1, 1, 1) + taps[0].repeat(kernel[1])
    x = centres[1].view(-1, 1, 1) + taps[1].repeat_interleave(kernel[0])
    return y, x
