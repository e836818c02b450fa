"""The images that an inferencer is called with: files, folders, arrays, Pillow images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CHANNEL_ORDERS = ('BGR', 'RGB')


class Source(NamedTuple):
    """An image: its index in the inputs, its file or pixels (H, W, 3) BGR, and the name of its results."""

    input_index: int
    path: Path | None
    pixels: np.ndarray | None
    name: str


def find_sources(inputs: Any, image_format: str = 'BGR') -> list[Source]:
    """List the images of a file, folder, array, Pillow image, or a list of these, without reading any file.

    Args:
        inputs: The images. Folders are searched with their subfolders; hidden files are skipped.
        image_format: Order of the channels of arrays: 'BGR', as of ``cv2.imread`` and the toolboxes'
            inferencers, or 'RGB'. Pillow images know theirs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are no images, or an array has another shape.
        TypeError: An input is not an image, or an array has another type.
    """
    if image_format not in CHANNEL_ORDERS:
        raise ValueError(
            f"image_format={image_format!r}; give 'BGR' or 'RGB', the order of the channels of arrays"
        )
    images: list[Path | np.ndarray] = []
    for item in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        images += _images_of(item, image_format)
    if not images:
        raise ValueError('an empty list: there is no image in it')
    return [
        Source(index, image, None, name) if isinstance(image, Path) else Source(index, None, image, name)
        for index, (image, name) in enumerate(zip(images, _result_names(images), strict=True))
    ]


def _images_of(item: Any, image_format: str) -> Sequence[Path | np.ndarray]:
    from PIL import Image

    from mmssl.promptable.predictor import check_image

    if isinstance(item, (str, os.PathLike)):
        return _files_of(Path(os.path.expanduser(item)))
    if isinstance(item, Image.Image):
        return [np.ascontiguousarray(np.asarray(item.convert('RGB'))[..., ::-1])]
    if isinstance(item, np.ndarray):
        if item.ndim == 4:
            raise ValueError(f'an array of shape {item.shape} holds several images; give list(array)')
        check_image(item)
        return [np.ascontiguousarray(item if image_format == 'BGR' else item[..., ::-1])]
    raise TypeError(
        f'an image of type {type(item).__name__}; give a path, a folder, an array (H, W, 3) of uint8, a '
        'Pillow image, '
        'or a list of these'
    )


def _files_of(path: Path) -> list[Path]:
    from mmssl.data.annotations import images_below
    from mmssl.hints import nearest_path

    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
    if not path.is_dir():
        return [path]
    files = images_below(path)
    if not files:
        raise ValueError(f'{path} holds no image' + ('' if any(path.iterdir()) else ': it is empty'))
    return files


def _result_names(images: Sequence[Path | np.ndarray]) -> list[str]:
    """Name the results of each image.

    A name is the stem of the file (its path below the common folder where stems repeat) or the index of an
    array.
    """
    from mmssl.data.annotations import output_names, unique

    paths = unique(image for image in images if isinstance(image, Path))
    name_of_path: dict[Path, str] = {}
    if paths:
        name_of_path = dict(zip((path.resolve() for path in paths), output_names(paths)[1], strict=True))
    names: list[str] = []
    taken: set[str] = set()
    for index, image in enumerate(images):
        name = name_of_path[image.resolve()] if isinstance(image, Path) else f'{index:06d}'
        while name.casefold() in taken:  # the same file twice, or a file named like an index
            name += '_'
        taken.add(name.casefold())
        names.append(name)
    return names
