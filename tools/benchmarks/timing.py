"""What the benchmarks share: interleaved rounds, memory of a process, the head of a report."""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def medians(
    sides: dict[str, Callable[[], object]], rounds: int, warmup: int = 1, least: float = 0.0
) -> dict[str, float]:
    """Median seconds of a call of each side.

    Rounds are interleaved, so that what else the machine does falls on all sides alike.

    Args:
        sides: what to time, by name.
        rounds: timed calls a side.
        warmup: calls before.
        least: seconds that a timed call takes at least, by repeating short ones.
    """
    repeats = {}
    for name, call in sides.items():
        for _ in range(warmup):
            call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(least / max(time.perf_counter() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                sides[name]()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_resident() -> float:
    """Most MiB of memory that this process has held so far."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 2**10


def processor() -> str:
    """Name of the CPU."""
    info = Path('/proc/cpuinfo')
    names = (
        [
            line.split(':')[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith('model name')
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def report(path: str | Path, title: str, lines: list[str], settings: str, *packages: str) -> None:
    """Print a report and write it, headed by the command that made it.

    Args:
        path: of the Markdown file.
        title: its first line.
        lines: of Markdown.
        settings: threads, rounds and the like, in words.
        packages: distributions whose versions count.
    """
    import torch

    import mmssl

    script = Path(sys.argv[0]).resolve()
    command = ' '.join(['python', f'tools/benchmarks/{script.name}', *sys.argv[1:]])
    versions = ', '.join(
        [
            f'torch {torch.__version__}',
            *(f'{name} {version(name)}' for name in packages),
            f'mmssl {mmssl.__version__}',
        ]
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    head = [
        f'# {title}',
        '',
        f'`{command}`',
        '',
        f'{time.strftime("%Y-%m-%d")}, {device}, {settings}; {versions}.',
        '',
    ]
    text = '\n'.join(head + lines) + '\n'
    print(text)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
