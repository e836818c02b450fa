"""Deformable position-sensitive RoI pooling (Dai et al., ICCV 2017, arXiv:1703.06211, section 2.2).

    y(i, j) = mean over the samples p of bin (i, j) of x_{i,j}(p0 + p + dp_ij)

with the offset dp_ij of a bin in units of the size of its RoI. Samples and rounding are those of MXNet.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.rois import check_rois, round_half_away
from mmssl.ops.switch import cpu, cuda_with_triton, fast_form
from mmssl.ops.weighted_sum import weighted_sum


class BinSamples(NamedTuple):
    """Sampling positions of every bin, in pixels of the map.

    Args:
        image: (N,), image index of the RoIs.
        part: (P, P), which of the G * G maps of a class a bin reads.
        x: (N, classes or 1, P or 1, P), first sample of the bins.
        y: (N, classes or 1, P, P or 1), first sample of the bins.
        step_x: (N,), distance between samples.
        step_y: (N,), distance between samples.
        num_samples: m, number of samples along one side of a bin.
    """

    image: Tensor
    part: Tensor
    x: Tensor
    y: Tensor
    step_x: Tensor
    step_y: Tensor
    num_samples: int


def deform_ps_roi_pool(  # noqa: PLR0913
    features: Tensor,
    rois: Tensor,
    trans: Tensor | None,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    group_size: int,
    part_size: int | None = None,
    sample_per_part: int = 4,
    trans_std: float = 0.1,
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Average m x m bilinear samples of every bin, each bin moved by its offset.

    Bin (i, j) reads channel (c * G + i * G // P) * G + j * G // P and moves by ``trans_std * trans`` times
    the size of the RoI, taken at part (i * p // P, j * p // P). Samples more than half a pixel outside the
    map are left out, others are clamped to it; a bin without samples gives 0. Gradients are those of
    features and offsets, with the number of samples as a constant.

    Args:
        features: (B, output_dim * G * G, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image; they get no gradient.
        trans: Offsets, (N, 2, p, p) for all classes, or (N, 2 * classes, p, p) as (x, y) of each class in
            turn; None for no offsets.
        output_size: P, the number of bins along one side of a RoI.
        spatial_scale: Size of the map relative to the image.
        output_dim: C, divisible by the number of classes of ``trans``.
        group_size: G; 1 for plain, P for position-sensitive pooling.
        part_size: p; P if None.
        sample_per_part: m.
        trans_std: Factor from offsets to sizes of the RoI.
        vote: Average over the bins without storing them.
        backend: 'auto' or 'torch'; no released package has this operator.

    Returns:
        (N, C, P, P), or (N, C) with ``vote``.

    Raises:
        ValueError: The shapes do not fit, an image index is outside the batch (checked on the CPU), or the
            backend is unknown.
        TypeError: Features or rois are integers.
    """
    part_size = part_size or output_size
    formula = f'output_dim * group_size**2 = {output_dim} * {group_size}**2 channels'
    check_rois('deform_ps_roi_pool', features, rois, output_dim * group_size * group_size, formula)
    if trans is not None:
        _check_trans(trans, len(rois), part_size, output_dim)
    pick('deform_ps_roi_pool', backend, features, ())
    dtype = compute_type(features, rois)
    rois = rois.detach().to(dtype)
    with no_autocast(features):
        x, step_x, width = bin_starts(rois[:, 1], rois[:, 3], output_size, spatial_scale, sample_per_part)
        y, step_y, height = bin_starts(rois[:, 2], rois[:, 4], output_size, spatial_scale, sample_per_part)
        x = x[:, None, None, :]
        y = y[:, None, :, None]
        if trans is not None:
            offset = trans.to(dtype).unflatten(1, (-1, 2)) * trans_std
            if part_size != output_size:
                part = torch.arange(output_size, device=rois.device) * part_size // output_size
                offset = offset.index_select(3, part).index_select(4, part)
            x = x + offset[:, :, 0] * width.view(-1, 1, 1, 1)
            y = y + offset[:, :, 1] * height.view(-1, 1, 1, 1)
        group = torch.arange(output_size, device=rois.device) * group_size // output_size
        samples = BinSamples(
            image=torch.nan_to_num(rois[:, 0]).long(),
            part=group[:, None] * group_size + group,
            x=x,
            y=y,
            step_x=step_x,
            step_y=step_y,
            num_samples=sample_per_part,
        )
        classes = 1 if trans is None else trans.shape[1] // 2
        # not unflatten, with which an ONNX graph holds the size of the traced map
        shape = features.shape[0], classes, output_dim // classes, group_size * group_size
        maps = features.to(dtype).reshape(*shape, *features.shape[2:])
        return pool_samples(maps, samples, vote).to(features.dtype)


def _check_trans(trans: Tensor, num_rois: int, part_size: int, output_dim: int) -> None:
    shape = tuple(trans.shape)
    if (
        trans.dim() != 4
        or shape[1] % 2
        or shape[1] == 0
        or (shape[0], *shape[2:]) != (num_rois, part_size, part_size)
    ):
        raise ValueError(
            f'deform_ps_roi_pool needs trans ({num_rois}, 2 * classes, {part_size}, {part_size}) for '
            f'part_size={part_size}, got {shape}'
        )
    if output_dim % (shape[1] // 2):
        raise ValueError(
            f'output_dim={output_dim} of deform_ps_roi_pool is not divisible by the {shape[1] // 2} classes '
            f'of trans {shape}'
        )


def bin_starts(
    low: Tensor, high: Tensor, num_bins: int, spatial_scale: float, num_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the samples of every bin along one axis, without offsets.

    Args:
        low: (N,), first border of the RoIs in pixels of the image.
        high: (N,), last border.
        num_bins: P.
        spatial_scale: Size of the map relative to the image.
        num_samples: m.

    Returns:
        First sample of every bin (N, P), distance between samples (N,), and size of the RoIs (N,), in pixels
        of the map.
    """
    start = round_half_away(torch.nan_to_num(low)) * spatial_scale - 0.5
    end = (round_half_away(torch.nan_to_num(high)) + 1) * spatial_scale - 0.5
    size = (end - start).clamp(min=0.1)
    bins = torch.arange(num_bins, device=low.device, dtype=low.dtype)
    return bins * (size / num_bins)[:, None] + start[:, None], size / num_bins / num_samples, size


def sample_axis(
    first: Tensor, step: Tensor, num_samples: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the pixels around the samples of every bin along one axis.

    Args:
        first: (...), position of the first sample.
        step: Distance between samples, broadcast to ``first``.
        num_samples: m.
        size: Size of the map.

    Returns:
        Lower and upper pixel (..., m), floating point; distance of the sample from the lower one, which
        carries the gradient; 1 for samples that count and 0 for others.
    """
    numbers = torch.arange(num_samples, device=first.device, dtype=first.dtype)
    position = first[..., None] + numbers * step[..., None]
    valid = ((position >= -0.5) & (position <= size - 0.5)).to(position.dtype)
    position = position.clamp(0, size - 1)
    pixel = torch.nan_to_num(position.detach())
    # at a whole number both pixels are the same
    lower = pixel.floor()
    return lower, pixel.ceil(), position - lower, valid


@fast_form('mmssl.ops.fast.deform_ps_roi_pool:pool_samples', when=cpu)
@fast_form('mmssl.ops.fast.triton_deform_ps_roi_pool:pool_samples', when=cuda_with_triton)
def pool_samples(features: Tensor, samples: BinSamples, vote: bool) -> Tensor:
    """Average the samples of every bin.

    Args:
        features: (B, classes, C / classes, G * G, H, W).
        samples: Sampling positions.
        vote: Average over the bins.

    Returns:
        (N, C, P, P), or (N, C) with ``vote``.
    """
    _, classes, depth, groups, height, width = features.shape
    num_rois = samples.image.shape[0]  # len() would be a constant of a traced graph
    num_bins = samples.part.shape[0]
    columns, weight_x, count_x = _axis_weights(samples.x, samples.step_x, samples.num_samples, width)
    rows, weight_y, count_y = _axis_weights(samples.y, samples.step_y, samples.num_samples, height)
    image_class = samples.image.view(-1, 1, 1, 1) * classes
    image_class = image_class + torch.arange(classes, device=features.device).view(-1, 1, 1)
    first = (image_class * groups + samples.part) * (height * width)
    index = first[..., None, None] + rows[..., :, None] * width + columns[..., None, :]
    mean = 1.0 / (count_x * count_y).clamp(min=1) / (num_bins * num_bins if vote else 1)
    weight = (weight_y * mean[..., None])[..., :, None] * weight_x[..., None, :]
    table = features.flatten(4).permute(0, 1, 3, 4, 2).reshape(-1, depth)
    if vote:
        # all bins of a class are one sum
        index, weight = (tensor.flatten(2).flatten(0, 1) for tensor in (index, weight))
        return weighted_sum(table, index, weight).view(num_rois, classes * depth)
    index, weight = (tensor.flatten(4).flatten(0, 3) for tensor in (index, weight))
    out = weighted_sum(table, index, weight).view(num_rois, classes, num_bins, num_bins, depth)
    return out.permute(0, 1, 4, 2, 3).reshape(num_rois, classes * depth, num_bins, num_bins)


def _axis_weights(first: Tensor, step: Tensor, num_samples: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (..., 2 * m), int64, their weights (..., 2 * m), and the number of samples that count (...)."""
    lower, upper, fraction, valid = sample_axis(first, step.view(-1, 1, 1, 1), num_samples, size)
    pixels = torch.cat((lower, upper), -1).long()
    return pixels, torch.cat(((1 - fraction) * valid, fraction * valid), -1), valid.sum(-1)
