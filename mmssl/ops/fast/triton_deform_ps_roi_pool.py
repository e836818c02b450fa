"""Deformable position-sensitive RoI pooling on CUDA: a Triton program samples a bin for a block of channels.

The plain form lists the four pixels of every sample, 2.5 GB for 300 RoIs with an offset for each class of
COCO. Here nothing is listed. The samples of a bin lie on m rows and m columns, so that its mean is

    sum over the pixels (r, c) around the bin of w_y(r) w_x(c) x(r, c) / (n_y n_x)

with w(p) the sum of the interpolation weights of pixel p over the n samples that count along an axis. A pixel
is read once, and written once in the backward pass, however many samples are next to it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.deform_ps_roi_pool import BinSamples
from mmssl.ops.fast.triton_launch import launch, usable
from mmssl.ops.precision import no_autocast_backward

# channels and pixels that a program reads at a time
BLOCK_CHANNELS = 32
BLOCK_PIXELS = 16


def pool_samples(features: Tensor, samples: BinSamples, vote: bool) -> Tensor:
    """:func:`mmssl.ops.deform_ps_roi_pool.pool_samples` on CUDA; an image outside the batch gives NaN."""
    if not usable(features):
        return NotImplemented
    num_bins = samples.part.shape[0]
    shape = (len(samples.image), features.shape[1], num_bins, num_bins)
    x, y = (first.expand(shape).flatten(2).contiguous() for first in (samples.x, samples.y))
    out = _TritonDeformPool.apply(features, x, y, samples)
    return out.mean(1) if vote else out.transpose(1, 2).unflatten(2, (num_bins, num_bins))


class _TritonDeformPool(torch.autograd.Function):
    """Means of the samples, (N, P * P, C).

    Takes features (B, classes, C / classes, G * G, H, W), first samples x and y (N, classes, P * P), and the
    image, part, steps and count of :class:`BinSamples`.
    """

    @staticmethod
    def forward(ctx, features, x, y, samples):
        _, classes, depth = features.shape[:3]
        image, steps = samples.image.int(), torch.stack((samples.step_x, samples.step_y))
        part = samples.part.reshape(-1)
        ctx.save_for_backward(features, x, y, image, part, steps)
        ctx.num_samples = samples.num_samples
        out = features.new_empty(len(image), len(part), classes * depth)
        _run(_mean_of_samples, features, (x, y, image, part, steps), out, (), samples.num_samples)
        return out

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        features, *positions = ctx.saved_tensors
        grad_features = torch.zeros_like(features, memory_format=torch.contiguous_format)
        grad_x = torch.empty_like(grad_output, memory_format=torch.contiguous_format)
        grad_y = torch.empty_like(grad_x)
        grads = grad_features, grad_x, grad_y
        _run(_gradients_of_samples, features, positions, grad_output, grads, ctx.num_samples)
        # channels of one class share its offset
        grad_x, grad_y = (
            grad.unflatten(2, features.shape[1:3]).sum(3).transpose(1, 2) for grad in (grad_x, grad_y)
        )
        return grad_features, grad_x, grad_y, None


def _run(kernel, maps: Tensor, positions, values: Tensor, grads: tuple, num_samples: int) -> None:
    num_rois, num_bins, num_channels = values.shape
    strides = [stride for grad in grads[:1] for stride in grad.stride()]
    launch(
        kernel,
        (num_rois * num_bins, triton.cdiv(num_channels, BLOCK_CHANNELS)),
        maps,
        *positions,
        values,
        *grads,
        *maps.stride(),
        *strides,
        *values.stride(),
        *maps.shape[:3],
        *maps.shape[4:],
        num_rois,
        num_bins,
        NUM_SAMPLES=num_samples,
        BLOCK_CHANNELS=BLOCK_CHANNELS,
        BLOCK_PIXELS=BLOCK_PIXELS,
    )


@triton.jit
def _pixel(position, size):
    """Lower pixel of a position and its distance from there, NaN for a position that is NaN."""
    is_number = position == position
    position = tl.where(is_number, tl.minimum(tl.maximum(position, 0.0), size - 1.0), position)
    lower = tl.where(is_number, tl.floor(position), 0.0)
    return lower, position - lower


@triton.jit
def _is_valid(position, size):
    return ((position >= -0.5) & (position <= size - 0.5)).to(position.dtype)


@triton.jit
def _span(first, step, size, NUM_SAMPLES: tl.constexpr):
    """First pixel (channels), largest number of pixels of a channel, and number of samples that count."""
    start, _ = _pixel(first, size)
    last, fraction = _pixel(first + (NUM_SAMPLES - 1) * step, size)
    end = last + (fraction > 0).to(last.dtype)
    count = tl.full(first.shape, 0, first.dtype)
    for number in tl.static_range(NUM_SAMPLES):
        count += _is_valid(first + number * step, size)
    return start, tl.max(end - start, 0).to(tl.int32) + 1, count


@triton.jit
def _weights(pixels, first, step, size, NUM_SAMPLES: tl.constexpr):
    """Sums over the samples of the weights of pixels (channels, pixels), and of their derivatives."""
    weight = tl.full(pixels.shape, 0, first.dtype)
    slope = tl.full(pixels.shape, 0, first.dtype)
    for number in tl.static_range(NUM_SAMPLES):
        position = first + number * step
        valid = _is_valid(position, size)[:, None]
        lower, fraction = _pixel(position, size)
        upper = (lower + (fraction > 0).to(lower.dtype))[:, None]
        lower = lower[:, None]
        fraction = fraction[:, None]
        at_lower = pixels == lower
        at_upper = pixels == upper
        weight += (tl.where(at_lower, 1 - fraction, 0.0) + tl.where(at_upper, fraction, 0.0)) * valid
        slope += (at_upper.to(valid.dtype) - at_lower.to(valid.dtype)) * valid
    return weight, slope


@triton.jit
def _program(  # noqa: PLR0913
    x, y, image, part, steps, batch, classes, depth, num_rois, num_bins, BLOCK_CHANNELS: tl.constexpr
):
    """What this program works on: RoI, bin, image, whether that exists, map, channels and their positions."""
    roi = (tl.program_id(0) // num_bins).to(tl.int64)
    index = tl.program_id(0) % num_bins
    sample = tl.load(image + roi)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    mask = channels < classes * depth
    offset = (roi * classes + channels // depth) * num_bins + index
    first_x = tl.load(x + offset, mask=mask, other=0.0)
    first_y = tl.load(y + offset, mask=mask, other=0.0)
    step_x = tl.load(steps + roi)
    step_y = tl.load(steps + num_rois + roi)
    in_batch = (sample >= 0) & (sample < batch)
    sample = sample.to(tl.int64)
    return (
        roi,
        index,
        sample,
        in_batch,
        tl.load(part + index),
        channels,
        mask,
        first_x,
        first_y,
        step_x,
        step_y,
    )


@triton.jit
def _mean_of_samples(  # noqa: PLR0913
    maps,
    x,
    y,
    image,
    part,
    steps,
    out,
    map_image,
    map_class,
    map_depth,
    map_part,
    map_row,
    map_column,
    out_roi,
    out_bin,
    out_channel,
    batch,
    classes,
    depth,
    height,
    width,
    num_rois,
    num_bins,
    NUM_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    roi, index, sample, in_batch, group, channels, mask, first_x, first_y, step_x, step_y = _program(
        x, y, image, part, steps, batch, classes, depth, num_rois, num_bins, BLOCK_CHANNELS
    )
    left, columns, count_x = _span(first_x, step_x, width, NUM_SAMPLES)
    top, rows, count_y = _span(first_y, step_y, height, NUM_SAMPLES)
    plane = (channels // depth).to(tl.int64) * map_class + (channels % depth).to(tl.int64) * map_depth
    plane += sample * map_image + group * map_part
    total = tl.full([BLOCK_CHANNELS, BLOCK_PIXELS], 0, first_x.dtype)
    for start in range(0, rows * columns, BLOCK_PIXELS):
        pixels = start + tl.arange(0, BLOCK_PIXELS)
        row = top[:, None] + (pixels // columns)[None, :]
        column = left[:, None] + (pixels % columns)[None, :]
        weight_y, _ = _weights(row, first_y, step_y, height, NUM_SAMPLES)
        weight_x, _ = _weights(column, first_x, step_x, width, NUM_SAMPLES)
        weight = weight_y * weight_x
        address = maps + plane[:, None] + row.to(tl.int32) * map_row + column.to(tl.int32) * map_column
        used = (weight != 0) & (row < height) & (column < width) & mask[:, None] & in_batch
        used = used & (pixels < rows * columns)[None, :]
        total += tl.where(used, weight * tl.load(address, mask=used, other=0.0), 0.0)
    mean = tl.sum(total, 1) / tl.maximum(count_x * count_y, 1.0)
    mean = tl.where(in_batch, mean, float('nan'))
    tl.store(out + roi * out_roi + index * out_bin + channels * out_channel, mean, mask=mask)


@triton.jit
def _gradients_of_samples(  # noqa: PLR0913
    maps,
    x,
    y,
    image,
    part,
    steps,
    grad_out,
    grad_maps,
    grad_x,
    grad_y,
    map_image,
    map_class,
    map_depth,
    map_part,
    map_row,
    map_column,
    grad_image,
    grad_class,
    grad_depth,
    grad_part,
    grad_row,
    grad_column,
    out_roi,
    out_bin,
    out_channel,
    batch,
    classes,
    depth,
    height,
    width,
    num_rois,
    num_bins,
    NUM_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    roi, index, sample, in_batch, group, channels, mask, first_x, first_y, step_x, step_y = _program(
        x, y, image, part, steps, batch, classes, depth, num_rois, num_bins, BLOCK_CHANNELS
    )
    left, columns, count_x = _span(first_x, step_x, width, NUM_SAMPLES)
    top, rows, count_y = _span(first_y, step_y, height, NUM_SAMPLES)
    label = (channels // depth).to(tl.int64)
    level = (channels % depth).to(tl.int64)
    plane = label * map_class + level * map_depth + sample * map_image + group * map_part
    grad_plane = label * grad_class + level * grad_depth + sample * grad_image + group * grad_part
    grad = tl.load(grad_out + roi * out_roi + index * out_bin + channels * out_channel, mask=mask, other=0.0)
    grad = grad / tl.maximum(count_x * count_y, 1.0)
    total_x = tl.full([BLOCK_CHANNELS, BLOCK_PIXELS], 0, first_x.dtype)
    total_y = tl.full([BLOCK_CHANNELS, BLOCK_PIXELS], 0, first_x.dtype)
    for start in range(0, rows * columns, BLOCK_PIXELS):
        pixels = start + tl.arange(0, BLOCK_PIXELS)
        row = top[:, None] + (pixels // columns)[None, :]
        column = left[:, None] + (pixels % columns)[None, :]
        weight_y, slope_y = _weights(row, first_y, step_y, height, NUM_SAMPLES)
        weight_x, slope_x = _weights(column, first_x, step_x, width, NUM_SAMPLES)
        used = (row < height) & (column < width) & mask[:, None] & in_batch
        used = used & (pixels < rows * columns)[None, :]
        row = row.to(tl.int32)
        column = column.to(tl.int32)
        value = tl.load(maps + plane[:, None] + row * map_row + column * map_column, mask=used, other=0.0)
        total_x += tl.where(used, weight_y * slope_x * value, 0.0)
        total_y += tl.where(used, slope_y * weight_x * value, 0.0)
        weight = grad[:, None] * weight_y * weight_x
        address = grad_maps + grad_plane[:, None] + row * grad_row + column * grad_column
        tl.atomic_add(address, weight, mask=used & (weight != 0), sem='relaxed')
    target = (roi * num_bins + index) * (classes * depth) + channels
    tl.store(grad_x + target, grad * tl.sum(total_x, 1), mask=mask)
    tl.store(grad_y + target, grad * tl.sum(total_y, 1), mask=mask)
