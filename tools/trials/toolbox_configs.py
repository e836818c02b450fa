"""A training step and a prediction of every family of configs of mmdet and mmseg, without compiled operators.

    python tools/trials/toolbox_configs.py mmdet mmseg --output docs/trials/toolbox_configs.md

Of every folder of configs that the packages of mmdet and mmseg install, the config with the smallest network
(by its name) is built with random weights, takes a step of SGD on two random images of 128 pixels and
predicts. Each config runs in a forked process with limits of memory and time. ``MMSSL_NO_EXT=1`` hides
compiled operators, so that :mod:`mmssl.hosts.mmcv_ext` takes their place; the operators of it that a config
called are recorded.
"""

import argparse
import functools
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent)] * (str(Path(__file__).resolve().parent) not in sys.path)

TOOLBOXES = {'mmdet': 'mmdetection', 'mmseg': 'mmsegmentation'}
# folders without models of their own: bases, data sets, and lists of checkpoints
NO_FAMILIES = {'_base_', 'common', 'dsdl'}
# parts of names, the smallest networks first
SIZES = (r'tiny|-t[-_]|r18|[-_]s[-_]|mit-b0|pvt-t|400mf|mobilenet', r'r50|small|t20|vgg|d53', r'')
LARGE = r'lsj|large|r101|x101|-l[-_]|-x[-_]|huge|w40|w48|objects365|lvis|[-_]ade20k'
OUTCOMES = ('runs', 'lacks an operator', 'lacks a package', 'fails')


class Run(NamedTuple):
    """Outcome of one config: one of ``OUTCOMES``, the message of a failure and the operators called."""

    config: str
    outcome: str
    message: str
    operators: list[str]
    loss: float | None
    seconds: float


def configs_of(toolbox: str) -> dict[str, list[Path]]:
    """Return the configs of each family that have a model, those of small networks first."""
    package = importlib.util.find_spec(toolbox)
    assert package is not None and package.origin is not None
    root = Path(package.origin).parent / '.mim' / 'configs'
    families = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name not in NO_FAMILIES):
        files = [path for path in folder.rglob('*.py') if '_base_' not in path.parts]
        if files:
            families[folder.name] = sorted(files, key=size_of_name)
    return families


def size_of_name(path: Path) -> tuple:
    """Return a key that sorts the configs of a family by the size of their networks."""
    name = path.name
    rank = next(index for index, pattern in enumerate(SIZES) if re.search(pattern, name))
    return bool(re.search(LARGE, name)), rank, len(name), name


def run_in_fork(function, limit: int, memory: int) -> dict:
    """Run a function that returns a dict in a forked process.

    Args:
        function: The function.
        limit: Seconds of CPU time.
        memory: Bytes of address space.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        with os.fdopen(1, 'w'), os.fdopen(writing, 'w') as pipe:
            try:
                pipe.write(json.dumps(function()))
            except BaseException:
                pipe.write(json.dumps({'error': traceback.format_exc()}))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(text) if text else {'error': f'ended with status {status}'}


def judge(config: str, result: dict, seconds: float) -> Run:
    """Return the run of a result of :func:`run_in_fork`."""
    error = result.get('error', '').strip()
    line = next((line for line in reversed(error.splitlines()) if line and line[0] != ' '), '')
    outcome = 'fails' if error else 'runs'
    if 'compiled operators of mmcv' in error:
        outcome = 'lacks an operator'
    elif re.search(r'No module named|[Pp]lease install|is not installed|pip install', error):
        outcome = 'lacks a package'
    return Run(config, outcome, line, result.get('operators', []), result.get('loss'), seconds)


def table(runs: dict[str, list[Run]], command: str) -> str:
    """Return the runs as Markdown."""
    from importlib.metadata import version

    counts = {toolbox: Counter(run.outcome for run in rows) for toolbox, rows in runs.items()}
    lines = [
        '# Configs of the toolboxes without compiled operators',
        '',
        'Of each family of configs the one with the smallest network: a training step and a prediction on '
        'random images of 128 pixels, with random weights, on the CPU, on the replacements of '
        '`mmssl.hosts.mmcv_ext` for the operators of mmcv. A step runs if losses and gradients are '
        'finite and weights change; values are compared in the tests of the operators. Written by',
        '',
        '```',
        command,
        '```',
        '',
        ', '.join(
            f'{name} {version("onedl-" + name if name == "mmcv" else "onedl-" + TOOLBOXES[name])}'
            for name in ('mmcv', *runs)
        )
        + '. So far with the families of the tables, some of which were run before the script drew the '
        "toolbox's initial weights.",
        '',
        '| toolbox | families | tried | ' + ' | '.join(OUTCOMES) + ' |',
        '|---|---|---|' + '---|' * len(OUTCOMES),
    ]
    for toolbox, rows in runs.items():
        cells = ' | '.join(str(counts[toolbox][outcome]) for outcome in OUTCOMES)
        lines.append(f'| {toolbox} | {len(configs_of(toolbox))} | {len(rows)} | {cells} |')
    for toolbox, rows in runs.items():
        lines += ['', f'## {toolbox}', '', '| config | outcome | operators of mmcv |', '|---|---|---|']
        for run in rows:
            message = '' if run.outcome == 'runs' else f': {run.message[:160]}'.replace('|', '/')
            operators = ', '.join(f'`{name}`' for name in run.operators)
            lines.append(f'| {run.config} | {run.outcome}{message} | {operators} |')
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Run the configs, write the table, and return 1 if one fails or lacks an operator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('toolboxes', nargs='+', choices=TOOLBOXES)
    parser.add_argument('--families', nargs='*', help='only these')
    parser.add_argument('--limit', type=int, default=240, help='seconds of CPU time of a config')
    parser.add_argument('--memory', type=float, default=14, help='GiB of address space of a config')
    parser.add_argument('--compiled', action='store_true', help='with compiled operators, for comparison')
    parser.add_argument('--results', type=Path, help='JSON file of earlier results, continued')
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    if not args.compiled:
        os.environ['MMSSL_NO_EXT'] = '1'
    results = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
    import toolbox_steps

    toolbox_steps.load()
    for toolbox in args.toolboxes:
        rows = results.setdefault(toolbox, {})
        for family, paths in configs_of(toolbox).items():
            if family in rows or (args.families and family not in args.families):
                continue
            start = time.monotonic()
            step = toolbox_steps.STEPS[toolbox]
            result = run_in_fork(functools.partial(step, family, paths), args.limit, int(args.memory * 2**30))
            name = result.get('config', f'{family}/{paths[0].name}')
            run = judge(name, result, time.monotonic() - start)
            rows[family] = run._asdict()
            print(
                f'{run.seconds:6.1f} s  {toolbox} {name}: {run.outcome} {run.message} {run.loss}', flush=True
            )
            if run.outcome == 'fails':
                print(result.get('error', ''), file=sys.stderr, flush=True)
            if args.results:
                args.results.write_text(json.dumps(results, indent=1))
    runs = {name: [Run(**row) for _, row in sorted(rows.items())] for name, rows in results.items()}
    if args.output:
        command = f'python tools/trials/toolbox_configs.py {" ".join(runs)} --output {args.output}'
        args.output.write_text(table(runs, command), encoding='utf-8')
    bad = [run for rows in runs.values() for run in rows if run.outcome in ('fails', 'lacks an operator')]
    return int(bool(bad))


if __name__ == '__main__':
    sys.exit(main())
