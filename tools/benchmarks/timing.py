"""What the benchmarks share: interleaved timing, memory of a process, versions, and the report."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Results = dict[str, dict[str, float]]


def parser_of(doc: str, name: str, rounds: int, threads: int | None = 1) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        doc: Docstring of the benchmark; its first line is the description.
        name: Name of the benchmark, which is that of its page in docs/benchmarks.
        rounds: Default number of timed rounds.
        threads: Default number of threads; None for all cores.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=rounds, help='timed rounds (default: %(default)s)')
    parser.add_argument(
        '--threads', type=int, default=threads or os.cpu_count(), help='threads (default: %(default)s)'
    )
    parser.add_argument('--no-memory', action='store_true', help='skip the processes that measure memory')
    parser.add_argument(
        '--out', default=str(ROOT / f'docs/benchmarks/{name}.md'), help='Markdown file to write'
    )
    parser.add_argument('--json', metavar='FILE', help='also write the results as JSON')
    return parser


def use_threads(count: int) -> None:
    """Use ``count`` threads in torch and in OpenCV."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(0 if count == 1 else count)


def interleaved(names: list[str], rounds: int) -> Iterator[str]:
    """Yield all names in every round, in alternating order, so that other load affects all of them alike."""
    for index in range(rounds):
        yield from names if index % 2 else reversed(names)


def medians(
    calls: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, min_seconds: float = 0.0
) -> dict[str, float]:
    """Return the median seconds of each call over interleaved rounds.

    Args:
        calls: Functions to time, by name.
        rounds: Timed rounds.
        warmup: Calls of each function before.
        min_seconds: Shortest time of a measurement; shorter calls are repeated.
    """
    repeats = dict.fromkeys(calls, 1)
    for name, call in calls.items():
        for _ in range(warmup):
            call()
        if min_seconds:
            repeats[name] = max(1, round(min_seconds / max(seconds_of(call), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name in interleaved(list(calls), rounds):
        seconds[name].append(seconds_of(calls[name], repeats[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def seconds_of(call: Callable[[], object], repeats: int = 1) -> float:
    """Return the mean seconds of ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def peak_resident() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 2**10


def measured_in_child(*arguments: object) -> float:
    """Run this benchmark with ``--child`` in another process and return the number that it prints last."""
    command = [sys.executable, sys.argv[0], '--child', *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def device_name() -> str:
    """Return the name of the GPU, or else of the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def versions_of(*packages: str) -> dict[str, str]:
    """Return the version of each package, 'not installed' for a missing one."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = 'not installed'
    return versions


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: '1 thread', '2 threads'."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def quartiles(values: list[float]) -> str:
    """Return 'median (lower quartile - upper quartile)'."""
    low, middle, high = statistics.quantiles(values * 2 if len(values) == 1 else values, method='inclusive')
    return f'{middle:.0f} ({low:.0f} - {high:.0f})'


def table(header: list[str], rows: list[list[object]]) -> list[str]:
    """Return the lines of a Markdown table, followed by an empty line."""
    lines = [header, ['---'] * len(header), *rows]
    return [*('| ' + ' | '.join(map(str, line)) + ' |' for line in lines), '']


def report(
    args: argparse.Namespace,
    title: str,
    lines: list[str],
    results: Results,
    settings: str,
    packages: tuple[str, ...] = (),
) -> None:
    """Print and write a report, headed by the command that made it.

    Args:
        args: Arguments of :func:`parser_of`.
        title: Title of the page.
        lines: Lines of Markdown below the head.
        results: Row -> name -> number, for ``--json``.
        settings: Rounds, sizes and the like, in words.
        packages: Distributions whose versions matter.
    """
    import torch

    import mmssl

    command = ' '.join(['python', f'tools/benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    versions = {'torch': torch.__version__, **versions_of(*packages), 'mmssl': mmssl.__version__}
    conditions = (
        f'{time.strftime("%Y-%m-%d")}, {device_name()}, {counted(args.threads, "thread")}, {settings}'
    )
    head = [
        f'# {title}',
        '',
        f'`{command}`',
        '',
        f'{conditions}; {", ".join(f"{name} {number}" for name, number in versions.items())}.',
        '',
    ]
    text = '\n'.join(head + lines).rstrip('\n') + '\n'
    print(text)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(text)
    if args.json:
        content = dict(
            title=title,
            command=command,
            device=device_name(),
            threads=args.threads,
            versions=versions,
            results=results,
        )
        Path(args.json).write_text(json.dumps(content, indent=2) + '\n')
