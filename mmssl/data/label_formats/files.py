"""Files of a folder of labels: listed once, read as text; images by the names that label files give them."""

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from PIL import Image

from mmssl.data.suffixes import IMAGE_SUFFIXES, is_image
from mmssl.errors import BadImageError, LabelError
from mmssl.hints import nearest_path

_SPLITS = {'train': 'train', 'val': 'val', 'test': 'test'}
_SPLIT_NAME = re.compile(
    r'(?<![a-z])(?:(train(?:ing|val)?|tr)|(val(?:id(?:ation)?)?|minival|dev|eval)|(test(?:ing|dev)?))(?![a-z])'
)
_ORIENTATION_TAG = 0x0112
_SKIPPED_FOLDERS = ('__macosx', 'node_modules')


class LabelFolder:
    """The files below a folder, without hidden ones.

    Args:
        path: A folder, or a single file of labels; its images are in its folder, or in the one above.
        images: More folders to look for the images in.

    Attributes:
        root: The folder.
        labels: Paths of the files that may hold labels, sorted: only the file if ``path`` is a file.
        images: Paths of all image files, sorted.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """

    def __init__(self, path: str | os.PathLike, images: Iterable[str | os.PathLike] = ()):
        self.path = os.path.abspath(path)
        if not os.path.exists(self.path):
            raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
        is_file = os.path.isfile(self.path)
        self.root = os.path.dirname(self.path) if is_file else self.path
        files = list(_walk(self.root))
        self.labels = [self.path] if is_file else [file for file in files if not is_image(file)]
        self.images = [file for file in files if is_image(file)]
        self._image_roots = [self.root, *map(os.path.abspath, images)]
        if is_file and not self.images:  # annotations/a.json beside images/
            self._image_roots.insert(1, os.path.dirname(self.root))
        for image_root in self._image_roots[1:]:
            self.images += [file for file in _walk(image_root) if is_image(file)]
        self.images = sorted(set(self.images))
        self._json: dict[str, Any] = {}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in self.images:
            name = os.path.basename(file).casefold()
            self._by_name[name].append(file)
            self._by_stem[os.path.splitext(name)[0]].append(file)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the label files with one of the suffixes, in upper or lower case."""
        return [file for file in self.labels if file.lower().endswith(suffixes)]

    def named(self, *names: str) -> str | None:
        """Return the file of one of the names that is nearest to the root; None if there is none."""
        matches = [file for file in self.labels if os.path.basename(file).lower() in names]
        return min(matches, key=lambda file: (file.count(os.sep), file), default=None)

    def json(self, path: str) -> Any:
        """Return the content of a JSON file, which is read once."""
        if path not in self._json:
            self._json[path] = read_json(path)
        return self._json[path]

    def below(self, path: str) -> str:
        """Return a path relative to the root, with '/', as messages give it."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def find_image(self, name: str, near: str = '', split: str | None = None) -> str | None:
        """Find an image by the name that a label file gives it.

        The name may be a path of another machine, may have separators of Windows, another case or another
        suffix. The path itself goes first, relative to the label file, to the root or to a folder of images;
        then the image whose path ends with the longest part of the name, and of several that in the folder
        which holds those of all others.

        Args:
            name: The name in the label file.
            near: Folder of the label file.
            split: The split, which decides between images of the same name.

        Returns:
            The path; None if there is no such image.

        Raises:
            LabelError: Several images fit equally well.
        """
        name = name.replace('\\', '/')
        path = self._at(name, near)
        if path:
            return path
        names = dict.fromkeys([name, name.strip(), unquote(name)])
        name = next(filter(self._named_alike, names), name)
        candidates = self._named_alike(name)
        if len(candidates) > 1:
            candidates = _longest_match(name, candidates)
        if len(candidates) > 1 and split:
            candidates = [file for file in candidates if self.split_of(file) == split] or candidates
        if len(candidates) > 1 and near:
            candidates = _nearest(near, candidates)
        if len(candidates) > 1:
            first, second = (self.below(file) for file in candidates[:2])
            raise LabelError(
                f'the image {name!r} may be {first} or {second}; name the images uniquely, or with their '
                'folders',
                self.root,
            )
        return candidates[0] if candidates else None

    def _named_alike(self, name: str) -> list[str]:
        """Return the images of the same file name, or else those that differ in their endings only."""
        basename = PurePosixPath(name).name.casefold()
        stem = os.path.splitext(basename)[0] if is_image(basename) else basename
        return self._by_name.get(basename) or self._by_stem.get(stem, [])

    def _at(self, name: str, near: str) -> str | None:
        """Return the image at a path relative to a folder that may be meant; None if there is none."""
        for folder in dict.fromkeys([near or self.root, *self._image_roots]):
            path = os.path.normpath(os.path.join(folder, name))
            if is_image(path) and os.path.isfile(path):
                return path
        return None

    def below_images(self, path: str) -> str:
        """Return the path of an image relative to the folder that it was found in, with '/'."""
        roots = [root for root in self._image_roots if Path(path).is_relative_to(root)]
        return Path(path).relative_to(max(roots, key=len, default=self.root)).as_posix()

    def split_of(self, path: str) -> str | None:
        """Return the split that the folders of a path name, the innermost first; None if they name none."""
        roots = [root for root in self._image_roots if Path(path).is_relative_to(root)]
        if not roots:  # the folders above say nothing about the layout
            return None
        parts = Path(path).relative_to(max(roots, key=len)).parts[:-1]
        return next(filter(None, (split_name(part) for part in reversed(parts))), None)

    def split_of_file(self, path: str) -> str | None:
        """Return the split that the name of a label file or its folders name."""
        return split_name(os.path.splitext(os.path.basename(path))[0]) or self.split_of(path)


def _walk(root: str) -> list[str]:
    """Return the files below a folder, sorted; links to folders are followed, once each."""
    files: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(
            name for name in subfolders if name[0] != '.' and name.lower() not in _SKIPPED_FOLDERS
        )
        files += [os.path.join(folder, name) for name in names if name[0] != '.']
    return sorted(files)


def split_name(text: str) -> str | None:
    """Return 'train', 'val' or 'test' if a name says one of them, as 'train2017' or 'Validation' do."""
    matches = {
        next(split for split, group in zip(_SPLITS, match.groups(), strict=True) if group)
        for match in _SPLIT_NAME.finditer(text.lower())
    }
    return matches.pop() if len(matches) == 1 else None


def _longest_match(name: str, candidates: Sequence[str]) -> list[str]:
    """Return the paths that have the most trailing parts in common with a name; that above all others."""
    parts = [part.casefold() for part in reversed(PurePosixPath(name).parts)]

    def common(path: str) -> int:
        own = [part.casefold() for part in reversed(Path(path).parts)]
        pairs = zip(parts[1:], own[1:], strict=False)
        return next((index for index, (a, b) in enumerate(pairs) if a != b), len(parts) - 1)

    most = max(map(common, candidates))
    candidates = [path for path in candidates if common(path) == most]
    folders = [Path(path).parents[most] for path in candidates]
    tops = [
        path
        for path, top in zip(candidates, folders, strict=True)
        if all(folder.is_relative_to(top) for folder in folders)
    ]
    return tops if len(tops) == 1 else candidates


def _nearest(folder: str, candidates: Sequence[str]) -> list[str]:
    """Return the paths that have the longest folder in common with a folder."""
    lengths = [len(os.path.commonpath([folder, path])) for path in candidates]
    return [path for path, length in zip(candidates, lengths, strict=True) if length == max(lengths)]


def read_text(path: str) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark, or UTF-16 with it.

    Raises:
        LabelError: The file has another encoding.
    """
    data = Path(path).read_bytes()
    encoding = 'utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig'
    try:
        return data.decode(encoding).replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
        raise LabelError(f'byte {error.start} is not UTF-8; save the file as UTF-8', path) from None


def read_json(path: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        LabelError: The file is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f'not JSON: {error}; the file may be truncated', path) from None


@contextlib.contextmanager
def entries_of(path: str, what: str = 'an entry') -> Iterator[None]:
    """Name the file of an entry whose values have other types than its format says.

    Args:
        path: The file.
        what: The entry, for the message.

    Raises:
        LabelError: In place of what Python raises for such values.
    """
    try:
        yield
    except LabelError:
        raise
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise LabelError(
            f'{what} cannot be read: {type(error).__name__}: {error}; correct it', path
        ) from None


def read_names(path: str) -> list[str]:
    """Return the names in a text file, a line each, without empty lines and those that begin with '# '."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and line != '#' and not line.startswith('# ')]


def image_size(path: str) -> tuple[int, int]:
    """Return (width, height) of an image file after its EXIF orientation has been applied.

    Raises:
        LabelError: The file is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION_TAG, 1) >= 5
    except Image.UnidentifiedImageError:
        return _size_of_values(path)
    except Exception as error:  # Pillow's parsers raise all kinds of errors on damaged headers
        raise LabelError(
            f'not a readable image ({type(error).__name__}); remove or replace it', path
        ) from None
    return (height, width) if turned else (width, height)


def _size_of_values(path: str) -> tuple[int, int]:
    """Return (width, height) of a file that Pillow does not know, such as a TIFF of many bands."""
    from mmssl.data.array_formats import open_array
    from mmssl.data.images import read_file

    try:
        file = open_array(read_file(path), path, channel_axis=-1)
        height, width = file.size(0)
    except (BadImageError, OSError) as error:
        reason = getattr(error, 'reason', str(error))
        raise LabelError(f'not a readable image ({reason}); remove or replace it', path) from None
    return (height, width) if file.orientation >= 5 else (width, height)


def no_images(folder: LabelFolder, labels: str) -> LabelError:
    """Return the error for labels without any of their images."""
    endings = ', '.join(IMAGE_SUFFIXES[:5])
    return LabelError(
        f'none of the images of {labels} is there; put them below this folder ({endings}, ...)', folder.root
    )
