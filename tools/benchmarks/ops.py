"""Time and memory of detection's operators on the CPU against torchvision, mmcv's compiled operators and a plain gather.

    python tools/benchmarks/ops.py                        # all of it, one thread
    python tools/benchmarks/ops.py --quick                # small numbers of rounds and regions

Both sides of a line take the same tensors and are timed in turn, by the CPU time of the process; a ratio is
the median over the rounds of peer over ours. Peak memory is that of one forward and backward pass in a
process of its own, beyond what the tensors and the imports need.
"""

import argparse
import gc
import importlib.metadata
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

from timing import peak_resident, processor

ROOT = Path(__file__).resolve().parents[2]
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


def boxes(number: int):
    """Regions of a 600 x 1000 image, sides log-uniform from 25 to 500 pixels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(number, 2, generator=generator) * torch.tensor([1000, 600])
    side = torch.exp(torch.rand(number, 1, generator=generator) * 3 + 3.2) * torch.exp(
        torch.randn(number, 2, generator=generator) * 0.3
    )
    corners = torch.cat((centre - side / 2, centre + side / 2), 1)
    corners[:, 0::2] = corners[:, 0::2].clamp(0, 999)
    corners[:, 1::2] = corners[:, 1::2].clamp(0, 599)
    return torch.cat((torch.zeros(number, 1), corners), 1)


def pooling(number: int, classes: int):
    """Inputs that need a gradient, and the sides of a line of the table of position-sensitive pooling with vote."""
    import torch
    import torchvision

    from mmssl.ops import ps_roi_pool

    features, rois = torch.randn(1, classes * BINS**2, *MAP, requires_grad=True), boxes(number)
    return [features], {
        'mmssl': lambda: ps_roi_pool(features, rois, BINS, SCALE, classes, vote=True),
        'torchvision': lambda: torchvision.ops.ps_roi_pool(features, rois, BINS, SCALE).mean((2, 3)),
    }


def convolution(channels: int, height: int, width: int, dilation: int, groups: int):
    """The same of modulated deformable convolution, 3 x 3."""
    import torch

    from mmssl.ops import deform_conv2d
    from mmssl.ops.fast.linear import enabled

    given = (
        torch.randn(1, channels, height, width),
        2 * torch.randn(1, 18 * groups, height, width),
        torch.randn(channels, channels, 3, 3) / math.sqrt(9 * channels),
    )
    given = [tensor.requires_grad_() for tensor in (*given, torch.rand(1, 9 * groups, height, width))]
    calls = {
        name: lambda backend=backend: deform_conv2d(
            *given[:3], None, 1, dilation, dilation, given[3], backend=backend
        )
        for name, backend in (('mmssl', 'auto'), ('torchvision', 'torchvision'), ('mmcv', 'mmcv'))
    }
    calls['mmssl'] = enabled()(calls['mmssl'])
    return given, calls


def deformable_pooling(number: int, classes: int, moved: int):
    """The same of deformable position-sensitive pooling; the peer gathers every neighbour of every sample."""
    import torch

    from mmssl.ops import deform_ps_roi_pool

    features, rois = torch.randn(1, classes * BINS**2, *MAP, requires_grad=True), boxes(number)
    trans = torch.randn(number, 2 * moved, BINS, BINS, requires_grad=True)
    return [features, trans], {
        'mmssl': lambda: deform_ps_roi_pool(features, rois, trans, BINS, SCALE, classes, BINS),
        'gather': lambda: plain_gather(features, rois, trans, classes),
    }


def plain_gather(features, rois, trans, classes: int, samples: int = 4, std: float = 0.1):
    """Deformable position-sensitive pooling by indexing, sample by sample and neighbour by neighbour."""
    import torch

    from mmssl.ops.rois import round_half_away

    height, width = features.shape[2:]
    number, moved = len(rois), trans.shape[1] // 2
    channel, bins, steps = torch.arange(classes), torch.arange(BINS), torch.arange(samples)
    shift = trans.view(number, moved, 2, BINS, BINS)[:, channel // (classes // moved)] * std
    places = []
    for axis, cells in ((0, width), (1, height)):
        start = round_half_away(rois[:, 1 + axis]) * SCALE - 0.5
        size = (
            ((round_half_away(rois[:, 3 + axis]) + 1) * SCALE - 0.5 - start)
            .clamp(min=0.1)
            .view(-1, 1, 1, 1, 1, 1)
        )
        ones = [1, 1, 1, 1, 1, 1]
        ones[3 - axis], along = BINS, [1, 1, 1, 1, 1, 1]
        along[5 - axis] = samples
        place = (
            start.view(-1, 1, 1, 1, 1, 1)
            + bins.view(ones) * size / BINS
            + steps.view(along) * size / BINS / samples
            + shift[:, :, axis, :, :, None, None] * size
        )
        places.append((place.clamp(0, cells - 1), (place >= -0.5) & (place <= cells - 0.5)))
    (x, keep_x), (y, keep_y) = places
    x, y, keep = *torch.broadcast_tensors(x, y), keep_x & keep_y
    left, top = x.floor(), y.floor()
    a, b = x - left, y - top
    place = (channel.view(-1, 1, 1) * BINS + bins.view(-1, 1)) * BINS + bins
    image, place = rois[:, 0].long().view(-1, 1, 1, 1, 1, 1), place[..., None, None]
    left, right, top, bottom = left.long(), x.ceil().long(), top.long(), y.ceil().long()
    value = (
        features[image, place, top, left] * (1 - a) * (1 - b)
        + features[image, place, top, right] * a * (1 - b)
        + features[image, place, bottom, left] * (1 - a) * b
        + features[image, place, bottom, right] * a * b
    )
    return (value * keep).sum((-1, -2)) / keep.sum((-1, -2)).clamp(min=1)


CASES = {'pool': pooling, 'conv': convolution, 'deform_pool': deformable_pooling}


def passes(inputs, function, backward: bool) -> None:
    """One forward pass, or one of both."""
    import torch

    if not backward:
        with torch.no_grad():
            function()
        return
    out = function()
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def compare(kind: str, case: tuple, rounds: int) -> list[dict]:
    """Medians of every side, and of the ratios of a round, forward and with backward."""
    import torch

    torch.manual_seed(0)
    inputs, sides = CASES[kind](*case)
    results = []
    for backward in (False, True):
        seconds = {name: [] for name in sides}
        for number in range(-1, rounds):
            for name in sides if number % 2 else reversed(list(sides)):
                start = time.process_time()
                passes(inputs, sides[name], backward)
                if number >= 0:
                    seconds[name].append(time.process_time() - start)
        gc.collect()
        results.append(
            {
                name: (
                    1e3 * statistics.median(values),
                    statistics.median(
                        theirs / mine for theirs, mine in zip(values, seconds['mmssl'], strict=True)
                    ),
                )
                for name, values in seconds.items()
            }
        )
    return results


def peak_memory(kind: str, case: tuple, side: str) -> float:
    """MiB of one pass of both directions, measured in a process of its own."""
    command = [sys.executable, __file__, '--child', kind, side, ','.join(map(str, case))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(kind: str, side: str, case: str) -> None:
    """Measure the memory of one side and print it."""
    import torch

    torch.set_num_threads(1)
    inputs, sides = CASES[kind](*(int(value) for value in case.split(',')))
    small = {'pool': (2, 1), 'conv': (8, 4, 4, 1, 1), 'deform_pool': (2, 2, 2)}[kind]
    passes(*(lambda given: (given[0], given[1][side]))(CASES[kind](*small)), True)
    before = peak_resident()
    passes(inputs, sides[side], True)
    print(peak_resident() - before)


def table(kind: str, cases: list[tuple], names: list[str], rounds: int, memory: bool) -> list[str]:
    """Lines of one table."""
    from mmssl.ops.dispatch import mmcv_supports

    peers = {
        'pool': ['torchvision'],
        'conv': ['torchvision'] + ['mmcv'] * mmcv_supports('cpu'),
        'deform_pool': ['gather'],
    }[kind]
    head = [
        'case',
        *(f'{side} {way}, ms' for way in ('forward', 'both') for side in ('mmssl', *peers)),
        *(f'{peer} / mmssl, {way}' for way in ('forward', 'both') for peer in peers),
        *(f'{side} MiB' for side in ('mmssl', *peers)),
    ]
    lines, ratios = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|'], {}
    for case, name in zip(cases, names, strict=True):
        ways = compare(kind, case, rounds)
        row = [
            name,
            *(f'{way[side][0]:.1f}' for way in ways for side in ('mmssl', *peers)),
            *(f'{way[peer][1]:.2f}' for way in ways for peer in peers),
            *(f'{peak_memory(kind, case, side):.0f}' if memory else '' for side in ('mmssl', *peers)),
        ]
        lines.append('| ' + ' | '.join(row) + ' |')
        print(lines[-1], flush=True)
        for which, way in zip(('forward', 'both'), ways, strict=True):
            for peer in peers:
                ratios.setdefault((peer, which), []).append(way[peer][1])
    if kind == 'conv':
        lines += [
            '',
            'Geometric means: '
            + ', '.join(
                f'{peer} / mmssl {which} {statistics.geometric_mean(values):.2f}'
                for (peer, which), values in ratios.items()
            )
            + '.',
        ]
    return lines


def main() -> None:
    """Run the comparison, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--quick', action='store_true', help='two rounds, few cases, no memory')
    parser.add_argument(
        '--parts', nargs='+', default=list(CASES), choices=list(CASES), help='tables to make (default: all)'
    )
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/ops.md'))
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    import torch

    torch.set_num_threads(1)
    rounds = 2 if args.quick else args.rounds
    pools = [
        (number, classes)
        for classes in (21, 81)
        for number in ((50, 1000) if args.quick else (50, 100, 300, 1000, 2000))
    ]
    convolutions = CONVOLUTIONS[:1] if args.quick else CONVOLUTIONS
    moved = [(100, 21, 21)] if args.quick else [(300, 21, 21), (300, 21, 1)]
    version = importlib.metadata.version
    peers = ', '.join(
        f'{name} {version(name)}'
        for name in ('torchvision', 'onedl-mmcv')
        if any(name == found.metadata['Name'] for found in importlib.metadata.distributions())
    )
    parts = [
        (
            'Position-sensitive pooling with vote',
            f'{MAP[0]}x{MAP[1]} map, k {BINS}. torchvision pools by its own rounding, then averages.',
            'pool',
            pools,
            [f'{number} RoIs, C {classes}' for number, classes in pools],
        ),
        (
            'Modulated deformable convolution, 3x3',
            'One image, as many output as input channels, offsets of two cells.',
            'conv',
            convolutions,
            [
                f'{c} ch {h}x{w}, dilation {d}, {g} offset group{"s" * (g > 1)}'
                for c, h, w, d, g in convolutions
            ],
        ),
        (
            'Deformable position-sensitive pooling',
            f'{MAP[0]}x{MAP[1]} map, k {BINS}, 4x4 samples a bin. The peer gathers by indexing.',
            'deform_pool',
            moved,
            [f'{n} RoIs, C {c}, {"offsets a class" if m > 1 else "shared offsets"}' for n, c, m in moved],
        ),
    ]
    arguments = ' '.join(sys.argv[1:])
    lines = [
        "# Detection's operators on the CPU",
        '',
        f'`python tools/benchmarks/ops.py {arguments}`'.replace(' `', '`'),
        '',
        f'{time.strftime("%Y-%m-%d")}, {processor()}, one thread, float32, {rounds} interleaved rounds, medians of CPU time; both: '
        f'forward and backward. torch {torch.__version__}, {peers}, mmssl {__import__("mmssl").__version__}.',
    ]
    for title, words, kind, cases, names in parts:
        if kind not in args.parts:
            continue
        print(title)
        lines += ['', f'## {title}', '', words, '', *table(kind, cases, names, rounds, not args.quick)]
    text = '\n'.join(lines) + '\n'
    print(text)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(text)


if __name__ == '__main__':
    main()
