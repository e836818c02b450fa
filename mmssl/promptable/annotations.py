"""Masks in files: run lengths, COCO's list of a whole folder, SA-1B's file an image, and what of an interrupted run is done."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmssl.checkpoint import write_text
from mmssl.data.suffixes import IMAGE_SUFFIXES

# an id of a mask is that of its image times this, plus its number in the image
IDS = 10_000
BROKEN_SUFFIX = '.broken'


class Job(NamedTuple):
    """An image, its path below the root, and the file of its masks."""

    image: Path
    name: str
    file: Path


def coco_masks():
    """pycocotools' functions of run lengths; ImportError with the cure where it is missing."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError('masks in files need the package pycocotools: pip install pycocotools') from None
    return mask


def encode(mask: np.ndarray) -> dict:
    """(H, W) bool as ``segmentation`` (compressed run lengths), ``bbox`` (left, top, width, height) and ``area`` in pixels."""
    coco = coco_masks()
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        segmentation=dict(size=list(code['size']), counts=code['counts'].decode()),
        bbox=coco.toBbox(code).tolist(),
        area=int(coco.area(code)),
    )


def images_below(folder: str | Path) -> list[Path]:
    """Image files of a folder and its folders, by name, in the order of their paths; hidden ones are left out."""
    folder = Path(folder)
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def unique(paths: Iterable[str | Path]) -> list[Path]:
    """The files, each once, in the order in which they first come."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def output_names(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that holds all images, and a name of its own for the results of each.

    A name is the image's stem; where two have the same, all names are paths below the folder; where these are
    the same too, with their endings.
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
    """A COCO file of one class, 'object'.

    Args:
        images: with 'id', 'file_name', 'width', 'height'.
        annotations: with 'image_id', 'segmentation', 'bbox', 'area'; they get 'id', 'category_id' and
            'iscrowd'.
    """
    listed = [
        {'id': number, 'category_id': 1, 'iscrowd': 0, **annotation}
        for number, annotation in enumerate(annotations, 1)
    ]
    return dict(
        info=dict(description='masks of mmssl segment'),
        images=list(images),
        annotations=listed,
        categories=[dict(id=1, name='object', supercategory='object')],
    )


def image_number(name: str) -> int:
    """A number for an image by its path below the root: the same in every run, below 10^11, so that ids stay whole in JSON."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'big') % 10**11


def sa1b_content(name: str, size: tuple[int, int], records: Sequence[Mapping]) -> dict:
    """SA-1B's content of a file.

    Args:
        name: of the image below the root.
        size: (H, W).
        records: of ``SamAutomaticMaskGenerator`` with ``output_mode='coco_rle'``.

    Returns:
        'image' with 'image_id', 'width', 'height', 'file_name', and 'annotations' with 'id', whose last four
        digits count from 1 in an image, 'bbox', 'area', 'segmentation', 'predicted_iou', 'stability_score',
        'point_coords', 'crop_box'.
    """
    number = image_number(name)
    keys = ('bbox', 'area', 'segmentation', 'predicted_iou', 'stability_score', 'point_coords', 'crop_box')
    return dict(
        image=dict(image_id=number, width=size[1], height=size[0], file_name=Path(name).name),
        annotations=[
            dict(id=number * IDS + place, **{key: record[key] for key in keys})
            for place, record in enumerate(records, 1)
        ],
    )


def write_json(path: str | Path, content: dict) -> None:
    """Write a file whole or not at all; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, separators=(',', ':')) + '\n')


def plan(root: str | Path, out: str | Path, part: tuple[int, int] = (1, 1)) -> list[Job]:
    """What there is to annotate.

    Args:
        root: folder of images.
        out: folder of the files, with the same folders inside; may be ``root`` itself.
        part: (k, n): the k-th of n parts, which have no image in common; an image's name decides, whatever
            else is there.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it; two images that differ in their endings alone.
    """
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise FileNotFoundError(f'{root} is no folder' if root.exists() else f'folder {root} does not exist')
    jobs = []
    files: dict[str, Job] = {}
    for image in images_below(root):
        below = image.relative_to(root)
        job = Job(image, below.as_posix(), out / below.with_suffix('.json'))
        other = files.setdefault(job.file.as_posix().casefold(), job)
        if other is not job:
            raise ValueError(f'{other.image} and {image} would both go to {job.file}; rename one of them')
        jobs.append(job)
    if not jobs:
        raise ValueError(f'{root} holds no image ({", ".join(IMAGE_SUFFIXES)})')
    return [job for job in jobs if image_number(job.name) % part[1] == part[0] - 1]


def is_done(file: Path) -> bool:
    """Whether a file of masks is there. One that is cut off is moved aside, so that nobody's edits are lost.

    Raises:
        ValueError: a JSON file of something else.
    """
    try:
        content = json.loads(file.read_bytes())
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
