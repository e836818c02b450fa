"""Deformable convolution (Dai et al., ICCV 2017, arXiv:1703.06211; modulated: Zhu et al., CVPR 2019, arXiv:1811.11168)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values, pick
from mmssl.ops.weighted_sum import compute_type, ragged_gather, row_products, weighted_gather

# elements of the columns that are in work at a time on the CPU, 4 MiB
PIECE = 1 << 20

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
        Cells (..., 4) of the (height + 2) * (width + 2) ones, int32, and their weights (..., 4), which carry
        the gradient to y and x.
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
    return (
        torch.stack([row * stride + column for row in index[0] for column in index[1]], -1),
        torch.stack([row * column for row in weight[0] for column in weight[1]], -1),
    )


def deform_conv2d(
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
    """Convolution whose taps are moved by offsets and, with a mask, weighed: v1 without, v2 with.

    Arguments and result as ``torchvision.ops.deform_conv2d``. Half types and autocast compute in float32.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 * groups_d * K, Ho, Wo), (y, x) a tap in turn, in cells; K taps row by row.
        weight: (O, C / groups, kh, kw), K = kh * kw; groups follow from its shape, groups_d from that of
            ``offset``.
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
        # compiled for any size, torchvision's is one node; ours is faster in eager mode on the CPU
        auto = 'torchvision' if input.device.type == 'cuda' or torch.compiler.is_compiling() else 'torch'
        chosen = pick('deform_conv2d', backend, input, ('torchvision', 'mmcv'), auto)
        if chosen == 'torchvision':
            import torchvision

            out = torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
        elif chosen == 'mmcv':
            out = _mmcv(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups)
        else:
            out = _torch(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups)
        return out.to(given)


def check(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple,
    padding: tuple,
    dilation: tuple,
    mask: Tensor | None,
) -> int:
    """Refuse shapes that do not fit, and return the groups of offsets."""
    if input.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f'deform_conv2d needs input (B, C, H, W) and weight (O, C / groups, kh, kw), got {tuple(input.shape)} and '
            f'{tuple(weight.shape)}'
        )
    batch, channels, height, width = input.shape
    out_channels, in_group, *kernel = (int(side) for side in weight.shape)
    taps = kernel[0] * kernel[1]
    if channels % in_group or out_channels % (channels // in_group):
        raise ValueError(
            f'weight {tuple(weight.shape)} of deform_conv2d does not fit {channels} input channels: both widths must divide '
            'into the groups'
        )
    size = [
        (cells + 2 * pad - dilate * (side - 1) - 1) // step + 1
        for cells, pad, dilate, side, step in zip(
            (height, width), padding, dilation, kernel, stride, strict=True
        )
    ]
    if min(size) < 1:
        raise ValueError(
            f'deform_conv2d of a {height}x{width} map with kernel {tuple(kernel)}, stride {stride}, padding {padding}, '
            f'dilation {dilation} has no output'
        )
    groups = int(offset.shape[1]) // (2 * taps) if offset.dim() == 4 else 0
    if groups < 1 or tuple(offset.shape) != (batch, 2 * groups * taps, *size):
        raise ValueError(
            f'offset of deform_conv2d must be ({batch}, {2 * taps} * groups, {size[0]}, {size[1]}), got {tuple(offset.shape)}'
        )
    if channels % groups:
        raise ValueError(
            f'{channels} input channels of deform_conv2d do not divide into the {groups} groups of offset '
            f'{tuple(offset.shape)}'
        )
    if mask is not None and tuple(mask.shape) != (batch, groups * taps, *size):
        raise ValueError(
            f'mask of deform_conv2d must be ({batch}, {groups * taps}, {size[0]}, {size[1]}), got {tuple(mask.shape)}'
        )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f'bias of deform_conv2d must be ({out_channels},), got {tuple(bias.shape)}')
    return groups


def _mmcv(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    input, offset, groups = input.contiguous(), offset.contiguous(), input.shape[1] // weight.shape[1]
    if mask is None:
        out = deform_conv2d(input, offset, weight, stride, padding, dilation, groups, deform_groups, False, 1)
        return out if bias is None else out + bias.view(1, -1, 1, 1)
    return modulated_deform_conv2d(
        input, offset, mask.contiguous(), weight, bias, stride, padding, dilation, groups, deform_groups
    )


def _torch(input, offset, weight, bias, stride, padding, dilation, mask, deform_groups):
    batch, channels, height, width = input.shape
    # numbers of channels and taps are fixed in a compiled graph, sizes of maps are not
    out_channels, in_group, kernel_h, kernel_w = (int(side) for side in weight.shape)
    channels = int(channels)
    taps, size = kernel_h * kernel_w, offset.shape[2:]
    device, dtype = input.device, input.dtype
    # positions as one axis, and contiguous: a compiler of unknown sizes proves little about orders of strides
    moved = (
        offset.flatten(2).unflatten(1, (deform_groups, taps, 2)).permute(3, 0, 4, 2, 1).contiguous()
    )  # (yx, B, P, K, groups)
    position = torch.arange(offset.flatten(2).shape[2], device=device).view(-1, 1)
    tap = torch.arange(taps, device=device)
    start_y = position // size[1] * stride[0] - padding[0] + tap // kernel_w * dilation[0]
    start_x = position % size[1] * stride[1] - padding[1] + tap % kernel_w * dilation[1]
    index, share = bilinear_cells(
        moved[0] + start_y.unsqueeze(2).to(dtype), moved[1] + start_x.unsqueeze(2).to(dtype), height, width
    )
    if mask is not None:
        share = share * mask.flatten(2).unflatten(1, (deform_groups, taps)).permute(
            0, 3, 2, 1
        ).contiguous().unsqueeze(-1)
    first = torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * (
        (height + 2) * (width + 2)
    )
    group = torch.arange(deform_groups, device=device, dtype=torch.int32).view(-1, 1)
    index = (index + first) * deform_groups + group
    table = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels // deform_groups)
    groups = channels // in_group
    kernel = (
        weight.reshape(groups, out_channels // groups, in_group, taps)
        .transpose(2, 3)
        .reshape(groups, out_channels // groups, -1)
    )
    index, share = index.flatten(0, 3), share.flatten(0, 3)
    if checks_values(table):
        out = _SampledProduct.apply(table, index, share, kernel, batch, taps)
    else:
        columns = weighted_gather(table, index, share).view(batch, size[0] * size[1], taps, groups, in_group)
        out = torch.matmul(kernel, columns.permute(0, 3, 2, 4, 1).reshape(batch, groups, taps * in_group, -1))
    out = out.view(batch, out_channels, *size)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


class _SampledProduct(torch.autograd.Function):
    """Columns of samples times the kernel, some positions at a time: the columns stay in the cache, and are made again for the gradient.

    Takes the table (R, C / groups_d), cells and shares (B * P * K * groups_d, 4), the kernel (G, O / G, K * C
    / G), B and K. Returns (B, O, P).
    """

    @staticmethod
    def forward(ctx, table, index, share, kernel, batch, taps):
        ctx.save_for_backward(table, index, share, kernel)
        ctx.batch, ctx.taps = batch, taps
        positions = (
            index.shape[0]
            * table.shape[1]
            // (taps * max(1, batch) * kernel.shape[0] * (kernel.shape[2] // taps))
        )
        out = table.new_empty(batch, kernel.shape[0], kernel.shape[1], positions)
        for image, part, rows in pieces(batch, positions, len(index), kernel):
            columns = gather_columns(table, index[rows], share[rows], taps, kernel)
            for group, column in enumerate(columns):
                out[image, group, :, part] = F.linear(column, kernel[group]).t()
        return out.view(batch, -1, positions) if batch else out.flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        table, index, share, kernel = ctx.saved_tensors
        needs_table, _, needs_share, needs_kernel = ctx.needs_input_grad[:4]
        groups, out_group, depth = kernel.shape
        for_table = torch.zeros_like(table) if needs_table else None
        for_share = torch.empty_like(share) if needs_share else None
        for_kernel = torch.zeros_like(kernel) if needs_kernel else None
        source = None
        for image, part, rows in pieces(ctx.batch, grad.shape[-1], len(index), kernel):
            pull = grad[image].unflatten(0, (groups, out_group))[:, :, part]
            cells, weight = index[rows], share[rows]
            if needs_kernel:
                for group, column in enumerate(gather_columns(table, cells, weight, ctx.taps, kernel)):
                    for_kernel[group].addmm_(pull[group], column)
            if not (needs_table or needs_share):
                continue
            back = torch.matmul(pull.transpose(1, 2), kernel)
            back = (
                back.view(groups, -1, ctx.taps, depth // ctx.taps)
                .permute(1, 2, 0, 3)
                .reshape(-1, table.shape[1])
            )
            if needs_share:
                for_share[rows] = row_products(back, table, cells)
            if needs_table:
                if source is None or len(source) != cells.numel():
                    source = torch.arange(len(cells), dtype=cells.dtype).repeat_interleave(4)
                cells, order = cells.view(-1).sort()
                cells, repeats = cells.unique_consecutive(return_counts=True)
                pairs = source.index_select(0, order), weight.view(-1).index_select(0, order)
                for_table.index_add_(0, cells, ragged_gather(back, *pairs, repeats))
        return for_table, None, for_share, for_kernel, None, None


def pieces(batch: int, positions: int, rows: int, kernel: Tensor):
    """(image, positions, rows of the index) of pieces whose columns take about :data:`PIECE` elements."""
    step = min(max(64, PIECE // (kernel.shape[0] * kernel.shape[2])), max(1, positions))
    each = rows // max(1, batch * positions)
    for image in range(batch):
        for start in range(0, positions, step):
            stop = min(start + step, positions)
            yield (
                image,
                slice(start, stop),
                slice((image * positions + start) * each, (image * positions + stop) * each),
            )


def gather_columns(table: Tensor, index: Tensor, share: Tensor, taps: int, kernel: Tensor) -> Tensor:
    """Samples of some positions, (G, positions, K * C / G), of the rows (positions * K * groups_d, 4)."""
    groups, depth = kernel.shape[0], kernel.shape[2] // taps
    columns = F.embedding_bag(index, table, mode='sum', per_sample_weights=share).view(
        -1, taps, groups, depth
    )
    return columns.permute(2, 0, 1, 3).reshape(groups, -1, taps * depth)
