"""The sampling core of DCNv3 (InternImage, Wang et al., CVPR 2023, arXiv:2211.05778, equation 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.deform_conv import Pair, bilinear_cells, pair
from mmssl.ops.dispatch import pick
from mmssl.ops.weighted_sum import compute_type, weighted_gather


def dcnv3(
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
    """Sum of bilinear samples of every group's channels at its taps, each moved by an offset and weighed by the mask.

    Tap (a, b), a along x and counted slowest, of the output at (h, w) samples at
    x = w * stride - padding + r + (a * dilation - r + dx) * offset_scale with r = dilation * (kernel - 1) //
    2, y likewise with b; outside the map is zero. InternImage writes the same places divided by the padded
    size, for ``grid_sample``.

    Args:
        input: (B, H, W, C).
        offset: (B, Ho, Wo, groups * K * 2), (x, y) a tap in turn.
        mask: (B, Ho, Wo, groups * K), after the softmax over K.
        kernel_size, stride, padding, dilation: a number or (y, x).
        groups: of channels, each with its own offsets and mask.
        offset_scale: multiplies the distance of the taps from their centre.
        remove_center: without the middle tap; K is one less.
        backend: 'auto' or 'torch': no released package has this operator.

    Returns:
        (B, Ho, Wo, C), of the type of ``input``.

    Raises:
        ValueError: shapes that do not fit, an unknown backend, ``remove_center`` of an even kernel.
    """
    kernel, stride, padding, dilation = (
        pair(name, value)
        for name, value in (
            ('kernel_size', kernel_size),
            ('stride', stride),
            ('padding', padding),
            ('dilation', dilation),
        )
    )
    if input.dim() != 4 or input.shape[3] % groups:
        raise ValueError(
            f'dcnv3 needs input (B, H, W, C) with C divisible by groups={groups}, got {tuple(input.shape)}'
        )
    if remove_center and (kernel[0] % 2 == 0 or kernel != (kernel[0], kernel[0])):
        raise ValueError(f'remove_center of dcnv3 needs an odd square kernel, not {kernel[0]}x{kernel[1]}')
    batch, height, width, channels = input.shape
    size = [
        (cells + 2 * pad - dilate * (side - 1) - 1) // step + 1
        for cells, pad, dilate, side, step in zip(
            (height, width), padding, dilation, kernel, stride, strict=True
        )
    ]
    taps = kernel[0] * kernel[1] - int(remove_center)
    for name, tensor, each in (('offset', offset, 2), ('mask', mask, 1)):
        if tuple(tensor.shape) != (batch, *size, groups * taps * each):
            raise ValueError(
                f'{name} of dcnv3 must be ({batch}, {size[0]}, {size[1]}, {groups * taps * each}) for {groups} groups of '
                f'{taps} taps, got {tuple(tensor.shape)}'
            )
    pick('dcnv3', backend, input, ())
    dtype, device, given = compute_type(input), input.device, input.dtype
    with torch.autocast(device.type, enabled=False):
        input, offset, mask = input.to(dtype), offset.to(dtype), mask.to(dtype)
        starts, arms = [], []
        for cells, side, step, pad, dilate in zip(size, kernel, stride, padding, dilation, strict=True):
            reach = dilate * (side - 1) // 2
            starts.append(torch.arange(cells, device=device, dtype=dtype) * step - pad + reach)
            arms.append((torch.arange(side, device=device, dtype=dtype) * dilate - reach) * offset_scale)
        tap_x, tap_y = arms[1].repeat_interleave(kernel[0]), arms[0].repeat(kernel[1])
        if remove_center:
            tap_x, tap_y = (torch.cat((arm[: taps // 2], arm[taps // 2 + 1 :])) for arm in (tap_x, tap_y))
        moved = offset.reshape(batch, *size, groups, taps, 2) * offset_scale
        y = moved[..., 1] + starts[0].view(-1, 1, 1, 1) + tap_y
        x = moved[..., 0] + starts[1].view(-1, 1, 1) + tap_x
        index, share = bilinear_cells(y, x, height, width)
        share = share * mask.reshape(batch, *size, groups, taps, 1)
        first = torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1) * (
            (height + 2) * (width + 2)
        )
        index = (index + first) * groups + torch.arange(groups, device=device, dtype=torch.int32).view(
            -1, 1, 1
        )
        table = F.pad(input, (0, 0, 1, 1, 1, 1)).reshape(-1, channels // groups)
        out = weighted_gather(table, index.flatten(4).flatten(0, 3), share.flatten(4).flatten(0, 3))
        return out.view(batch, *size, channels).to(given)
