"""Check and measure everything on a GPU with one command.

    python tools/gpu_check.py --out gpu.json --minutes 9
    python tools/gpu_check.py --out gpu.json --table docs/benchmarks/gpu.md   # write the page of the results
    python tools/gpu_check.py --device cpu --quick                            # the same code, small, on a CPU

The parts run in the order of their importance, each in a process of its own and within its time:

    a  every operator and fast form against the CPU in float64, values and gradients
    b  three training steps of each smoke config against the CPU; half precision; overflow of float16
    c  how often a training step waits for the GPU, against what its method declares
    d  NCCL and FSDP: train, save, kill, resume
    e  step time, memory and share of the GPU's matrix rate, beside peers that are installed
    f  a resumed run equals an uninterrupted one, bit for bit, with deterministic settings
    g  share of the time that the GPU waits for images

The JSON file is replaced after every result, so that a run that is cut still counts. The exit status is 1 if
a check failed.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_checks import check as results
from gpu_checks import page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools/benchmarks')]
PACKAGES = (
    *(
        'torch',
        'torchvision',
        'triton',
        'onedl-mmengine',
        'onedl-mmcv',
        'onedl-mmpretrain',
        'onedl-mmdetection',
    ),
    *('onedl-mmsegmentation', 'lightly', 'timm', 'segment-anything'),
)
# seconds after its time in which a part may end by itself
GRACE = 20


class Part(NamedTuple):
    """A part of the check.

    Attributes:
        title: What it checks.
        function: ``'module:function'`` below ``gpu_checks``.
        share: Its part of the time, relative to the others.
    """

    title: str
    function: str
    share: float


PARTS = {
    'a': Part('Operators against the CPU', 'operators:check_operators', 60),
    'b': Part('Training steps against the CPU', 'training:compare_steps', 100),
    'c': Part('Host syncs of a training step', 'training:count_syncs', 35),
    'd': Part('Distributed runs that are killed and resumed', 'runs:check_distributed', 70),
    'e': Part('Speed', 'speed:measure', 210),
    'f': Part('Exact resume', 'runs:check_exact_resume', 35),
    'g': Part('Loader and GPU', 'loader:measure_overlap', 30),
}


def read_arguments() -> argparse.Namespace:
    """Read the arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('gpu.json'), help='results (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=9, help='time of all parts (default: %(default)s)')
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument(
        '--quick', action='store_true', help='few cases of the smallest sizes, in one process'
    )
    parser.add_argument('--parts', default=''.join(PARTS), help='letters of the parts (default: %(default)s)')
    parser.add_argument('--table', type=Path, metavar='PAGE', help='only write a page from the results')
    parser.add_argument('--work-dir', type=Path, help='folder for data and runs (default: a temporary one)')
    parser.add_argument('--seconds', type=float, help=argparse.SUPPRESS)  # of the one part of a child process
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown or not args.parts:
        parser.error(f'--parts {args.parts}: the parts are {"".join(PARTS)}')
    if args.table and not args.out.exists():
        parser.error(f'--out {args.out} does not exist: run the check first, then write its page')
    if not args.table and args.device == 'cuda' and not torch.cuda.is_available():
        parser.error(
            f'torch {torch.__version__} finds no GPU; --device cpu --quick runs the script without one'
        )
    args.out = args.out.resolve()
    return args


def main() -> int:
    """Run the parts, or write the page."""
    args = read_arguments()
    if args.table:
        args.table.write_text(page.page_of(results.read(args.out)), encoding='utf-8')
        return 0
    if args.seconds:
        run_part(args.parts, args, args.seconds)
        return 0
    results.write(args.out, {'command': command(), **conditions(args.device)})
    with tempfile.TemporaryDirectory(prefix='gpu_check') as temporary:
        args.work_dir = (args.work_dir or Path(temporary)).resolve()
        run_parts(args)
    return summary(args.out)


def run_parts(args: argparse.Namespace) -> None:
    """Run the parts one after another, each within its part of the time that is left."""
    deadline = time.monotonic() + 60 * args.minutes
    # forks come first: autograd does not survive one
    parts = sorted(args.parts, key=lambda part: part not in 'df') if args.quick else args.parts
    for index, part in enumerate(parts):
        left = max(deadline - time.monotonic(), 0.0)
        seconds = left * PARTS[part].share / sum(PARTS[later].share for later in parts[index:])
        print(f'\n{part}  {PARTS[part].title}, at most {seconds:.0f} seconds', flush=True)
        if args.quick:
            run_part(part, args, seconds)
        else:
            run_child(part, args, seconds)


def run_child(part: str, args: argparse.Namespace, seconds: float) -> None:
    """Run a part in a process of its own, and end it with its processes when its time is long over."""
    child = [
        sys.executable,
        __file__,
        '--parts',
        part,
        '--seconds',
        str(max(seconds, 1)),
        '--device',
        args.device,
    ]
    child += ['--out', str(args.out), '--work-dir', str(args.work_dir)]
    process = subprocess.Popen(child, start_new_session=True)
    try:
        status = process.wait(max(seconds, 1) + GRACE)
        outcome = {} if status == 0 else {'status': f'ended with exit status {status}'}
    except subprocess.TimeoutExpired:
        outcome = {'status': 'stopped: out of time'}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    results.update(args.out, part, {'title': PARTS[part].title, **outcome})


def run_part(part: str, args: argparse.Namespace, seconds: float) -> None:
    """Run a part in this process."""
    from mmssl.hosts import patches

    patches.apply()  # mmpretrain does not import beside transformers 5 without them
    module, _, name = PARTS[part].function.partition(':')
    check = results.Check(part, torch.device(args.device), args.quick, seconds, args.out)
    function: Callable = getattr(import_module(f'gpu_checks.{module}'), name)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    before = os.getcwd()
    os.chdir(args.work_dir)
    try:
        check.run(PARTS[part].title, function)
    finally:
        os.chdir(before)
    check.write('done')
    results.update(args.out, part, {'title': PARTS[part].title})


def command() -> str:
    """Return the command as a person types it."""
    return ' '.join(['python', 'tools/gpu_check.py', *sys.argv[1:]])


def conditions(device: str) -> dict:
    """Return date, device and versions."""
    import mmssl

    versions = {'python': platform.python_version(), 'mmssl': mmssl.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = 'not installed'
    values = {'date': time.strftime('%Y-%m-%d'), 'device': 'CPU', 'devices': 0, 'versions': versions}
    if device == 'cuda':
        values |= {'device': torch.cuda.get_device_name(), 'devices': torch.cuda.device_count()}
        values['driver'] = driver()
    return values


def driver() -> str:
    """Return the version of the driver, '' if nvidia-smi does not say."""
    query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split('\n')[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        return ''


def summary(out: Path) -> int:
    """Print what failed, and return the exit status."""
    parts = results.read(out).get('parts', {})
    failed = [
        f'{part}  {row["name"]}'
        for part, values in parts.items()
        for row in values.get('rows', [])
        if row['ok'] is False
    ]
    failed += [
        f'{part}  {values["status"]}'
        for part, values in parts.items()
        if values.get('status', 'done') != 'done'
    ]
    print(f'\n{out}: ' + ('no check failed' if not failed else f'{len(failed)} failed'))
    for line in failed:
        print(f'  {line}')
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
