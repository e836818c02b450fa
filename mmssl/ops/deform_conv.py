"""Deformable convolution (Dai et al., ICCV 2017, arXiv:1703.06211).

Version 2 is modulated by a mask (Zhu et al., CVPR 2019, arXiv:1811.11168, equation 1):

    y(p) = sum over k of w_k * x(p + p_k + dp_k) * m_k

with tap k at p_k of a regular grid, its learned offset dp_k, and in version 2 its mask m_k; x between
pixels is interpolated bilinearly, and zero outside the map.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.bilinear import bilinear_neighbours
from mmssl.ops.conv_geometry import Geometry, Pair, check_shapes, pair
from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.switch import cpu, eager, exporting_onnx, fast_form
from mmssl.ops.weighted_sum import weighted_sum


def deform_conv2d(  # noqa: PLR0913
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Convolve with taps that are moved by offsets and, with a mask, weighted (version 2).

    Arguments and result are those of ``torchvision.ops.deform_conv2d``. The gradients are mmcv's: a tap at
    exactly row or column -1 gives its offset none. Half precision and autocast compute in float32.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 * offset_groups * K, Ho, Wo), (y, x) of the K taps in turn, in pixels of the map; taps
            row by row.
        weight: (O, C / groups, kh, kw) with K = kh * kw. ``groups`` follows from its shape and
            ``offset_groups`` from the shape of ``offset``.
        bias: (O,).
        stride: A number, or (y, x).
        padding: A number, or (y, x).
        dilation: A number, or (y, x).
        mask: (B, offset_groups * K, Ho, Wo).
        backend: 'auto', 'torch', 'torchvision' or 'mmcv'.

    Returns:
        (B, O, Ho, Wo), in the data type of ``input``.

    Raises:
        ValueError: The shapes do not fit, or the backend is unknown.
    """
    geometry = Geometry(pair('stride', stride), pair('padding', padding), pair('dilation', dilation))
    check_shapes(input, offset, weight, bias, mask, geometry)
    # torchvision's operator is a single node of a compiled graph, for any size; in eager mode on the CPU the
    # form in this file is faster
    auto = 'torch' if (cpu([input]) and eager()) or exporting_onnx() else 'torchvision'
    backend = pick('deform_conv2d', backend, input, ('torchvision', 'mmcv'), auto)
    compute: Callable[..., Tensor] = {'torch': _torch, 'torchvision': _torchvision, 'mmcv': _mmcv}[backend]
    dtype = compute_type(input, weight)
    arguments = (
        None if tensor is None else tensor.to(dtype) for tensor in (input, offset, weight, bias, mask)
    )
    with no_autocast(input):
        return compute(*arguments, geometry).to(input.dtype)


def _torch(input, offset, weight, bias, mask, geometry):
    batch, channels, height, width = input.shape
    # numbers of channels and taps are constants of a compiled graph, sizes of maps are not
    out_channels, in_group, *kernel_size = (int(size) for size in weight.shape)
    num_taps = kernel_size[0] * kernel_size[1]
    offset_groups = int(offset.shape[1]) // (2 * num_taps)
    groups = int(channels) // in_group
    out_size = offset.shape[2:]

    positions = _sampling_positions(offset, kernel_size, geometry).flatten(3).unflatten(2, (num_taps, 2))
    # contiguous, since a compiler of unknown sizes proves little about orders of strides
    y, x = positions.permute(3, 0, 4, 2, 1).contiguous().unbind()  # (B, P, K, offset_groups) each
    index, bilinear = bilinear_neighbours(y, x, height, width)
    if mask is not None:
        modulation = mask.flatten(2).unflatten(1, (offset_groups, num_taps)).permute(0, 3, 2, 1)
        bilinear = bilinear * modulation.contiguous().unsqueeze(-1)
    images = torch.arange(batch, device=input.device, dtype=torch.int32).view(-1, 1, 1, 1, 1)
    group = torch.arange(offset_groups, device=input.device, dtype=torch.int32).view(-1, 1)
    index = (index + images * ((height + 2) * (width + 2))) * offset_groups + group
    table = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels // offset_groups)
    kernel = weight.reshape(groups, out_channels // groups, in_group, num_taps).transpose(2, 3).flatten(2)
    size = batch, out_size[0] * out_size[1]
    out = sampled_product(table, index.flatten(0, 3), bilinear.flatten(0, 3), kernel, size, num_taps)
    out = out.view(batch, out_channels, *out_size)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def _sampling_positions(offset: Tensor, kernel_size: Sequence[int], geometry: Geometry) -> Tensor:
    """Positions of all taps in the map, (B, offset_groups, 2 * K, Ho, Wo), y and x in turn."""
    num_taps = kernel_size[0] * kernel_size[1]
    tap = torch.arange(num_taps, device=offset.device).view(-1, 1, 1)
    row = torch.arange(offset.shape[2], device=offset.device).view(-1, 1)
    column = torch.arange(offset.shape[3], device=offset.device)
    (stride_y, stride_x), (padding_y, padding_x), (dilation_y, dilation_x) = geometry
    y = row * stride_y - padding_y + tap // kernel_size[1] * dilation_y
    x = column * stride_x - padding_x + tap % kernel_size[1] * dilation_x
    grid = torch.stack(torch.broadcast_tensors(y, x), 1).flatten(0, 1)
    return offset.unflatten(1, (-1, 2 * num_taps)) + grid.to(offset.dtype)


@fast_form('mmssl.ops.fast.deform_conv:sampled_product', when=cpu)
def sampled_product(
    table: Tensor, index: Tensor, weight: Tensor, kernel: Tensor, size: tuple[int, int], num_taps: int
) -> Tensor:
    """Multiply the kernel with the samples of all taps (im2col and a matrix product).

    Args:
        table: (R, C / offset_groups), the pixels of the padded maps.
        index: (B * P * K * offset_groups, 4), rows of the table that a sample interpolates between.
        weight: (B * P * K * offset_groups, 4).
        kernel: (groups, O / groups, K * C / groups).
        size: (B, P), number of images and of output positions.
        num_taps: K.

    Returns:
        (B, O, P).
    """
    groups, _, depth = kernel.shape
    columns = weighted_sum(table, index, weight).view(*size, num_taps, groups, depth // num_taps)
    columns = columns.permute(0, 3, 2, 4, 1).reshape(size[0], groups, depth, size[1])
    return torch.matmul(kernel, columns).flatten(1, 2)


def _torchvision(input, offset, weight, bias, mask, geometry):
    import torchvision

    if offset.requires_grad:
        # no gradient for taps at exactly row or column -1, where torchvision takes the one from inside
        at_border = (_sampling_positions(offset, weight.shape[2:], geometry) == -1).flatten(1, 2)
        offset = torch.where(at_border, offset.detach(), offset)
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, *geometry, mask)


def _mmcv(input, offset, weight, bias, mask, geometry):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    input, offset = input.contiguous(), offset.contiguous()
    if mask is None:
        out = deform_conv2d(input, offset, weight, *geometry, groups, offset_groups, False, 1)
        return out if bias is None else out + bias.view(1, -1, 1, 1)
    return modulated_deform_conv2d(
        input, offset, mask.contiguous(), weight, bias, *geometry, groups, offset_groups
    )
