"""`mmssl test` as a file, for those who type `python tools/test.py CONFIG ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl.cli import main

if __name__ == '__main__':
    sys.exit(main(command='test'))
