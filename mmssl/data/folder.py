"""A folder, zip or LMDB of images as a data set, with labels where class folders tell them."""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmssl.data.archives import open_archive, split_archive
from mmssl.data.bad_files import BadFiles, diagnose
from mmssl.data.images import BadImageError
from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """The host's CustomDataset wants to be told whether there are labels, reads no archive, and ends the run at the first bad file.

    Any images below a folder, nested or flat, sorted by path; hidden files are ignored, links to folders are
    followed once. ``data_root`` may be a zip or an LMDB of such a folder (or lead into one:
    ``photos.zip/inner``), which is read in place. Where every image lies in a class folder, the first below
    the root, ``data_list`` has ``gt_label`` and the meta information has ``classes``.

    A file that does not decode is skipped: another sample is drawn from numpy's global generator, as the host
        does for a pipeline that
    returns None, and the file is counted, see :class:`mmssl.data.bad_files.BadFiles`. In test mode it is an
    error that names the file.

    Args:
        data_root: a folder, or an archive of one.
        data_prefix: folder below it. Where 'train' does not exist and ``data_root`` itself holds the images,
            those are taken; any other prefix must exist.
        pipeline: transforms, as the host takes them.
        extensions: suffixes of images, any case.
        labels: 'auto': from class folders if every image is in one of at least two; 'folder': from class
            folders, an image outside is an error; None: no labels.
        classes: names of the class folders in the order of the labels; sorted where None. Folders that are
            not named are an error.
        max_bad_files: most files that may be bad.
        max_bad_fraction: largest share of files that may be bad (three are always allowed).
        **kwargs: of mmengine's BaseDataset: indices, test_mode, serialize_data, lazy_init, max_refetch,
        metainfo.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it holds no images, or the labels do not fit.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: str | dict = '',
        pipeline: Sequence[dict | Callable] = (),
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        labels: str | None = 'auto',
        classes: Sequence[str] | None = None,
        max_bad_files: int = 100,
        max_bad_fraction: float = 0.001,
        **kwargs,
    ):
        if labels not in ('auto', 'folder', None):
            raise ValueError(f"labels={labels!r} is not one of 'auto', 'folder', None")
        if not data_root:
            raise ValueError('data_root is empty: name the folder of images, for example with --data DIR')
        self.extensions = tuple(f'.{suffix.lower().lstrip(".")}' for suffix in extensions)
        self.labels = labels
        self.bad_files = BadFiles(max_bad_files, max_bad_fraction)
        self.image_root = ''
        if classes is not None:
            kwargs['metainfo'] = {**(kwargs.get('metainfo') or {}), 'classes': tuple(classes)}
        prefix = data_prefix if isinstance(data_prefix, str) else data_prefix.get('img_path', '')
        super().__init__(
            data_root=os.path.expanduser(os.fspath(data_root)),
            data_prefix=dict(img_path=prefix),
            pipeline=list(pipeline),
            **kwargs,
        )

    @property
    def CLASSES(self) -> tuple[str, ...] | None:  # noqa: N802, the host's name, which its metrics and tools ask for
        """Names of the classes; None without labels."""
        return self.metainfo.get('classes')

    def _join_prefix(self) -> None:
        """Leave ``data_prefix`` as it is: joined to the root, a prefix that is missing could not be told from a root that is."""

    def load_data_list(self) -> list[dict]:
        """Scan the folder or archive.

        Returns:
            dicts with ``img_path`` and, where there are labels, ``gt_label`` (int).
        """
        self.image_root, names = find_images(self.data_root, self.data_prefix['img_path'], self.extensions)
        data_list: list[dict[str, Any]] = [dict(img_path=f'{self.image_root}/{name}') for name in names]
        label_of = self._labels(names)
        if label_of:
            for info, name in zip(data_list, names, strict=True):
                info['gt_label'] = label_of[name.split('/', 1)[0]]
        return data_list

    def _labels(self, names: list[str]) -> dict[str, int] | None:
        """Number of each class folder, or None for no labels."""
        if self.labels is None:
            return None
        outside = next((name for name in names if '/' not in name), None)
        folders = sorted({name.split('/', 1)[0] for name in names if '/' in name})
        if outside is not None or (self.labels == 'auto' and len(folders) < 2):
            if self.labels == 'folder':
                raise ValueError(
                    f'{self.image_root}/{outside} lies in no class folder; move it into one, or set labels=None'
                )
            return None
        classes = self._metainfo.setdefault('classes', tuple(folders))
        unknown = [folder for folder in folders if folder not in classes]
        if unknown:
            near = difflib.get_close_matches(unknown[0], classes, n=1)
            raise ValueError(
                f'the folder {self.image_root}/{unknown[0]} is none of the {len(classes)} classes'
                + (
                    f'; did you mean {near[0]!r}?'
                    if near
                    else f' ({", ".join(classes[:10])}{", ..." * (len(classes) > 10)})'
                )
            )
        return {name: label for label, name in enumerate(classes)}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of one image, for the hosts' class-balanced wrappers."""
        return [int(self.get_data_info(idx)['gt_label'])]

    def prepare_data(self, idx: int):
        """Run the pipeline; None for a bad file, which makes the host draw another sample.

        Raises:
            BadFilesError: one bad file too many.
            BadImageError: a bad file in test mode.
        """
        info = self.get_data_info(idx)
        path = info['img_path']
        try:
            return self.pipeline(info)
        except BadImageError as error:
            reason = error.reason
            if self.test_mode:
                raise
        except Exception as error:
            # a host's loader stumbles over a bad file in many ways; the file itself tells whether it is to
            # blame
            found = diagnose(path)
            if found is None:
                if hasattr(error, 'add_note'):
                    error.add_note(f'while reading {path}')
                raise
            reason = found
            if self.test_mode:
                raise BadImageError(reason, path) from error
        self.bad_files.add(path, reason, len(self))
        return None


def find_images(
    data_root: str, prefix: str, extensions: Sequence[str] = IMAGE_SUFFIXES
) -> tuple[str, list[str]]:
    """Find the images of a folder or archive.

    Args:
        data_root: a folder or archive.
        prefix: folder below it, or ''.
        extensions: lower-case suffixes with their dot.

    Returns:
        the root of the images and their sorted paths below it, with '/' between folders.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it holds no images.
    """
    data_root = data_root.rstrip('/') or '/'
    prefix = prefix.strip('/') if not os.path.isabs(prefix) else prefix.rstrip('/')
    wanted = os.path.join(data_root, prefix) if prefix else data_root
    found = split_archive(wanted)
    if found:
        return _find_in_archive(*found, extensions, prefix if split_archive(data_root) else '')
    if not os.path.isdir(wanted):
        if os.path.isfile(wanted):
            raise ValueError(
                f'{wanted} is a file, neither a folder of images nor a zip or LMDB archive of one'
            )
        folders = (
            [entry.name for entry in os.scandir(data_root) if entry.is_dir()]
            if os.path.isdir(data_root)
            else []
        )
        if (
            not os.path.isdir(data_root)
            or not _root_serves(prefix, folders)
            or not _has_images(data_root, extensions)
        ):
            raise FileNotFoundError(_missing(wanted))
        print_log(f'{wanted} does not exist; taking the images of {data_root}', logger='current')
        wanted = data_root
    names, others = _scan(wanted, extensions)
    if not names:
        raise ValueError(_empty(wanted, extensions, others))
    return wanted, names


def _find_in_archive(
    archive: str, inner: str, extensions: Sequence[str], prefix: str
) -> tuple[str, list[str]]:
    every = [name for name in open_archive(archive).names() if not _is_hidden(name)]
    images = sorted(name for name in every if name.lower().endswith(tuple(extensions)))
    if not images:
        raise ValueError(
            _empty(archive, extensions, Counter(os.path.splitext(name)[1].lower() for name in every))
        )
    # an archive of a folder often holds that folder as its only entry at the top
    tops = {name.split('/', 1)[0] if '/' in name else None for name in images}
    top = tops.pop() if len(tops) == 1 else None
    candidates = [inner] if inner else []
    if top is not None:
        candidates.append(f'{top}/{inner}' if inner else top)
    elif not inner:
        return archive, images
    for folder in candidates:
        names = [name[len(folder) + 1 :] for name in images if name.startswith(folder + '/')]
        if names:
            return f'{archive}/{folder}', names
    if (
        prefix
        and inner == prefix
        and _root_serves(prefix, [name.split('/', 1)[0] for name in images if '/' in name])
    ):
        print_log(f'{archive} holds no folder {inner!r}; taking all its images', logger='current')
        return _find_in_archive(archive, '', extensions, '')
    folders = sorted(
        {name.rsplit('/', 1)[0] for name in images if '/' in name}
        | {name.split('/', 1)[0] for name in images if '/' in name}
    )
    near = difflib.get_close_matches(inner, folders, n=1, cutoff=0.5)
    raise FileNotFoundError(
        f'{archive} holds no folder {inner!r} with images'
        + (f'; did you mean {near[0]!r}?' if near else f'; it holds {", ".join(folders[:5])}')
    )


def _root_serves(prefix: str, folders: Sequence[str]) -> bool:
    """Whether the root itself may stand in for a missing prefix: only for a training set, and beside no folder that was meant.

    A validation set that quietly became the training images, or a misspelt prefix that became everything,
    would give wrong figures.
    """
    splits = ('train', 'val', 'test')
    return (
        prefix.startswith('train')
        and not any(folder.lower().startswith(splits) for folder in folders)
        and not difflib.get_close_matches(prefix, folders, n=1)
    )


def _scan(root: str, extensions: Sequence[str]) -> tuple[list[str], Counter]:
    """Sorted paths of the images below ``root``, and how many files of each other suffix there are."""
    names: list[str] = []
    others: Counter[str] = Counter()
    suffixes = tuple(extensions)
    seen: set[tuple[int, int]] = set()
    folders: list[str] = ['']
    links: list[str] = []
    # links after the folders themselves, so that what is reached both ways has its own name
    while folders or links:
        folder = (folders or links).pop()
        path = f'{root}/{folder}' if folder else root
        identity = os.stat(path)
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        found_links: list[str] = []
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                name = f'{folder}/{entry.name}' if folder else entry.name
                if entry.is_dir():
                    (found_links if entry.is_symlink() else folders).append(name)
                elif entry.name.lower().endswith(suffixes):
                    names.append(name)
                else:
                    others[os.path.splitext(entry.name)[1].lower()] += 1
        links = sorted(found_links, reverse=True) + links
    return sorted(names), others


def _has_images(root: str, extensions: Sequence[str]) -> bool:
    return next(_walk_until_image(root, tuple(extensions)), None) is not None


def _walk_until_image(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for _, _, files in os.walk(root):
        yield from (name for name in files if name.lower().endswith(suffixes) and not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    """Hidden files, what macOS adds to archives, and names that would leave an archive's root."""
    return any(not part or part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def _missing(path: str) -> str:
    """The message for a missing folder: the first part that is missing, and the nearest name beside it."""
    parent = os.path.abspath(path)
    while not os.path.exists(parent):
        parent, missing = os.path.split(parent)
    beside = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    near = difflib.get_close_matches(missing, beside, n=1, cutoff=0.5)
    return f'no such folder: {path}; {parent} has no {missing!r}' + (
        f'; did you mean {os.path.join(parent, near[0])}?'
        if near
        else f', it holds {", ".join(beside[:5]) or "nothing"}'
    )


def _empty(path: str, extensions: Sequence[str], others: Counter) -> str:
    """The message for a folder without images: what was looked for and what was found."""
    found = (
        ', '.join(f'{count} {suffix or "without a suffix"}' for suffix, count in others.most_common(5))
        or 'no files at all'
    )
    return f'no images in {path}: looked for {", ".join(extensions)}; found {found}'
