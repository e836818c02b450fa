"""COCO's list of results: predictions that name images and classes by the numbers of the truth's file."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from mmssl.data.label_formats import ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.coco import box_corners, is_coco, whole_number
from mmssl.data.label_formats.files import LabelFolder, read_json
from mmssl.data.label_formats.shapes import as_rle, rle_box
from mmssl.errors import LabelError


def read_results(content: Sequence[dict], truth: LabelSet, path: str) -> LabelSet:
    """Return the predictions of a list of results.

    Args:
        content: The list.
        truth: The truth, read from COCO files.
        path: File of the list, for messages.

    Raises:
        LabelError: The truth is not COCO's, or an entry names an image or a class that is not in it.
    """
    names, categories = _numbers(truth, path)
    find = _ImagesByName(truth, names.values())
    numbers = Counter(names.values())
    images: dict[str, ImageLabels] = {}
    sources: dict[int, ImageLabels] = {}
    for each in content:
        number, category = whole_number(each['image_id']), whole_number(each.get('category_id'))
        if number is None or category is None or number not in names or category not in categories:
            key = 'category_id' if number in names else 'image_id'
            raise LabelError(f'{key} {each.get(key)!r:.60} is not in the truth {truth.root}', path)
        if number not in sources:
            if numbers[names[number]] > 1:
                raise LabelError(
                    f'has results of {names[number]}, a name of several images of {truth.root}; give the '
                    'COCO file that they are of as the truth',
                    path,
                )
            sources[number] = find(names[number], path)
        source = sources[number]
        image = images.setdefault(
            source.name, ImageLabels(source.name, '', source.width, source.height, source=path)
        )
        image.objects.append(_read_result(each, truth.classes.index(categories[category]), image))
    return LabelSet(path, 'results', truth.classes, list(images.values()))


class _ImagesByName:
    """The images of the truth by the names in its files, which may have other folders and endings.

    Args:
        truth: The truth, which may be a part of its files.
        names: All names in its files, of which several may be alike but for their folders.
    """

    def __init__(self, truth: LabelSet, names: Iterable[str]):
        self.truth = truth
        by_stem: dict[str, list[ImageLabels]] = defaultdict(list)
        for image in truth.images:
            by_stem[_parts(image.name)[0]].append(image)
        self.choices = {name: _closest(name, by_stem[_parts(name)[0]]) for name in names}
        # of the names that choose an image, it belongs to the one with the longest end in common
        self.lengths: dict[str, list[int]] = defaultdict(list)
        for name, images in self.choices.items():
            if len(images) == 1:
                self.lengths[images[0].name].append(_common(_parts(name), _parts(images[0].name)))

    def __call__(self, name: str, path: str) -> ImageLabels:
        """Return the image whose path has the longest end in common with a name.

        Raises:
            LabelError: There is none, or there are several.
        """
        images = self.choices[name]
        if len(images) > 1:
            raise LabelError(
                f'has results of {name}, which may be {images[0].name} or {images[1].name}', path
            )
        lengths = self.lengths[images[0].name] if images else []
        length = _common(_parts(name), _parts(images[0].name)) if images else 0
        if not images or length < max(lengths):
            raise LabelError(
                f'has results of {name}, which is none of the {len(self.truth)} images to score of '
                f'{self.truth.root}',
                path,
            )
        if lengths.count(length) > 1:
            raise LabelError(
                f'has results of {name}, which is not the only name of {images[0].name} in {self.truth.root}',
                path,
            )
        return images[0]


def _closest(name: str, images: Sequence[ImageLabels]) -> list[ImageLabels]:
    """Return the images with the longest end in common with a name; of equal ones, those in fewer folders."""
    parts = _parts(name)
    ranks = [(-_common(parts, own), len(own)) for own in (_parts(image.name) for image in images)]
    best = min(ranks, default=None)
    return [image for image, rank in zip(images, ranks, strict=True) if rank == best]


def _common(parts: Sequence[str], others: Sequence[str]) -> int:
    """Return how many parts are equal from the start."""
    pairs = enumerate(zip(parts, others, strict=False))
    return next((index for index, (first, second) in pairs if first != second), min(len(parts), len(others)))


def _parts(name: str) -> list[str]:
    """Return the parts of a path from the file name to the folders, in lower case and without the ending."""
    return list(PurePosixPath(os.path.splitext(name.replace('\\', '/').casefold())[0]).parts)[::-1]


def _read_result(each: dict, label: int, image: ImageLabels) -> ObjectLabel:
    segmentation = each.get('segmentation')
    rle = as_rle(segmentation, (image.height, image.width), image) if isinstance(segmentation, dict) else None
    polygons = segmentation if isinstance(segmentation, list) else []
    if not each.get('bbox') and rle is None:
        raise LabelError(f'a result of {image.name} has neither bbox nor segmentation', image.source)
    box = box_corners(each['bbox'], image) if each.get('bbox') else rle_box(rle or {})
    return ObjectLabel(label, box, polygons, rle, score=each.get('score'))


def _numbers(truth: LabelSet, path: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names of the images and classes by their numbers in the truth's COCO files."""
    if truth.format != 'coco':
        raise LabelError(
            f"is a list of results, whose numbers mean images of a COCO file, but {truth.root} is not COCO's",
            path,
        )
    names: dict[int, str] = {}
    categories: dict[int, str] = {}
    folder = LabelFolder(truth.root)
    for source in truth.sources:
        content = read_json(os.path.join(folder.root, source))
        if not is_coco(content):
            continue
        for image in content['images']:
            if names.setdefault(image['id'], image['file_name']) != image['file_name']:
                raise LabelError(
                    f'image id {image["id"]} is in several files of {truth.root}; give the file instead', path
                )
        categories.update({each['id']: str(each['name']).strip() for each in content['categories']})
    return names, categories
