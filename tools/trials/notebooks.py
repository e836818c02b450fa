"""Run the notebooks of docs/notebooks, each in an empty folder, and print how long each took.

    python tools/trials/notebooks.py [NAME...]

With nbclient and ipykernel they run as Jupyter runs them; without, their cells are executed in order, and
lines that begin with ``!`` as shell commands.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / 'docs/notebooks'


def parse_cell(source: str) -> list[str]:
    """Split a code cell into Python code and lines for the shell, in order; the latter begin with '!'."""
    parts: list[str] = []
    for line in source.splitlines():
        if line.startswith('!') or not parts or parts[-1].startswith('!'):
            parts.append(line)
        else:
            parts[-1] += f'\n{line}'
    return parts


def run_cells(path: Path, folder: Path) -> None:
    """Execute the cells of a notebook in a folder.

    Raises:
        subprocess.CalledProcessError: A command failed.
        Exception: Whatever a cell raises.
    """
    names: dict = {}
    # the commands of this environment
    env = {**os.environ, 'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])}
    os.chdir(folder)
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code':
            continue
        for part in parse_cell(''.join(cell['source'])):
            if part.startswith('!'):
                command = re.sub(r'\{(\w+)\}', lambda match: str(names[match[1]]), part[1:])
                subprocess.run(command, shell=True, check=True, env=env)
            else:
                exec(compile(ast.parse(part), f'{path.name}', 'exec'), names)


def run_in_jupyter(path: Path, folder: Path) -> bool:
    """Execute a notebook with nbclient; return False if it is not installed.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    try:
        import ipykernel  # noqa: F401
        import nbclient
        import nbformat
    except ImportError:
        return False
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=1800, resources=dict(metadata=dict(path=str(folder)))).execute()
    return True


def main() -> int:
    """Run the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='notebooks without .ipynb (default: all)')
    args = parser.parse_args()
    names = args.names or sorted(path.stem for path in FOLDER.glob('*.ipynb'))
    for name in names:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            way = 'nbclient' if run_in_jupyter(FOLDER / f'{name}.ipynb', Path(folder)) else 'exec'
            if way == 'exec':
                run_cells(FOLDER / f'{name}.ipynb', Path(folder))
            os.chdir(FOLDER)
        print(f'{name}: {time.monotonic() - start:.0f} s ({way})', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
