"""Files of a prediction that may stop at any time: one for each image, which a later run takes over."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.apis.feature_images import LIST_SUFFIXES, image_paths
from mmssl.apis.predict_video import extract_frames, is_video
from mmssl.data.annotations import images_below, write_json
from mmssl.data.archives import split_archive
from mmssl.data.label_formats.files import read_names
from mmssl.data.label_formats.records import ImageLabels
from mmssl.data.suffixes import IMAGE_SUFFIXES, is_image
from mmssl.data.url_paths import absolute_path, common_folder, is_url, join_path
from mmssl.errors import LabelError, UserError
from mmssl.hints import nearest_path

# folder of the files inside the output folder
PROGRESS_FOLDER = '.predict'
ROOT_FILE = 'images.json'
# folder of the frames of videos inside the output folder
FRAMES_FOLDER = 'images'


class Job(NamedTuple):
    """An image to predict.

    Attributes:
        image: Path of the image, which may lead through an archive or be a URL.
        name: Path below the folder of the images.
        file: Path of the file of its predictions.
    """

    image: str
    name: str
    file: Path

    @property
    def map_file(self) -> Path:
        """Path of its label map."""
        return self.file.with_suffix('.png')

    @property
    def confidence_file(self) -> Path:
        """Path of the map of the probabilities of its predicted classes."""
        return self.file.with_suffix('.confidence.png')


def plan(
    inputs: str | os.PathLike | Iterable[str | os.PathLike], out: Path, every: int = 1
) -> tuple[str, list[Job]]:
    """List the images to predict.

    Args:
        inputs: A folder, searched with its subfolders; an image; a list file (.txt) with a path per line,
            absolute or relative to the list; an archive, shards, a table, a pattern or a URL of images; a
            video, whose frames are extracted to ``out/images``; or several of these.
        out: Output folder.
        every: Extract a frame of so many.

    Returns:
        The folder that the names are below, and the images, sorted by name.

    Raises:
        FileNotFoundError: There is no such file.
        LabelError: There is no image, or two that differ only in their endings.
        UserError: There are images and videos.
    """
    items = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    names = [os.path.expanduser(os.fspath(item)) for item in items]
    paths = list(dict.fromkeys(absolute_path(path) for name in names for path in _paths_of(name)))
    if not paths:
        endings = ', '.join(IMAGE_SUFFIXES)
        raise LabelError(f'holds no image ({endings})', names[0] if names else 'the list of images')
    videos = [path for path in paths if is_video(path)]
    if videos and len(videos) < len(paths):
        raise UserError(
            f'{videos[0]} is a video and {next(path for path in paths if not is_video(path))} an image; '
            'predict them in two runs, each with an --out of its own'
        )
    root = common_folder(paths)
    if videos:
        frames = [extract_frames(path, root, out, FRAMES_FOLDER, every) for path in videos]
        root = os.path.abspath(out / FRAMES_FOLDER)
        paths = [path for of_video in frames for path in of_video]
    elif len(names) == 1 and os.path.isdir(names[0]):
        root = os.path.abspath(names[0])
    return root, _jobs(paths, root, out)


def _jobs(paths: list[str], root: str, out: Path) -> list[Job]:
    jobs = []
    stems: dict[str, str] = {}
    for path in paths:
        name = path[len(root) :].lstrip('/') if is_url(root) else Path(path).relative_to(root).as_posix()
        stem = os.path.splitext(name)[0].casefold()
        if stems.setdefault(stem, name) != name:
            raise LabelError(f'{stems[stem]} and {name} would have the same file of labels; rename one', root)
        jobs.append(Job(path, name, out / PROGRESS_FOLDER / f'{name}.json'))
    return sorted(jobs, key=lambda job: job.name)


def _paths_of(item: str) -> list[str]:
    if os.path.isdir(item):
        images = [str(path) for path in images_below(item)]
        return images or _videos_below(item) or image_paths(item)
    if os.path.isfile(item) and (is_video(item) or is_image(item)):
        return [item]
    if os.path.isfile(item) and item.lower().endswith(LIST_SUFFIXES):
        return _listed(item)
    return image_paths(item)


def _videos_below(folder: str) -> list[str]:
    files = sorted(str(path) for path in Path(folder).rglob('*') if is_video(str(path)))
    return [file for file in files if os.path.isfile(file)]


def _listed(path: str) -> list[str]:
    files = [join_path(os.path.dirname(path), name) for name in read_names(path)]
    for file in files:
        if not (is_url(file) or os.path.isfile(file) or split_archive(file)):
            raise LabelError(f'{file} is listed and does not exist{nearest_path(file)}', path)
        if not (is_image(file) or is_video(file)):
            raise LabelError(f'{file} is listed and is no image', path)
    return files


def write_image_labels(image: ImageLabels, job: Job) -> None:
    """Write the predictions of an image, completely or not at all."""
    write_json(job.file, dict(labels=image.to_dict(), image=_identity(job.image)))


def write_failure(reason: str, job: Job) -> None:
    """Write why an image cannot be predicted; a later run tries it again."""
    write_json(job.file, dict(failure=reason))


def read_failure(job: Job) -> str | None:
    """Return why an image could not be predicted; None if it was, or has not been tried."""
    try:
        return json.loads(job.file.read_bytes())['failure']
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_image_labels(job: Job, with_confidence: bool = False) -> ImageLabels | None:
    """Return the predictions of an image; None if there are none yet, or if the image has changed since.

    Args:
        job: The image.
        with_confidence: Return None also for a label map without the probabilities of its classes.
    """
    try:
        content = json.loads(job.file.read_bytes())
        if content['image'] != _identity(job.image):
            return None
        image = ImageLabels.from_dict(content['labels'])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    image.path = job.image if os.path.isfile(job.image) else ''
    if not image.mask_file:
        return image
    image.mask_file = os.path.abspath(job.map_file)  # the output folder may have moved
    needed = [job.map_file, *([job.confidence_file] if with_confidence else [])]
    return image if all(map(os.path.isfile, needed)) else None


def save_image_root(out: Path, root: str) -> None:
    """Write which folder the predicted images are below."""
    write_json(out / PROGRESS_FOLDER / ROOT_FILE, dict(image_root=root))


def read_image_root(out: Path) -> str | None:
    """Return the folder that the images of predictions are below; None for labels of another origin."""
    try:
        return json.loads((out / PROGRESS_FOLDER / ROOT_FILE).read_bytes())['image_root']
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _identity(path: str) -> dict[str, Any]:
    """Return what changes when an image does: size and time of its file, or of the archive that holds it."""
    if is_url(path):
        from mmssl.data.remote import version_of

        return dict(version=version_of(path))
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        archive = split_archive(path)
        if archive is None:
            raise FileNotFoundError(f'{path} does not exist') from None
        status = os.stat(archive[0])
    return dict(bytes=status.st_size, modified=status.st_mtime_ns)
