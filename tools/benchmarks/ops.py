"""Time and memory of detection's operators on the CPU against torchvision, mmcv's operators and indexing.

    python tools/benchmarks/ops.py
    python tools/benchmarks/ops.py --quick      # few rounds and cases, no memory

All implementations in a row get the same tensors and are timed in turn, by the CPU time of the process; a
ratio is the median over the rounds of the peer's time over ours. With more than one thread it is the elapsed
time. Peak memory is that of one forward and backward pass in a separate process, beyond what tensors and
imports need. mmcv is left out where it has no compiled operators.
"""

import argparse
import gc
import math
import statistics
import sys
import time

from timing import (
    ROOT,
    Results,
    interleaved,
    measured_in_child,
    parser_of,
    peak_resident,
    report,
    table,
    use_threads,
)

sys.path.insert(0, str(ROOT))
MAP, SCALE, BINS = (38, 63), 1 / 16, 7
# channels, height, width, dilation, groups of offsets
CONVOLUTIONS = [
    (64, 50, 84, 1, 1),
    (128, 100, 168, 1, 1),
    (256, 50, 84, 1, 1),
    (512, 38, 63, 2, 1),
    (256, 38, 63, 1, 4),
]
PASSES = ('forward', 'forward and backward')


def random_rois(count: int):
    """Draw regions of a 600 x 1000 image whose sides are log-uniform from 25 to 500 pixels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    center = torch.rand(count, 2, generator=generator) * torch.tensor([1000, 600])
    scale = torch.exp(torch.rand(count, 1, generator=generator) * 3 + 3.2)
    size = scale * torch.exp(torch.randn(count, 2, generator=generator) * 0.3)
    corners = torch.cat((center - size / 2, center + size / 2), 1)
    corners[:, 0::2] = corners[:, 0::2].clamp(0, 999)
    corners[:, 1::2] = corners[:, 1::2].clamp(0, 599)
    return torch.cat((torch.zeros(count, 1), corners), 1)


def pooling(count: int, classes: int):
    """Return inputs and implementations of position-sensitive pooling with vote.

    Args:
        count: Number of RoIs.
        classes: Number of classes.

    Returns:
        The inputs that need a gradient, and name -> call.
    """
    import torch
    import torchvision

    from mmssl.ops import ps_roi_pool

    features = torch.randn(1, classes * BINS**2, *MAP, requires_grad=True)
    rois = random_rois(count)
    return [features], {
        'mmssl': lambda: ps_roi_pool(features, rois, BINS, SCALE, classes, vote=True),
        'torchvision': lambda: torchvision.ops.ps_roi_pool(features, rois, BINS, SCALE).mean((2, 3)),
    }


def convolution(channels: int, height: int, width: int, dilation: int, groups: int):
    """Return inputs and implementations of modulated deformable convolution, 3 x 3.

    Args:
        channels: Number of input and of output channels.
        height: Height of the map.
        width: Width of the map.
        dilation: Dilation and padding.
        groups: Groups of offsets.
    """
    import torch

    from mmssl.ops import deform_conv2d
    from mmssl.ops.dispatch import mmcv_supports
    from mmssl.ops.fast.linear import enabled

    inputs = [
        torch.randn(1, channels, height, width),
        2 * torch.randn(1, 18 * groups, height, width),
        torch.randn(channels, channels, 3, 3) / math.sqrt(9 * channels),
        torch.rand(1, 9 * groups, height, width),
    ]
    x, offset, weight, mask = (tensor.requires_grad_() for tensor in inputs)

    def call(backend: str):
        return deform_conv2d(x, offset, weight, None, 1, dilation, dilation, mask, backend=backend)

    calls = {'mmssl': enabled()(lambda: call('auto')), 'torchvision': lambda: call('torchvision')}
    if mmcv_supports('cpu'):
        calls['mmcv'] = lambda: call('mmcv')
    return inputs, calls


def deformable_pooling(count: int, classes: int, offset_classes: int):
    """Return inputs and implementations of deformable position-sensitive pooling.

    Args:
        count: Number of RoIs.
        classes: Number of classes.
        offset_classes: Number of classes with offsets of their own; 1 for shared offsets.
    """
    import torch

    from mmssl.ops import deform_ps_roi_pool

    features = torch.randn(1, classes * BINS**2, *MAP, requires_grad=True)
    rois = random_rois(count)
    offsets = torch.randn(count, 2 * offset_classes, BINS, BINS, requires_grad=True)
    return [features, offsets], {
        'mmssl': lambda: deform_ps_roi_pool(features, rois, offsets, BINS, SCALE, classes, BINS),
        'indexing': lambda: pool_by_indexing(features, rois, offsets, classes),
    }


def pool_by_indexing(features, rois, offsets, classes: int, samples: int = 4, std: float = 0.1):
    """Deformable position-sensitive pooling that gathers the four neighbors of every sample.

    Args:
        features: (1, classes * bins * bins, H, W).
        rois: (N, 5).
        offsets: (N, 2 * offset classes, bins, bins).
        classes: Number of classes.
        samples: Samples per bin in each direction.
        std: Scale of the offsets, relative to the RoI.
    """
    import torch

    from mmssl.ops.rois import round_half_away

    height, width = features.shape[2:]
    count, offset_classes = len(rois), offsets.shape[1] // 2
    # dimensions: RoI, class, bin row, bin column, sample row, sample column
    class_index = torch.arange(classes)
    shift = offsets.view(count, offset_classes, 2, BINS, BINS)[:, class_index // (classes // offset_classes)]
    shift = shift * std

    def sample_positions(axis: int, map_size: int):
        start = round_half_away(rois[:, 1 + axis]) * SCALE - 0.5
        end = (round_half_away(rois[:, 3 + axis]) + 1) * SCALE - 0.5
        size = (end - start).clamp(min=0.1).view(-1, 1, 1, 1, 1, 1)
        bin_shape, sample_shape = [1] * 6, [1] * 6
        bin_shape[3 - axis], sample_shape[5 - axis] = BINS, samples
        bins = torch.arange(BINS).view(bin_shape) + torch.arange(samples).view(sample_shape) / samples
        positions = start.view(-1, 1, 1, 1, 1, 1) + bins * size / BINS
        positions = positions + shift[:, :, axis, :, :, None, None] * size
        is_inside = (positions >= -0.5) & (positions <= map_size - 0.5)
        return positions.clamp(0, map_size - 1), is_inside

    (x, x_inside), (y, y_inside) = sample_positions(0, width), sample_positions(1, height)
    x, y = torch.broadcast_tensors(x, y)
    is_inside = x_inside & y_inside
    left, top = x.floor(), y.floor()
    right_weight, bottom_weight = x - left, y - top
    bins = torch.arange(BINS)
    channel = (class_index.view(-1, 1, 1) * BINS + bins.view(-1, 1)) * BINS + bins
    image, channel = rois[:, 0].long().view(-1, 1, 1, 1, 1, 1), channel[..., None, None]
    left, right, top, bottom = left.long(), x.ceil().long(), top.long(), y.ceil().long()
    values = (
        features[image, channel, top, left] * (1 - right_weight) * (1 - bottom_weight)
        + features[image, channel, top, right] * right_weight * (1 - bottom_weight)
        + features[image, channel, bottom, left] * (1 - right_weight) * bottom_weight
        + features[image, channel, bottom, right] * right_weight * bottom_weight
    )
    return (values * is_inside).sum((-1, -2)) / is_inside.sum((-1, -2)).clamp(min=1)


OPERATORS = {'pool': pooling, 'conv': convolution, 'deform_pool': deformable_pooling}
SMALL_CASES = {'pool': (2, 1), 'conv': (8, 4, 4, 1, 1), 'deform_pool': (2, 2, 2)}


def run_pass(inputs, call, backward: bool) -> None:
    """Run a forward pass without gradients, or a forward and backward pass."""
    import torch

    if not backward:
        with torch.no_grad():
            call()
        return
    out = call()
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def compare(inputs, calls: dict, rounds: int, clock, backward: bool) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each implementation, and how many times ours is faster than it.

    Args:
        inputs: Tensors that need a gradient.
        calls: Name -> call.
        rounds: Timed rounds.
        clock: Function that returns seconds.
        backward: Include the backward pass.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        run_pass(inputs, call, backward)
    for name in interleaved(list(calls), rounds):
        start = clock()
        run_pass(inputs, calls[name], backward)
        seconds[name].append(clock() - start)
    gc.collect()
    results = {}
    for name, values in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(values, seconds['mmssl'], strict=True)]
        results[name] = (1e3 * statistics.median(values), statistics.median(ratios))
    return results


def measure_memory(operator: str, implementation: str, case: str) -> None:
    """Print the peak memory in MiB of one forward and backward pass."""
    inputs, calls = OPERATORS[operator](*(int(value) for value in case.split(',')))
    small_inputs, small_calls = OPERATORS[operator](*SMALL_CASES[operator])
    run_pass(small_inputs, small_calls[implementation], True)
    before = peak_resident()
    run_pass(inputs, calls[implementation], True)
    print(peak_resident() - before)


def table_of(operator: str, cases: dict[str, tuple], args: argparse.Namespace) -> tuple[list[str], Results]:
    """Measure all cases of an operator.

    Args:
        operator: A key of ``OPERATORS``.
        cases: Name -> arguments of the operator's function.
        args: Arguments of the command.

    Returns:
        Lines of Markdown and the results.
    """
    import torch

    clock = time.process_time if args.threads == 1 else time.perf_counter
    rows, results, names = [], Results(), []
    for case_name, case in cases.items():
        torch.manual_seed(0)
        inputs, calls = OPERATORS[operator](*case)
        names = list(calls)
        passes = [compare(inputs, calls, args.rounds, clock, backward) for backward in (False, True)]
        row = [case_name]
        row += [f'{times[name][0]:.1f}' for times in passes for name in names]
        row += [f'{times[name][1]:.2f}' for times in passes for name in names[1:]]
        if not args.no_memory:
            joined = ','.join(map(str, case))
            options = ('--threads', args.threads)
            row += [f'{measured_in_child(operator, name, joined, *options):.0f}' for name in names]
        rows.append(row)
        results[case_name] = {
            f'times faster than {name}, {what}': times[name][1]
            for what, times in zip(PASSES, passes, strict=True)
            for name in names[1:]
        }
        print(' | '.join(row), flush=True)
    header = ['case']
    header += [f'{name} {what}, ms' for what in PASSES for name in names]
    header += [f'times faster than {name}, {what}' for what in PASSES for name in names[1:]]
    header += [] if args.no_memory else [f'{name} MiB' for name in names]
    lines = table(header, rows)
    if operator == 'conv':
        keys = list(next(iter(results.values())))
        means = {
            key: statistics.geometric_mean(by_case[key] for by_case in list(results.values())) for key in keys
        }
        results['deformable convolution, geometric mean'] = means
        lines += [
            'Geometric means: ' + '; '.join(f'{value:.2f} {key}' for key, value in means.items()) + '.',
            '',
        ]
        if 'mmcv' not in names:
            lines += ['mmcv is left out: it is not installed with compiled operators.', '']
    return lines, results


def cases_of(quick: bool) -> dict[str, tuple[str, str, dict[str, tuple]]]:
    """Return operator -> (title, description, cases)."""
    counts = (50, 1000) if quick else (50, 100, 300, 1000, 2000)
    pools = {f'{count} RoIs, C {classes}': (count, classes) for classes in (21, 81) for count in counts}
    convolutions = {}
    for case in CONVOLUTIONS[:1] if quick else CONVOLUTIONS:
        channels, height, width, dilation, groups = case
        plural = 's' if groups > 1 else ''
        name = f'{channels} ch {height}x{width}, dilation {dilation}, {groups} offset group{plural}'
        convolutions[name] = case
    count = 100 if quick else 300
    deformable = {f'{count} RoIs, C 21, offsets per class': (count, 21, 21)}
    if not quick:
        deformable[f'{count} RoIs, C 21, shared offsets'] = (count, 21, 1)
    return {
        'pool': (
            'Position-sensitive pooling with vote',
            f'{MAP[0]}x{MAP[1]} map, k {BINS}. torchvision pools with its own rounding, then averages.',
            pools,
        ),
        'conv': (
            'Modulated deformable convolution, 3x3',
            'One image, as many output as input channels, offsets with a standard deviation of two pixels.',
            convolutions,
        ),
        'deform_pool': (
            'Deformable position-sensitive pooling',
            f'{MAP[0]}x{MAP[1]} map, k {BINS}, 4x4 samples per bin. The peer gathers by indexing.',
            deformable,
        ),
    }


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'ops', rounds=9)
    parser.add_argument('--quick', action='store_true', help='two rounds, few cases, no memory')
    parser.add_argument('--parts', nargs='+', default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_threads(args.threads)
    if args.child:
        measure_memory(*args.child)
        return
    if args.quick:
        args.rounds, args.no_memory = 2, True
    lines, results = [], Results()
    for operator, (title, description, cases) in cases_of(args.quick).items():
        if operator in args.parts:
            print(title)
            part, part_results = table_of(operator, cases, args)
            lines += [f'## {title}', '', description, '', *part]
            results |= {f'{operator}: {name}': values for name, values in part_results.items()}
    clock = 'CPU time' if args.threads == 1 else 'elapsed time'
    settings = f'float32, {args.rounds} interleaved rounds, medians of {clock}'
    report(args, "Detection's operators on the CPU", lines, results, settings, ('torchvision', 'onedl-mmcv'))


if __name__ == '__main__':
    main()
