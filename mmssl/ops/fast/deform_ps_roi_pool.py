"""Deformable position-sensitive pooling on the CPU for one map per class, as in deformable R-FCN.

The samples of a bin lie on m rows and m columns, so that rows are summed first, and then columns of the
sums: 2 m rows of W neighbouring values and 2 m values per bin instead of 4 m^2 values from anywhere. A few
classes are processed at a time, without a copy of their maps.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.deform_ps_roi_pool import BinSamples, sample_axis
from mmssl.ops.precision import no_autocast_backward

# elements of the sums of rows that are processed at a time, 4 MiB in float32
CHUNK = 1 << 20


def pool_samples(features: Tensor, samples: BinSamples, vote: bool) -> Tensor:
    """:func:`mmssl.ops.deform_ps_roi_pool.pool_samples` for several classes of one channel each."""
    classes, depth = features.shape[1:3]
    if depth > 1 or classes == 1:
        return NotImplemented
    num_bins = len(samples.part)
    maps = features[:, :, 0].contiguous()
    x, y = torch.broadcast_tensors(samples.x, samples.y)
    x, y = (axis.flatten(2).permute(1, 2, 0).contiguous() for axis in (x, y))  # (C, P * P, N)
    if len(maps) == 1:
        out = _SeparableDeformPool.apply(maps[0], x, y, samples)
    elif len(maps) == 0:
        out = x * 0
    else:
        order, parts = [], []
        for image, maps_of_image in enumerate(maps.unbind(0)):
            rois = (samples.image == image).nonzero()[:, 0]
            own = samples._replace(step_x=samples.step_x[rois], step_y=samples.step_y[rois])
            x_of_image, y_of_image = x.index_select(2, rois), y.index_select(2, rois)
            parts.append(_SeparableDeformPool.apply(maps_of_image, x_of_image, y_of_image, own))
            order.append(rois)
        out = torch.cat(parts, 2).index_select(2, torch.cat(order).argsort())
    return out.mean(1).t() if vote else out.permute(2, 0, 1).unflatten(2, (num_bins, num_bins))


class _SeparableDeformPool(torch.autograd.Function):
    """Average the samples of the bins of one image.

    Takes features (C, G * G, H, W), first samples x and y (C, P * P, N), and the steps, parts and count of
    :class:`BinSamples`. Returns (C, P * P, N).
    """

    @staticmethod
    def forward(ctx, features, x, y, samples):
        part = samples.part.reshape(-1)
        ctx.save_for_backward(features, x, y, samples.step_x, samples.step_y, part)
        ctx.num_samples = samples.num_samples
        height, width = features.shape[2:]
        table = features.reshape(-1, width)
        out = torch.empty_like(x)
        for classes in _chunks(features, x):
            rows, weight_y, valid_y = _axis_weights(y[classes], samples.step_y, samples.num_samples, height)
            columns, weight_x, valid_x = _axis_weights(x[classes], samples.step_x, samples.num_samples, width)
            lines = _sum_rows(table, features, rows, weight_y, part, classes)
            sums = (lines.gather(1, columns) * weight_x).sum(1)
            out[classes] = (sums / _num_valid(valid_x, valid_y)).view(out[classes].shape)
        return out

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        features, x, y, step_x, step_y, part = ctx.saved_tensors
        needs_features, needs_x, needs_y = ctx.needs_input_grad[:3]
        height, width = features.shape[2:]
        table = features.reshape(-1, width)
        grad_features = torch.zeros_like(features) if needs_features else None
        grad_x = torch.empty_like(x) if needs_x else None
        grad_y = torch.empty_like(y) if needs_y else None
        for classes in _chunks(features, x):
            rows, weight_y, valid_y = _axis_weights(y[classes], step_y, ctx.num_samples, height)
            columns, weight_x, valid_x = _axis_weights(x[classes], step_x, ctx.num_samples, width)
            shape = x[classes].shape
            grad_sums = grad_output[classes].reshape(-1) / _num_valid(valid_x, valid_y)
            if needs_x:
                lines = _sum_rows(table, features, rows, weight_y, part, classes)
                lower, upper = lines.gather(1, columns).chunk(2, 1)
                grad_x[classes] = (((upper - lower) * valid_x).sum(1) * grad_sums).view(shape)
            if not (needs_y or needs_features):
                continue
            # the gradient of the sums of rows; all RoIs read the same map for a bin, so that the rest are
            # matrix products
            grad_lines = table.new_zeros(len(rows), width)
            grad_lines = grad_lines.scatter_add_(1, columns, weight_x * grad_sums[:, None]).view(
                *shape, width
            )
            if needs_y:
                products = torch.matmul(grad_lines, features[classes, part].transpose(2, 3)).view(-1, height)
                lower, upper = products.gather(1, rows).chunk(2, 1)
                grad_y[classes] = ((upper - lower) * valid_y).sum(1).view(shape)
            if needs_features:
                spread = table.new_zeros(len(rows), height).scatter_add_(1, rows, weight_y)
                spread = spread.view(*shape, height).transpose(2, 3)
                grad_features[classes].index_add_(1, part, torch.matmul(spread, grad_lines))
        return grad_features, grad_x, grad_y, None


def _chunks(features: Tensor, x: Tensor) -> Iterator[slice]:
    """Yield slices of classes whose sums of rows have about ``CHUNK`` elements."""
    step = max(1, CHUNK // max(1, x.shape[1] * x.shape[2] * features.shape[-1]))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def _axis_weights(first: Tensor, step: Tensor, num_samples: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (Q, 2 m), int64, weights (Q, 2 m), and 1 for samples that count (Q, m), of Q bins."""
    samples = sample_axis(first, step, num_samples, size)
    lower, upper, fraction, valid = (tensor.flatten(0, 2) for tensor in samples)
    fraction = fraction * valid
    return torch.cat((lower, upper), 1).long(), torch.cat((valid - fraction, fraction), 1), valid


def _num_valid(valid_x: Tensor, valid_y: Tensor) -> Tensor:
    return (valid_x.sum(1) * valid_y.sum(1)).clamp(min=1)


def _sum_rows(
    table: Tensor, features: Tensor, rows: Tensor, weight: Tensor, part: Tensor, classes: slice
) -> Tensor:
    """Sum weighted rows (Q, 2 m) of the maps of each bin: (Q, W)."""
    num_maps, height = features.shape[1:3]
    numbers = torch.arange(classes.start, classes.stop)[:, None] * num_maps + part
    first = numbers.view(-1, 1) * height
    index = (rows.view(first.numel(), -1) + first).to(torch.int32).view(rows.shape)
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
