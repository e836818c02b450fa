"""Masks in files: a COCO file for a folder, or an SA-1B file for each image, of which a run may resume."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from mmssl.checkpoint import write_text
from mmssl.checkpoint.regular_files import read_regular
from mmssl.data.find_images import log_unread
from mmssl.data.suffixes import IMAGE_SUFFIXES, is_image

# the id of a mask is that of its image times this, plus its rank in the image
IDS = 10_000
BROKEN_SUFFIX = '.broken'


class Job(NamedTuple):
    """An image to annotate.

    Attributes:
        image: Path of the image.
        name: Path below the root.
        file: Path of the file of its masks.
    """

    image: Path
    name: str
    file: Path


def coco_masks():
    """Return pycocotools' module of run lengths; an ImportError says how to install it."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError('masks in files need the package pycocotools: pip install pycocotools') from None
    return mask


def encode(mask: np.ndarray) -> dict:
    """Encode (H, W) bool: ``segmentation`` (compressed), ``bbox`` (left, top, width, height) and ``area``."""
    coco = coco_masks()
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        segmentation=dict(size=list(code['size']), counts=code['counts'].decode()),
        bbox=coco.toBbox(code).tolist(),
        area=int(coco.area(code)),
    )


def images_below(folder: str | Path) -> list[Path]:
    """Image files of a folder and its subfolders in the order of their paths, without hidden ones.

    How many files are not read because of their endings, or because they are FIFOs or devices, is logged.
    """
    folder = Path(folder)
    images: list[Path] = []
    special: list[Path] = []
    unread: Counter[str] = Counter()
    for path in sorted(folder.rglob('*')):
        if path.is_dir() or any(part.startswith('.') for part in path.relative_to(folder).parts):
            continue
        if not is_image(path):
            unread[path.suffix.lower()] += 1
        else:
            (images if path.is_file() else special).append(path)
    log_unread(str(folder), unread)
    if special:
        names = ', '.join(map(str, special[:3]))
        print_log(
            f'{folder}: {len(special)} files are skipped, since they are no regular files: {names}',
            logger='current',
            level=logging.WARNING,
        )
    return images


def unique(paths: Iterable[str | Path]) -> list[Path]:
    """Remove paths of files that are listed already."""
    files: dict[Path, Path] = {}
    for path in map(Path, paths):
        files.setdefault(path.resolve(), path)
    return list(files.values())


def output_names(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that contains all images, and a unique name for the results of each.

    A name is the stem of the image; if two are the same, all names are paths below the folder; if these are
    the same too, with their suffixes.
    """
    whole = [path.resolve() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in whole]))
    below = [path.relative_to(root) for path in whole]
    for names in (
        [path.stem for path in below],
        [path.with_suffix('').as_posix() for path in below],
        [path.as_posix() for path in below],
    ):
        if len({name.casefold() for name in names}) == len(names):
            break
    return root, names


def coco_content(images: Sequence[dict], annotations: Sequence[dict]) -> dict:
    """Content of a COCO file with the single class 'object'.

    Args:
        images: Records with 'id', 'file_name', 'width', 'height'.
        annotations: Records with 'image_id', 'segmentation', 'bbox', 'area', to which 'id', 'category_id' and
            'iscrowd' are added.
    """
    listed = [
        {'id': index, 'category_id': 1, 'iscrowd': 0, **annotation}
        for index, annotation in enumerate(annotations, 1)
    ]
    return dict(
        info=dict(description='masks of mmssl segment'),
        images=list(images),
        annotations=listed,
        categories=[dict(id=1, name='object', supercategory='object')],
    )


def image_id(name: str) -> int:
    """An id for an image by its path below the root, the same in every run; below 10^11, exact in JSON."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'big') % 10**11


def sa1b_content(name: str, size: tuple[int, int], records: Sequence[Mapping]) -> dict:
    """Content of a file of SA-1B.

    Args:
        name: Path of the image below the root.
        size: (H, W).
        records: Records of ``SamAutomaticMaskGenerator`` with ``output_mode='coco_rle'``, or of
            :class:`mmssl.apis.segmenters.PromptedSegmenter`.

    Returns:
        'image' with 'image_id', 'width', 'height', 'file_name', and 'annotations' with 'id', whose last four
        digits count from 1 in an image, 'bbox', 'area', 'segmentation', 'predicted_iou' and those of
        'stability_score', 'point_coords', 'crop_box', 'point_labels', 'box', 'category' and 'category_score'
        that the records have.
    """
    identity = image_id(name)
    keys: tuple[str, ...]
    keys = ('bbox', 'area', 'segmentation', 'predicted_iou', 'stability_score', 'point_coords', 'crop_box')
    keys += ('point_labels', 'box', 'category', 'category_score')
    return dict(
        image=dict(image_id=identity, width=size[1], height=size[0], file_name=Path(name).name),
        annotations=[
            dict(id=identity * IDS + rank, **{key: record[key] for key in keys if key in record})
            for rank, record in enumerate(records, 1)
        ],
    )


def write_json(path: str | Path, content: dict) -> None:
    """Write a file completely or not at all; its folder is created."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, separators=(',', ':')) + '\n')


def plan(root: str | Path, out: str | Path, part: tuple[int, int] = (1, 1)) -> list[Job]:
    """List the images to annotate.

    Args:
        root: Folder of images.
        out: Folder for the files, with the same subfolders; may be ``root`` itself.
        part: (k, n) for the k-th of n parts, which share no image; the part of an image depends only on its
            name.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no image, or two images that differ only in their suffixes.
    """
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise FileNotFoundError(f'{root} is no folder' if root.exists() else f'folder {root} does not exist')
    jobs = []
    files: dict[str, Job] = {}
    for image in images_below(root):
        below = image.relative_to(root)
        job = Job(image, below.as_posix(), out / below.with_suffix('.json'))
        previous = files.setdefault(job.file.as_posix().casefold(), job)
        if previous is not job:
            raise ValueError(f'{previous.image} and {image} would both go to {job.file}; rename one of them')
        jobs.append(job)
    if not jobs:
        raise ValueError(f'{root} holds no image ({", ".join(IMAGE_SUFFIXES)})')
    return [job for job in jobs if image_id(job.name) % part[1] == part[0] - 1]


def is_done(file: Path) -> bool:
    """Whether a file of masks exists. A truncated one is renamed, so that no edits are lost.

    Raises:
        ValueError: The JSON file contains something else.
    """
    try:
        content = json.loads(read_regular(str(file)))
    except FileNotFoundError:
        return False
    except ValueError:
        os.replace(file, file.with_name(file.name + BROKEN_SUFFIX))
        return False
    image = content.get('image') if isinstance(content, dict) else None
    if (
        not isinstance(image, dict)
        or not {'width', 'height'} <= image.keys()
        or not isinstance(content.get('annotations'), list)
    ):
        raise ValueError(f"{file} is there and is not of SA-1B's layout; move it, or name another --out")
    return True
