"""Deformable convolution (Dai et al., ICCV 2017, arXiv:1703.06211).

Version 2 is modulated by a mask (Zhu et al., CVPR 2019, arXiv:1811.11168, equation 1):

    y(p) = sum over k of w_k * x(p + p_k + dp_k) * m_k

with tap k at p_k of a regular grid, its learned offset dp_k, and in version 2 its mask m_k; x between
pixels is interpolated bilinearly, and zero outside the map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.conv_geometry import Geometry, Pair, check_shapes, pair
from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.switch import cpu, eager, fast_form
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
    input_dtype = input.dtype
    dtype = compute_type(input, weight)
    # torchvision's operator is a single node of a compiled graph, for any size; in eager mode on the CPU ours
    # is faster
    auto = 'torch' if cpu([input]) and eager() else 'torchvision'
    backend = pick('deform_conv2d', backend, input, ('torchvision', 'mmcv'), auto)
    compute = {'torch': _torch, 'torchvision': _torchvision, 'mmcv': _mmcv}[backend]
    with no_autocast(input):
        out = compute(
            input.to(dtype),
            offset.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            None if mask is None else mask.to(dtype),
            geometry,
        )
        return out.to(input_dtype)


def bilinear_neighbours(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the four pixels around positions in a map that is padded with one pixel of zeros on every side.

    Positions outside the padding read zeros.

    Args:
        y: (...), 0 at the centre of the first row of the map without padding.
        x: (...), 0 at the centre of the first column.
        height: Height of the map without padding.
        width: Width of the map without padding.

    Returns:
        Indices (..., 4) into the (height + 2) * (width + 2) pixels, int32, and their weights (..., 4), which
        carry the gradient of y and x.
    """
    index, weight = [], []
    for position, size in ((y, height), (x, width)):
        # at the border of the padding the derivative is the one from outside, 0: layers begin with offsets of
        # 0, whose outer taps are there, and trained weights depend on it
        position = position.masked_fill(position <= -1, -1).clamp(max=size)
        first = torch.nan_to_num(position.detach().floor()).clamp(-1, size)
        fraction = position - first
        first = first.to(torch.int32) + 1
        # at exactly `size` both pixels are padding
        index.append((first, (first + 1).clamp(max=size + 1)))
        weight.append((1 - fraction, fraction))
    indices = [row * (width + 2) + column for row in index[0] for column in index[1]]
    weights = [row * column for row in weight[0] for column in weight[1]]
    return torch.stack(indices, -1), torch.stack(weights, -1)


def _torch(input, offset, weight, bias, mask, geometry):
    batch, channels, height, width = input.shape
    # numbers of channels and taps are constants of a compiled graph, sizes of maps are not
    out_channels, in_group, kernel_h, kernel_w = (int(size) for size in weight.shape)
    num_taps = kernel_h * kernel_w
    offset_groups = int(offset.shape[1]) // (2 * num_taps)
    groups = int(channels) // in_group
    out_size = offset.shape[2:]

    y, x = _sampling_positions(offset, offset_groups, (kernel_h, kernel_w), geometry)
    index, bilinear = bilinear_neighbours(y, x, height, width)  # (B, P, K, offset_groups, 4)
    if mask is not None:
        modulation = mask.flatten(2).unflatten(1, (offset_groups, num_taps)).permute(0, 3, 2, 1)
        bilinear = bilinear * modulation.contiguous().unsqueeze(-1)
    images = torch.arange(batch, device=input.device, dtype=torch.int32).view(-1, 1, 1, 1, 1)
    group = torch.arange(offset_groups, device=input.device, dtype=torch.int32).view(-1, 1)
    index = (index + images * ((height + 2) * (width + 2))) * offset_groups + group
    table = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels // offset_groups)
    kernel = weight.reshape(groups, out_channels // groups, in_group, num_taps).transpose(2, 3)
    kernel = kernel.reshape(groups, out_channels // groups, num_taps * in_group)
    size = batch, out_size[0] * out_size[1]
    out = sampled_product(table, index.flatten(0, 3), bilinear.flatten(0, 3), kernel, size, num_taps)
    out = out.view(batch, out_channels, *out_size)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def _sampling_positions(
    offset: Tensor, groups: int, kernel: tuple[int, int], geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """y and x (B, P, K, groups) of all taps at all P output positions."""
    num_taps = kernel[0] * kernel[1]
    out_width = offset.shape[3]
    # one axis of positions, and contiguous: a compiler of unknown sizes proves little about orders of strides
    offset = offset.flatten(2).unflatten(1, (groups, num_taps, 2)).permute(3, 0, 4, 2, 1).contiguous()
    position = torch.arange(offset.shape[2], device=offset.device).view(-1, 1)
    tap = torch.arange(num_taps, device=offset.device)
    rows = position // out_width * geometry.stride[0] - geometry.padding[0]
    columns = position % out_width * geometry.stride[1] - geometry.padding[1]
    y = rows + tap // kernel[1] * geometry.dilation[0]
    x = columns + tap % kernel[1] * geometry.dilation[1]
    return offset[0] + y.unsqueeze(2).to(offset.dtype), offset[1] + x.unsqueeze(2).to(offset.dtype)


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

    offset = _without_gradient_at_border(offset, weight.shape[2:], geometry)
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, *geometry, mask)


def _without_gradient_at_border(offset: Tensor, kernel: tuple[int, int], geometry: Geometry) -> Tensor:
    """Cut the gradient of taps at exactly row or column -1, where torchvision takes the one from inside."""
    if not offset.requires_grad:
        return offset
    taps = torch.arange(kernel[0] * kernel[1], device=offset.device).view(-1, 1, 1)
    rows = torch.arange(offset.shape[2], device=offset.device).view(-1, 1)
    columns = torch.arange(offset.shape[3], device=offset.device)
    y = rows * geometry.stride[0] - geometry.padding[0] + taps // kernel[1] * geometry.dilation[0]
    x = columns * geometry.stride[1] - geometry.padding[1] + taps % kernel[1] * geometry.dilation[1]
    grid = torch.stack(torch.broadcast_tensors(y, x), 1).flatten(0, 1).to(offset.dtype)
    by_group = offset.unflatten(1, (-1, len(grid)))
    at_border = by_group + grid == -1
    return torch.where(at_border, by_group.detach(), by_group).flatten(1, 2)


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
