"""mmcv's own tests of its operators, on the replacements that mmssl makes of PyTorch.

    python tools/trials/mmcv_ops.py ~/mmcv --output docs/trials/mmcv_ops.md

``~/mmcv`` is a checkout of mmcv, of which ``tests/test_ops`` and ``tests/data`` are read. Most of its tests
ask for a GPU, where the compiled operators are; here a copy of them runs on the CPU: 'cuda' in their text
becomes 'cpu', and the questions whether there is a GPU become true. ``MMSSL_NO_EXT=1`` hides compiled
operators.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
# what a test writes -> what it would write on the CPU
ON_CPU = (
    (r"autocast_cuda\('cuda',", "autocast_cuda('cpu', torch.half,"),
    (r"""(['"])cuda(:\d)?\1""", "'cpu'"),
    (r'\.cuda\(\)', ".to('cpu')"),
    (r'\btorch\.cuda\.(Half|Float|Double)Tensor', r'torch.\1Tensor'),
    (r'\btorch\.cuda\.is_available\(\)', 'True'),
    (r'\bnot IS_CUDA_AVAILABLE\b', 'False'),
)
REFUSED = 'needs the compiled operators of mmcv'
# loads the stand-in before the tests import mmcv
PLUGIN = 'import mmssl.registry\n'
OUTCOMES = ('passed', 'refused', 'failed', 'skipped')


class Result(NamedTuple):
    """Outcome of one test: file, name, one of ``OUTCOMES``, and the message of a failure."""

    file: str
    name: str
    outcome: str
    message: str


def on_cpu(text: str) -> str:
    """Return the text of a test as it runs on the CPU."""
    for pattern, replacement in ON_CPU:
        text = re.sub(pattern, replacement, text)
    return text


def copy_tests(checkout: Path, folder: Path) -> list[str]:
    """Copy the tests of a checkout of mmcv with their data; return the names of their files."""
    source = checkout / 'tests' / 'test_ops'
    files = sorted(source.glob('test_*.py'))
    if not files:
        raise SystemExit(f'{source} has no tests; give the path of a checkout of mmcv')
    target = folder / 'tests' / 'test_ops'
    target.mkdir(parents=True)
    for file in files:
        (target / file.name).write_text(on_cpu(file.read_text()))
    if (checkout / 'tests' / 'data').is_dir():
        shutil.copytree(checkout / 'tests' / 'data', folder / 'tests' / 'data')
    (folder / 'stand_in_plugin.py').write_text(PLUGIN)
    return [file.name for file in files]


def run(folder: Path, name: str, seconds: int) -> list[Result]:
    """Run the tests of a file in a process and return their outcomes."""
    report = folder / 'report.xml'
    report.unlink(missing_ok=True)
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [
        *(sys.executable, '-m', 'pytest', '-q', '-p', 'stand_in_plugin', '-p', 'no:cacheprovider'),
        *(f'--junit-xml={report}', f'tests/test_ops/{name}'),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, 'MMSSL_NO_EXT': '1', 'PYTHONPATH': path},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return [Result(name, '', 'failed', f'no end within {seconds} s')]
    if not report.exists():
        return [Result(name, '', 'failed', done.stdout[-300:] + done.stderr[-300:])]
    return [outcome_of(name, case) for case in ElementTree.parse(report).iter('testcase')]


def outcome_of(file: str, case: ElementTree.Element) -> Result:
    """Return the outcome of a test from pytest's report."""
    for kind in ('failure', 'error', 'skipped'):
        element = case.find(kind)
        if element is None:
            continue
        message = ' '.join((element.get('message') or '').split())
        outcome = 'skipped' if kind == 'skipped' else 'failed'
        if REFUSED in message + (element.text or ''):
            outcome = 'refused'
        return Result(file, case.get('name', ''), outcome, message)
    return Result(file, case.get('name', ''), 'passed', '')


def without_replacement() -> dict[str, list[str]]:
    """Return the compiled functions that mmssl does not replace, by module of mmcv.ops."""
    import mmcv

    from mmssl.hosts.mmcv_ext import PROVIDED

    missing = {}
    for file in sorted((Path(mmcv.__file__).parent / 'ops').glob('*.py')):
        found = re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", file.read_text(), re.DOTALL)
        names = [name for part in found for name in re.findall(r"'(\w+)'", part) if name not in PROVIDED]
        if names:
            missing[file.stem] = names
    return missing


def page_of(results: list[Result], command: str) -> str:
    """Return the page of the trial."""
    total = Counter(result.outcome for result in results)
    lines = [
        "# mmcv's tests of its operators",
        '',
        'A copy of `tests/test_ops` of a checkout of mmcv in which the tests for a GPU run on the CPU, on',
        'the replacements of mmssl: compiled operators are hidden. Written by',
        '',
        '```',
        command,
        '```',
        '',
        f'with mmcv {version("onedl-mmcv")}, PyTorch {version("torch")} and Python {sys.version.split()[0]}: '
        + ', '.join(f'{total[outcome]} {outcome}' for outcome in OUTCOMES)
        + '. "Refused" are operators without a replacement, with the command that installs them; skipped are',
        'other devices.',
        '',
        '| tests | ' + ' | '.join(OUTCOMES) + ' |',
        '|---|' + '---|' * len(OUTCOMES),
    ]
    for file in dict.fromkeys(result.file for result in results):
        counts = Counter(result.outcome for result in results if result.file == file)
        lines.append(f'| `{file}` | ' + ' | '.join(str(counts[outcome]) for outcome in OUTCOMES) + ' |')
    failed = [result for result in results if result.outcome == 'failed']
    if failed:
        lines += ['', '## Failures', '', '| test | message |', '|---|---|']
        for result in failed:
            message = result.message.replace('|', '/').replace('`', "'")[:200]
            lines.append(f'| `{result.file}`, `{result.name}` | {message} |')
    lines += [
        '',
        '## Operators without a replacement',
        '',
        'They raise an ImportError with their name and the command that installs them; mmdet, mmseg and',
        'mmpretrain import none of them.',
        '',
        '| module of `mmcv.ops` | functions |',
        '|---|---|',
    ]
    for module, names in without_replacement().items():
        lines.append(f'| `{module}` | {", ".join(f"`{name}`" for name in names)} |')
    return '\n'.join([*lines, ''])


def main() -> None:
    """Run the tests and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkout', type=Path, help='folder of a checkout of mmcv')
    parser.add_argument('--only', default='', help='run the files whose names contain this')
    parser.add_argument('--timeout', type=int, default=300, help='seconds for each file')
    parser.add_argument('--output', type=Path, help='page to write; printed otherwise')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        results = []
        sys.path.insert(0, str(ROOT))
        for name in copy_tests(args.checkout, folder):
            if args.only in name:
                results += run(folder, name, args.timeout)
                counts = Counter(result.outcome for result in results if result.file == name)
                print(name, dict(counts), flush=True)
    page = page_of(results, 'python tools/trials/mmcv_ops.py ~/mmcv --output docs/trials/mmcv_ops.md')
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page)
    else:
        print(page)


if __name__ == '__main__':
    main()
