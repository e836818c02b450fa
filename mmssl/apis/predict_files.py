"""Files of a prediction that may stop at any time: one for each image, which a later run takes over."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.data.annotations import images_below, unique, write_json
from mmssl.data.label_formats.files import read_names
from mmssl.data.label_formats.records import ImageLabels, common_root
from mmssl.data.suffixes import IMAGE_SUFFIXES, is_image
from mmssl.errors import LabelError
from mmssl.hints import nearest_path

# folder of the files inside the output folder
PROGRESS_FOLDER = '.predict'
LIST_SUFFIXES = ('.txt', '.lst')


class Job(NamedTuple):
    """An image to predict.

    Attributes:
        image: Path of the image.
        name: Path below the folder of the images.
        file: Path of the file of its predictions.
    """

    image: Path
    name: str
    file: Path


def plan(inputs: str | os.PathLike | Iterable[str | os.PathLike], out: Path) -> tuple[str, list[Job]]:
    """List the images to predict.

    Args:
        inputs: A folder, searched with its subfolders; an image; a list file (.txt) with a path per line,
            absolute or relative to the list; or several of these.
        out: Output folder.

    Returns:
        The folder that the names are below, and the images, sorted by name.

    Raises:
        FileNotFoundError: There is no such file.
        LabelError: There is no image, or two that differ only in their endings.
    """
    items = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    paths = unique(path for item in items for path in _images_of(Path(os.path.expanduser(item))))
    if not paths:
        endings = ', '.join(IMAGE_SUFFIXES)
        raise LabelError(f'holds no image ({endings})', str(items[0]) if items else 'the list of images')
    root = common_root([os.path.abspath(path) for path in paths])
    if len(items) == 1 and os.path.isdir(items[0]):
        root = os.path.abspath(items[0])
    jobs = []
    stems: dict[str, str] = {}
    for path in paths:
        name = Path(os.path.abspath(path)).relative_to(root).as_posix()
        stem = os.path.splitext(name)[0].casefold()
        if stems.setdefault(stem, name) != name:
            raise LabelError(f'{stems[stem]} and {name} would have the same file of labels; rename one', root)
        jobs.append(Job(path, name, out / PROGRESS_FOLDER / f'{name}.json'))
    return root, sorted(jobs, key=lambda job: job.name)


def _images_of(path: Path) -> Sequence[Path]:
    if path.is_dir():
        return images_below(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
    if path.suffix.lower() not in LIST_SUFFIXES:
        return [path]
    files = [path.parent / name for name in read_names(str(path))]
    for file in files:
        if not file.is_file():
            raise LabelError(f'{file} is listed and does not exist{nearest_path(file)}', str(path))
        if not is_image(file):
            raise LabelError(f'{file} is listed and is no image', str(path))
    return files


def write_image_labels(image: ImageLabels, job: Job) -> None:
    """Write the predictions of an image, completely or not at all."""
    write_json(job.file, dict(labels=image.to_dict(), image=_identity(job.image)))


def read_image_labels(job: Job) -> ImageLabels | None:
    """Return the predictions of an image; None if there are none yet, or if the image has changed since."""
    try:
        content = json.loads(job.file.read_bytes())
        if content['image'] != _identity(job.image):
            return None
        image = ImageLabels.from_dict(content['labels'])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if image.mask_file:  # the output folder may have moved
        image.mask_file = os.path.abspath(job.file.with_suffix('.png'))
    image.path = os.path.abspath(job.image)
    return image if not image.mask_file or os.path.isfile(image.mask_file) else None


def _identity(path: Path) -> dict[str, Any]:
    status = path.stat()
    return dict(bytes=status.st_size, modified=status.st_mtime_ns)
