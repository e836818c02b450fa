"""Writing images and figures to disk."""

import os
from pathlib import Path

from PIL import Image


def write_image(image: Image.Image, path: str | os.PathLike) -> None:
    """Write a PNG file atomically: after an interruption the file is either complete or absent.

    Args:
        image: The image to write.
        path: Path of the file; missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        image.save(partial, format='PNG')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_figure(figure, path: str | os.PathLike) -> None:
    """Write a matplotlib figure atomically, in the format of its suffix.

    Args:
        figure: The figure.
        path: Path of the file; missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        figure.savefig(partial, format=path.suffix[1:])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
