"""Run the notebooks of docs/notebooks, each in an empty folder, and print how long each took.

pip install -e '.[notebooks]'
python tools/trials/notebooks.py [NAME...]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / 'docs/notebooks'


def run(path: Path, folder: str) -> None:
    """Execute a notebook in a folder, with the commands of this environment.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    import nbclient
    import nbformat

    os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=1800, resources=dict(metadata=dict(path=folder))).execute()


def main() -> None:
    """Run the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='notebooks without .ipynb (default: all)')
    args = parser.parse_args()
    for name in args.names or sorted(path.stem for path in FOLDER.glob('*.ipynb')):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            run(FOLDER / f'{name}.ipynb', folder)
        print(f'{name}: {time.monotonic() - start:.0f} s', flush=True)


if __name__ == '__main__':
    main()
