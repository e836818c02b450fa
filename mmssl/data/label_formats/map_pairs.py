"""The label map that belongs to each image, by the names of files and folders."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from mmssl.data.label_formats.files import LabelFolder, split_name
from mmssl.errors import LabelError

_MASK_FOLDER = re.compile(
    r'^(?:.*[_\- ])?(?:masks?|labels?|annotations?|annots?|annot|gt|gtfine|gtcoarse|ground[_\- ]?truths?|'
    r'seg(?:mentation)?s?|segmentationclass(?:aug|raw|ext)?|segmentation_?maps?|label_?maps?|ann_dir|'
    r'targets?|semantics?)(?:[_\- ]?(?:png|raw|ids?|trainids?|class|index|indices|color|colou?red|rgb|train|'
    r'val|test))?$'
)
_IMAGE_FOLDER = re.compile(
    r'^(?:.*[_\- ])?(?:images?|imgs?|jpegimages|img_dir|rgb|photos?|pictures?|pics?|inputs?|leftimg8bit|raw)'
    r'(?:[_\- ]?(?:train|training|val|validation|test))?$'
)
_MASK_SUFFIX = re.compile(
    r'[_\-. ](?:gtfine_labeltrainids|gtfine_labelids|labeltrainids|labelids|masks?|labels?|gt|seg|'
    r'segmentation|annotation|l|p|m|target|groundtruth)$'
)
_IMAGE_SUFFIX = re.compile(r'[_\-. ](?:leftimg8bit|image|img|rgb|sat|original|orig)$')
# files of other kinds beside label maps
_OTHER = re.compile(r'(?:_instanceids|_color|_polygons|_overlay|_vis)$')
_OTHER_FOLDERS = ('segmentationobject', 'panoptic', 'instances', 'overlays', 'vis', 'visualization')


def find_pairs(folder: LabelFolder) -> dict[str, str]:
    """Return the label map of each image: image path -> path of the map.

    A label map is in a folder that says so (masks, labels, annotations, gt, SegmentationClass, ...), or has
    the image's name with an ending such as _mask. Folders such as train and val must agree if names repeat.
    If each file of a folder such as images has a partner at the same path of a folder such as masks beside
    it, their names mean nothing else.
    """
    pairs = _parallel_pairs(folder)
    if pairs:
        return pairs
    images: dict[tuple, list[str]] = defaultdict(list)
    masks: dict[tuple, list[str]] = defaultdict(list)
    for path in folder.images:
        parts = PurePosixPath(os.path.splitext(folder.below_images(path))[0]).parts
        if not is_other(parts):
            (masks if _is_map(parts) else images)[map_key(parts)].append(path)
    return _matched(folder, images, masks)


def _parallel_pairs(folder: LabelFolder) -> dict[str, str]:
    """Return the pairs of a folder of images and one of maps with the same names; {} for other layouts."""
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # root, folder -> name -> file
    for path in folder.images:
        name = folder.below_images(path)
        root = path.removesuffix(name).rstrip(os.sep)
        top, name = name.split('/', 1) if root == folder.root and '/' in name else ('', name)
        if groups[root, top].setdefault(os.path.splitext(name)[0], path) != path:
            return {}
    maps = [key for key in groups if _MASK_FOLDER.match(key[1].casefold())]
    images = [key for key in groups if key not in maps]
    if len(maps) != 1 or len(images) != 1:
        return {}
    (root, top), of_maps, of_images = images[0], groups[maps[0]], groups[images[0]]
    is_images = _IMAGE_FOLDER.match(top.casefold()) if root == folder.root else True
    if not is_images or not of_images.keys() <= of_maps.keys():
        return {}
    return {path: of_maps[name] for name, path in of_images.items()}


def _matched(
    folder: LabelFolder, images: Mapping[tuple, list[str]], masks: Mapping[tuple, list[str]]
) -> dict[str, str]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for key, files in masks.items():
        by_stem[key[-1]] += files
    stems: dict[str, int] = defaultdict(int)
    for key in images:
        stems[key[-1]] += 1
    pairs = {}
    for key, files in images.items():
        candidates = masks.get(key) or (by_stem[key[-1]] if stems[key[-1]] == 1 else [])
        candidates = _preferred(candidates)
        if not candidates:
            continue
        if len(candidates) > 1:
            first, second = (folder.below(path) for path in candidates[:2])
            raise LabelError(
                f'the label map of {folder.below(files[0])} may be {first} or {second}; remove or rename one',
                folder.root,
            )
        for path in files:
            pairs[path] = candidates[0]
    return pairs


def _preferred(candidates: list[str]) -> list[str]:
    """Reduce Cityscapes' several maps to that of the classes that are trained on."""
    if len(candidates) > 1:
        for ending in ('labeltrainids', 'labelids'):
            matches = [path for path in candidates if ending in os.path.basename(path).lower()]
            if matches:
                return matches
    return candidates


def is_other(parts: Sequence[str]) -> bool:
    """Whether a file is of another kind beside label maps: of instances, an overlay."""
    folders = [part.casefold() for part in parts[:-1]]
    return bool(_OTHER.search(parts[-1].casefold())) or any(part in _OTHER_FOLDERS for part in folders)


def _is_map(parts: Sequence[str]) -> bool:
    """Whether a file is a label map by its folders or by the ending of its name."""
    folders = [part.casefold() for part in parts[:-1]]
    return any(map(_MASK_FOLDER.match, folders)) or bool(_MASK_SUFFIX.search(parts[-1].casefold()))


def map_key(parts: Sequence[str]) -> tuple[str, ...]:
    """Return what the paths of an image and its label map have in common.

    Args:
        parts: Parts of a path without the suffix of the file.

    Returns:
        The parts in lower case, without folders such as images and masks unless they name a split, and the
        name without an ending such as _mask.
    """
    rest = []
    for part in (each.casefold() for each in parts[:-1]):
        of_a_kind = _MASK_FOLDER.match(part) or _IMAGE_FOLDER.match(part)
        rest.append(split_name(part) or ('' if of_a_kind else part))
    rest = [part for part in rest if part]
    stem = parts[-1].casefold()
    return (*rest, (_MASK_SUFFIX if _is_map(parts) else _IMAGE_SUFFIX).sub('', stem))
