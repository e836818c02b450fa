"""Deformable convolution (Dai et al., ICCV 2017, arXiv:1703.06211; modulated: Zhu et al., CVPR 2019, arXiv:1811.11168)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.gather import compute_type, weighted_gather

Pair = int | tuple[int, int]


def pair(name: str, value: Pair) -> tuple[int, int]:
    """A number for both axes, or one each (y, x)."""
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f'{name}={value!r}; a number, or two for (y, x)')
    return int(value[0]), int(value[1])


def bilinear_cells(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four cells around every place in a map that is padded by one row and column of zeros above and left, below and right.

    Places further out than the padding read zeros.

    Args:
        y, x: (...), 0 at the first cell's centre.
        height, width: of the map without padding.

    Returns:
        Cells (..., 4) of the (height + 2) * (width + 2) ones, int32, and their weights (..., 4), which carry the gradient to y and x.
    """
    index, weight = [], []
    for place, cells in ((y, height), (x, width)):
        first = torch.nan_to_num(place.detach().floor()).clamp(-1, cells)
        after = place.clamp(-1, cells) - first
        first = first.to(torch.int32) + 1
        # at exactly `cells` both are the padding, so that the derivative there is the one from outside
        index.append((first, (first + 1).clamp(max=cells + 1)))
        weight.append((1 - after, after))
    stride = width + 2
    return (torch.stack([row * stride + column for row in index[0] for column in index[1]], -1),
            torch.stack([row * column for row in weight[0] for column in weight[1]], -1))


def deform_conv2d(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
                  dilation: Pair = 1, mask: Tensor | None = None, backend: str = 'auto') -> Tensor:
    """Convolution whose taps are moved by offsets and, with a mask, weighed: v1 without, v2 with.

    Arguments and result as ``torchvision.ops.deform_conv2d``. Half types and autocast compute in float32.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 * groups_d * K, Ho, Wo), (y, x) a tap in turn, in cells; K taps row by row.
        weight: (O, C / groups, kh, kw), K = kh * kw; groups follow from its shape, groups_d from that of ``offset``.
        bias: (O,).
        stride, padding, dilation: a number or (y, x).
        mask: (B, groups_d * K, Ho, Wo).
        backend: 'auto', 'torch', 'torchvision' or 'mmcv'.

    Returns:
        (B, O, Ho, Wo), of the type of ``input``.

    Raises:
        ValueError: shapes that do not fit, an unknown backend.
    """
    stride, padding, dilation = pair('stride', stride), pair('padding', padding), pair('dilation', dilation)
    deform_groups = check(input, offset, weight, bias, stride, padding, dilation, mask)
    dtype = compute_type(input, weight)
    with torch.autocast(input.device.type, enabled=False):
        given = input.dtype
        input, offset, weight = input.to(dtype), offset.to(dtype), weight.to(dtype)
        bias, mask = (None if tensor is None else tensor.to(dtype) for tensor in (bias, mask))
        auto = 'torchvision' if input.device.type == 'cuda' else 'torch'
        chosen = pick('deform_conv2d', backend, input, ('torchvision', 'mmcv'), auto)
        if chosen == 'torchvision':
            import torchvision
            out = torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
        elif chosen == 'mmcv':
            out = _mmcv(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups)
        else:
            out = _torch(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups)
        return out.to(given)


def check(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple, dilation: tuple,
          mask: Tensor | None) -> int:
    """Refuse shapes that do not fit, and return the groups of offsets."""
    if input.dim() != 4 or weight.dim() != 4:
        raise ValueError(f'deform_conv2d needs input (B, C, H, W) and weight (O, C / groups, kh, kw), got {tuple(input.shape)} and '
                         f'{tuple(weight.shape)}')
    batch, channels, height, width = input.shape
    out_channels, in_group, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    if channels % in_group or out_channels % (channels // in_group):
        raise ValueError(f'weight {tuple(weight.shape)} of deform_conv2d does not fit {channels} input channels: both widths must divide '
                         'into the groups')
    size = [(cells + 2 * pad - dilate * (side - 1) - 1) // step + 1
            for cells, pad, dilate, side, step in zip((height, width), padding, dilation, kernel, stride, strict=True)]
    if min(size) < 1:
        raise ValueError(f'deform_conv2d of a {height}x{width} map with kernel {tuple(kernel)}, stride {stride}, padding {padding}, '
                         f'dilation {dilation} has no output')
    groups = offset.shape[1] // (2 * taps) if offset.dim() == 4 else 0
    if groups < 1 or tuple(offset.shape) != (batch, 2 * groups * taps, *size):
        raise ValueError(f'offset of deform_conv2d must be ({batch}, {2 * taps} * groups, {size[0]}, {size[1]}), got {tuple(offset.shape)}')
    if channels % groups:
        raise ValueError(f'{channels} input channels of deform_conv2d do not divide into the {groups} groups of offset '
                         f'{tuple(offset.shape)}')
    if mask is not None and tuple(mask.shape) != (batch, groups * taps, *size):
        raise ValueError(f'mask of deform_conv2d must be ({batch}, {groups * taps}, {size[0]}, {size[1]}), got {tuple(mask.shape)}')
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f'bias of deform_conv2d must be ({out_channels},), got {tuple(bias.shape)}')
    return groups


def _mmcv(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d
    input, offset, groups = input.contiguous(), offset.contiguous(), input.shape[1] // weight.shape[1]
    if mask is None:
        out = deform_conv2d(input, offset, weight, stride, padding, dilation, groups, deform_groups, False, 1)
        return out if bias is None else out + bias.view(1, -1, 1, 1)
    return modulated_deform_conv2d(input, offset, mask.contiguous(), weight, bias, stride, padding, dilation, groups, deform_groups)


def _torch(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups):
    batch, channels, height, width = input.shape
    out_channels, in_group, kernel_h, kernel_w = weight.shape
    taps, size = kernel_h * kernel_w, offset.shape[2:]
    device, dtype = input.device, input.dtype
    # (B, Ho, Wo, K, groups, yx)
    moved = offset.reshape(batch, deform_groups, taps, 2, *size).permute(0, 4, 5, 2, 1, 3)
    starts = [torch.arange(cells, device=device, dtype=dtype) * step - pad
              for cells, step, pad in zip(size, stride, padding, strict=True)]
    tap_y = (torch.arange(kernel_h, device=device, dtype=dtype) * dilation[0]).repeat_interleave(kernel_w)
    tap_x = (torch.arange(kernel_w, device=device, dtype=dtype) * dilation[1]).repeat(kernel_h)
    y = moved[..., 0] + (starts[0].view(-1, 1, 1) + tap_y).unsqueeze(-1)
    x = moved[..., 1] + (starts[1].view(-1, 1) + tap_x).unsqueeze(-1)
    index, share = bilinear_cells(y, x, height, width)
    if mask is not None:
        share = share * mask.reshape(batch, deform_groups, taps, *size).permute(0, 3, 4, 2, 1).unsqueeze(-1)
    first = torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1) * ((height + 2) * (width + 2))
    group = torch.arange(deform_groups, device=device, dtype=torch.int32).view(-1, 1)
    index = (index + first) * deform_groups + group
    table = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels // deform_groups)
    columns = weighted_gather(table, index.reshape(-1, 4), share.reshape(-1, 4)).view(batch, size[0] * size[1], taps, channels)
    groups = channels // in_group
    columns = columns.view(batch, -1, taps, groups, in_group).permute(0, 3, 2, 4, 1).reshape(batch, groups, taps * in_group, -1)
    kernel = weight.view(groups, out_channels // groups, in_group, taps).transpose(2, 3).reshape(groups, out_channels // groups, -1)
    out = torch.matmul(kernel, columns).view(batch, out_channels, *size)
    return out if bias is None else out + bias.view(1, -1, 1, 1)
