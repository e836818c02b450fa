"""The README's speed claims for two checkouts, measured in turn on the same machine.

    git worktree add ../old 6f2dd0a
    python tools/benchmarks/pairs.py ../old                     # against this checkout, about 25 minutes
    python tools/benchmarks/pairs.py ../old --only mae rfcn --rounds 1

Every benchmark runs in a subprocess of each checkout, old, new, old, new, ..., with fewer rounds and smaller
inputs than those behind the README's figures, so compare the two columns and not the columns with the README.
A ratio is the median over the runs. "Change" is that of our time in percent of the peer's time: +5 means that
a step that took 0.76 of the peer's time takes 0.81 of it. A row that fails is reported and does not stop the
others. Peers that are not installed are left out: ``pip install -e '.[bench]'``.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# runs a benchmark's main() after a change to its module
BOOTSTRAP = """
import importlib, sys
from pathlib import Path
script = Path(sys.argv[1])
sys.argv = sys.argv[1:]
sys.path.insert(0, str(script.parent))
sys.path.insert(0, str(script.parents[2]))
module = importlib.import_module(script.stem)
exec({patch!r})
module.main()
"""


class Claim(NamedTuple):
    """One ratio of the README.

    Attributes:
        text: What is compared.
        row: Row in the JSON results.
        key: Name of the number in that row.
        old_row: Pattern of the row in the Markdown table of a checkout without ``--json``.
        old_column: Pattern of the column in that table.
        inverted: Whether the old number is our time over the peer's.
    """

    text: str
    row: str
    key: str
    old_row: str
    old_column: str
    inverted: bool = False


class Benchmark(NamedTuple):
    """One run of a benchmark with its claims.

    Attributes:
        script: Name of the file.
        options: Options in both checkouts.
        claims: Ratios to read from the result.
        old_patch: Python statements that change ``module`` in a checkout without ``--json``.
        has_threads: Whether that checkout's benchmark takes ``--threads``.
        is_slow: Run half as often as the others.
        environment: Environment variables of the runs.
    """

    script: str
    options: str
    claims: list[Claim]
    old_patch: str = ''
    has_threads: bool = True
    is_slow: bool = False
    environment: Mapping[str, str] = {}


NO_MEMORY = "module.peak_memory = lambda *args, **kwargs: float('nan')"
# the counts of torchmetrics, so that the other rows can be measured without it
TORCHMETRICS = """
try:
    import torchmetrics
except ImportError:
    import sys, types, torch
    def multiclass_confusion_matrix(prediction, label, classes, ignore_index, validate_args):
        valid = label != ignore_index
        indices = label[valid].long() * classes + prediction[valid].long()
        return torch.bincount(indices, minlength=classes**2).view(classes, classes)
    for name in ('torchmetrics', 'torchmetrics.functional', 'torchmetrics.functional.classification'):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[name].multiclass_confusion_matrix = multiclass_confusion_matrix
    import timing
    installed = timing.version
    timing.version = lambda package: 'none' if package == 'torchmetrics' else installed(package)
"""
NO_MMCV = """
convolution = module.CASES['conv']
def without_mmcv(*case):
    given, calls = convolution(*case)
    calls.pop('mmcv')
    return given, calls
module.CASES['conv'] = without_mmcv
module.peak_memory = lambda *args, **kwargs: float('nan')
"""
SAM = 'times faster than segment_anything'
SELFSUP = {
    'moco': 'MoCo v2, ResNet-50',
    'mocov3': 'MoCo v3, ViT-S',
    'mocov3-resnet50': 'MoCo v3, ResNet-50',
    'swav': 'SwAV, ResNet-50',
    'beit': 'BEiT-B',
    'dino': 'DINO, ViT-S, against lightly',
    'momentum update of ResNet-50': 'momentum update of ResNet-50',
}
# a benchmark without --json stops at a method whose peer is missing
METHODS = [name for name in (*list(SELFSUP)[:-1], 'ema') if name != 'dino' or find_spec('lightly')]
MAPS = ['512x1024, 19 classes', '512x683, 150 classes']


def evaluation_claim(peer: str, maps: str) -> Claim:
    return Claim(
        f'segmentation counts, {maps}, against {peer}',
        maps,
        f'times faster than {peer}',
        re.escape(maps),
        f'mmssl / {peer}',
    )


def operator_claim(operator: str, case: str, passes: str) -> Claim:
    old = 'forward' if passes == 'forward' else 'both'
    key = f'times faster than torchvision, {passes}'
    return Claim(f'{case}, {passes}', f'{operator}: {case}', key, case, f'torchvision / mmssl, {old}')


BENCHMARKS = {
    'mae': Benchmark(
        'mae_step.py',
        '--rounds 2 --warmup 1',
        [
            Claim(
                'MAE ViT-B step, float32',
                'mmssl, float32 against mmpretrain, float32',
                'times faster',
                'mmssl, float32 / mmpretrain',
                'time',
                inverted=True,
            ),
            Claim(
                'MAE ViT-B step, bfloat16 against our float32',
                'mmssl, bfloat16 against mmssl, float32',
                'times faster',
                'mmssl, bfloat16 / mmssl',
                'time',
                inverted=True,
            ),
        ],
        old_patch=NO_MEMORY,
    ),
    'loader': Benchmark(
        'loader.py',
        '--rounds 5',
        [
            Claim(
                'images per second of one loader worker',
                'DataLoader, 1 worker, batches of 32',
                'times faster than mmpretrain',
                'DataLoader',
                'ratio',
            )
        ],
        has_threads=False,
    ),
    'selfsup': Benchmark(
        'selfsup_step.py',
        f'{" ".join(METHODS)} --rounds 2 --warmup 1 --batch 2',
        [
            Claim(f'{text}, step', row, 'times faster than the peer', f'{row}$', 'ratio', inverted=True)
            for row, text in SELFSUP.items()
            if row != 'dino' or find_spec('lightly')
        ],
        is_slow=True,
    ),
    'evaluation': Benchmark(
        'evaluation.py',
        '--rounds 5 --images 60',
        [
            *(evaluation_claim('mmseg', f'{maps}, {dtype}') for maps in MAPS for dtype in ('uint8', 'int64')),
            *(
                evaluation_claim('torchmetrics', f'{maps}, int64')
                for maps in MAPS
                if find_spec('torchmetrics')
            ),
        ],
        old_patch=TORCHMETRICS,
        has_threads=False,
    ),
    'heads': Benchmark(
        'heads.py',
        '--rounds 2 --kernels 15',
        [
            Claim(
                "GCN's block on 2048 channels, k 15, against the plain form",
                'block, 2048 channels at 16x16, k 15',
                'times faster than the plain form',
                'block, 2048',
                'as chosen / plain',
                inverted=True,
            )
        ],
    ),
    'rfcn': Benchmark(
        'rfcn.py',
        '--rounds 3 --peer-rounds 1 --height 300 --width 500 --no-memory',
        [
            *(
                Claim(
                    f'R-FCN, {count} proposals, against Faster R-CNN C4',
                    f'{count} RoIs',
                    'times faster than Faster R-CNN C4',
                    f'{count}$',
                    'times faster',
                )
                for count in (300, 1000)
            ),
            Claim(
                'R-FCN, time with 2000 RoIs over that with 100',
                '2000 RoIs alone',
                'time relative to 100 RoIs',
                '2000$',
                'of that at 100',
            ),
        ],
        is_slow=True,
    ),
    'pooling': Benchmark(
        'ops.py',
        '--parts pool --quick',
        [
            operator_claim('pool', f'{count} RoIs, C 21', passes)
            for count in (50, 1000)
            for passes in ('forward', 'forward and backward')
        ],
        has_threads=False,
    ),
    'deform_conv': Benchmark(
        'ops.py',
        '--parts conv --rounds 2',
        [
            Claim(
                f'deformable convolution, geometric mean of five shapes, {passes}',
                'conv: deformable convolution, geometric mean',
                f'times faster than torchvision, {passes}',
                '',
                f'torchvision / mmssl {old} ([0-9.]+)',
            )
            for passes, old in (('forward', 'forward'), ('forward and backward', 'both'))
        ],
        old_patch=NO_MMCV,
        has_threads=False,
        environment={'MMSSL_NO_EXT': '1'},  # mmcv's operators are not of interest
    ),
    'sam_encoder': Benchmark(
        'promptable.py',
        '--parts encoder --depth 3 --rounds 2',
        [Claim("SAM ViT-B's encoder", 'encoder', SAM, 'mmssl$', 'of segment_anything', inverted=True)],
        old_patch=NO_MEMORY,
    ),
    'sam_decoder': Benchmark(
        'promptable.py',
        '--parts decoder --rounds 2',
        [
            Claim(f"SAM's decoder, {count} prompts", f'decoder, {count} prompts', SAM, f'{count}$', 'times$')
            for count in (16, 64)
        ],
        old_patch=NO_MEMORY,
    ),
    'sam_automatic': Benchmark(
        'promptable.py',
        '--parts automatic --depth 3 --points 8',
        [Claim("SAM's automatic masks", 'automatic', SAM, 'mmssl$', 'of segment_anything', inverted=True)],
        old_patch=NO_MEMORY,
    ),
}


def run(
    checkout: Path, benchmark: Benchmark, threads: int, options: str, timeout: float
) -> dict[Claim, float]:
    """Run a benchmark of a checkout and return the ratio of each claim.

    Args:
        checkout: Root of the checkout.
        benchmark: The benchmark.
        threads: Number of threads.
        options: More options.
        timeout: Seconds after which the run is stopped.

    Raises:
        RuntimeError: The run failed; the message is its last line of output.
    """
    script = checkout / 'tools/benchmarks' / benchmark.script
    has_json = (checkout / 'tools/benchmarks/pairs.py').is_file()
    arguments = [*benchmark.options.split(), *options.split()]
    with tempfile.TemporaryDirectory() as folder:
        out, result_file = Path(folder, 'out.md'), Path(folder, 'out.json')
        arguments += ['--out', str(out)]
        if has_json:
            arguments += ['--threads', str(threads), '--json', str(result_file)]
            arguments += ['--no-memory'] * ('--no-memory' not in arguments)
        elif benchmark.has_threads:
            arguments += ['--threads', str(threads)]
        patch = '' if has_json else benchmark.old_patch
        command = [sys.executable, '-c', BOOTSTRAP.format(patch=patch), str(script), *arguments]
        environment = {
            **os.environ,
            **benchmark.environment,
            'PYTHONPATH': str(checkout),
            'OMP_NUM_THREADS': str(threads),
        }
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f'stopped after {timeout:.0f} s') from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ['no output']
            raise RuntimeError(f'exit status {done.returncode}: {lines[-1]}')
        if has_json:
            results = json.loads(result_file.read_text())['results']
            ratios = {claim: results.get(claim.row, {}).get(claim.key) for claim in benchmark.claims}
        else:
            text = out.read_text()
            ratios = {claim: ratio_in_markdown(text, claim) for claim in benchmark.claims}
    return {claim: ratio for claim, ratio in ratios.items() if ratio is not None}


def ratio_in_markdown(text: str, claim: Claim) -> float | None:
    """Read the ratio of a claim from the report of a checkout without ``--json``."""
    if not claim.old_row:
        match = re.search(claim.old_column, text)
        return float(match[1].rstrip('.')) if match else None
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith('|'):
            header = []
            continue
        columns = [column.strip() for column in line.strip('|').split('|')]
        if not header:
            header = columns
        elif re.match(claim.old_row, columns[0]):
            for name, value in zip(header, columns, strict=True):
                if re.match(claim.old_column, name) and re.fullmatch(r'[0-9.]+', value):
                    return 1 / float(value) if claim.inverted else float(value)
    return None


def row_of(claim: Claim, old: list[float], new: list[float], error: str) -> str:
    """Return the row of a claim in the table."""
    if not old or not new:
        reason = error or 'no value; is the peer installed?'
        medians = [f'{statistics.median(values):.2f}' if values else '-' for values in (old, new)]
        return f'| {claim.text} | {medians[0]} | {medians[1]} | {reason} | |'
    before, after = statistics.median(old), statistics.median(new)
    is_time = claim.key.startswith('time relative')
    change = 100 * (after - before) if is_time else 100 * (1 / after - 1 / before)
    spread = ' / '.join(f'{min(values):.2f}-{max(values):.2f}' for values in (old, new))
    warning = f'; {error}' if error else ''
    return f'| {claim.text} | {before:.2f} | {after:.2f} | {change:+.1f} | {spread}{warning} |'


def measure(benchmark: Benchmark, checkouts: dict[str, Path], args: argparse.Namespace) -> list[str]:
    """Run a benchmark in turn for both checkouts and return the rows of its claims."""
    ratios: dict[str, dict[Claim, list[float]]] = {
        name: {claim: [] for claim in benchmark.claims} for name in checkouts
    }
    errors = []
    for _ in range(math.ceil(args.rounds / 2) if benchmark.is_slow else args.rounds):
        for name, checkout in checkouts.items():
            start = time.perf_counter()
            try:
                result = run(checkout, benchmark, args.threads, args.options, args.timeout)
            except Exception as error:  # the other rows are still of use
                errors.append(f'{name}: {error}')
                result = {}
            for claim, ratio in result.items():
                ratios[name][claim].append(ratio)
            state = errors[-1] if errors and not result else f'{time.perf_counter() - start:.0f} s'
            print(f'{benchmark.script} {benchmark.options}, {name}: {state}', file=sys.stderr, flush=True)
    error = '; '.join(dict.fromkeys(errors)).replace('|', '/')
    return [row_of(claim, ratios['old'][claim], ratios['new'][claim], error) for claim in benchmark.claims]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('old', type=Path, metavar='OLD_CHECKOUT')
    parser.add_argument('--new', type=Path, default=ROOT, help='the other checkout (default: this one)')
    parser.add_argument('--only', nargs='+', choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument('--rounds', type=int, default=2, help='runs per checkout (default: 2)')
    parser.add_argument('--threads', type=int, default=1, help='threads (default: 1)')
    parser.add_argument('--timeout', type=float, default=600, help='seconds per run (default: 600)')
    parser.add_argument(
        '--options', default='', help='more options of the benchmarks, as in --options=--quick'
    )
    parser.add_argument('--out', type=Path, help='Markdown file to write')
    args = parser.parse_args()
    checkouts = {'old': args.old.resolve(), 'new': args.new.resolve()}
    for checkout in checkouts.values():
        if not (checkout / 'tools/benchmarks').is_dir():
            parser.error(f'{checkout} is not a checkout of mmssl: it has no tools/benchmarks')
    sys.path.insert(0, str(Path(__file__).parent))
    from timing import device_name

    commits = [
        subprocess.run(
            ['git', '-C', str(checkout), 'describe', '--always', '--dirty'], capture_output=True, text=True
        ).stdout.strip()
        for checkout in checkouts.values()
    ]
    lines = [
        f'{time.strftime("%Y-%m-%d")}, {device_name()}, {args.threads} threads, old {commits[0]}, '
        f'new {commits[1]}, {args.rounds} runs each.',
        '',
        '| claim | old, times faster | new, times faster | change, points of the peer | range old / new |',
        '|---|---|---|---|---|',
    ]
    print('\n'.join(lines), flush=True)
    for name in args.only:
        rows = measure(BENCHMARKS[name], checkouts, args)
        print('\n'.join(rows), flush=True)
        lines += rows
        if args.out:
            args.out.write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
