"""Finding the images of a folder or an archive."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from mmengine.logging import print_log

from mmssl.checkpoint.regular_files import special_file
from mmssl.data.archives import open_archive, split_archive
from mmssl.data.missing import closest, no_images, no_such_folder, no_such_folder_in_archive
from mmssl.data.random_access import is_folder
from mmssl.data.suffixes import ARRAY_SUFFIXES, IMAGE_SUFFIXES, SIDECAR_SUFFIXES
from mmssl.data.url_paths import is_url


def find_images(
    data_root: str, prefix: str, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> tuple[str, list[str]]:
    """Find the images of a folder or an archive.

    Args:
        data_root: A folder or an archive; on disk or behind a URL.
        prefix: Folder below it, or ''.
        suffixes: Lower-case suffixes with their dot. The default also finds NPY, NPZ and DICOM files where
            there are no other images.

    Returns:
        The folder that holds the images and their sorted paths below it, with '/' between folders.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It contains no images.
    """
    data_root = data_root.rstrip('/') or '/'
    prefix = prefix.strip('/') if not os.path.isabs(prefix) else prefix.rstrip('/')
    root = os.path.join(data_root, prefix) if prefix else data_root
    archive_and_folder = split_archive(root)
    if archive_and_folder:
        archive, folder = archive_and_folder
        return _find_in_archive(
            archive, folder, suffixes, optional=prefix if split_archive(data_root) else ''
        )
    if is_url(root):
        return _find_behind_url(data_root, prefix, suffixes)
    if os.path.isfile(root):
        raise ValueError(f'{root} is a file, neither a folder of images nor a zip or LMDB archive of one')
    if os.path.lexists(root) and not os.path.isdir(root):
        raise ValueError(f'{root} is {_description(root)}, not a folder of images')
    if not os.path.isdir(root):
        if not _may_skip_prefix(data_root, prefix, suffixes):
            raise FileNotFoundError(no_such_folder(root))
        print_log(f'{root} does not exist; using the images of {data_root}', logger='current')
        root = data_root
    names, other_suffixes = _scan(root, tuple(suffixes))
    if not names and _may_be_arrays(suffixes, other_suffixes):
        names, other_suffixes = _scan(root, ARRAY_SUFFIXES)
    if not names:
        raise ValueError(no_images(root, suffixes, other_suffixes))
    log_unread(root, other_suffixes)
    return root, names


def _find_behind_url(data_root: str, prefix: str, suffixes: Sequence[str]) -> tuple[str, list[str]]:
    from mmssl.data.remote import entries_of, files_below

    root = f'{data_root}/{prefix}' if prefix else data_root
    if not is_folder(root):
        folders = entries_of(data_root)
        if not (prefix and folders and stands_for_train(prefix, folders)):
            raise FileNotFoundError(
                f'{data_root} has no {prefix!r}; it has {", ".join(folders[:5]) or "nothing"}'
                if prefix
                else f'{root} does not exist'
            )
        print_log(f'{root} does not exist; using the images of {data_root}', logger='current')
        root = data_root
    names = [name for name in files_below(root) if not _is_hidden(name)]
    images = [name for name in names if name.lower().endswith(tuple(suffixes))]
    other_suffixes = _other_suffixes(names, suffixes)
    if not images and _may_be_arrays(suffixes, other_suffixes):
        return _find_behind_url(data_root, prefix, ARRAY_SUFFIXES)
    if not images and '.mdb' in other_suffixes:
        raise ValueError(f'{root}: an LMDB is read from disk only; copy it, or pack images with --to tar')
    if not images:
        raise ValueError(no_images(root, suffixes, other_suffixes))
    log_unread(root, other_suffixes)
    return root, images


def _may_be_arrays(suffixes: Sequence[str], other_suffixes: Counter) -> bool:
    """Return True if files of values are to stand for images, as there are no others."""
    return tuple(suffixes) == IMAGE_SUFFIXES and any(suffix in other_suffixes for suffix in ARRAY_SUFFIXES)


def _description(path: str) -> str:
    """Return what a path is that is neither a file nor a folder."""
    try:
        return special_file(os.stat(path).st_mode) or 'a file'
    except OSError as error:
        return f'a link that leads nowhere ({error.strerror})'


def unread_files(folder: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> str | None:
    """Return how many files of a folder or archive have endings that are not read; None if there are none.

    Args:
        folder: A folder, or an archive or a folder in it, as :func:`find_images` returns it.
        suffixes: As in :func:`find_images`.
    """
    if is_url(folder):
        return None  # it was logged; listing it again takes long
    archive_and_folder = split_archive(folder)
    if not archive_and_folder:
        return _unread_message(_scan(folder, tuple(suffixes))[1])
    archive = open_archive(archive_and_folder[0])
    if getattr(archive, 'holds_only_images', False):
        return None
    names = (name for name in archive.names() if not _is_hidden(name))
    return _unread_message(_other_suffixes(names, suffixes))


def log_unread(root: str, other_suffixes: Counter) -> None:
    """Log how many files have endings that are not read.

    Args:
        root: The folder or archive.
        other_suffixes: Number of files per suffix; texts and tables are often beside images and do not count.
    """
    message = _unread_message(other_suffixes)
    if message:
        print_log(f'{root}: {message}', logger='current', level=logging.WARNING)


def _unread_message(other_suffixes: Counter) -> str | None:
    unread = Counter({suffix: n for suffix, n in other_suffixes.items() if suffix not in SIDECAR_SUFFIXES})
    if not unread:
        return None
    counts = ', '.join(f'{count} {suffix or "without an ending"}' for suffix, count in unread.most_common(8))
    files = '1 file is' if unread.total() == 1 else f'{unread.total()} files are'
    cure = 'convert images to .jpg or .png'
    arrays = [suffix for suffix in unread if suffix in ARRAY_SUFFIXES]
    if arrays:
        cure += f', or read {" and ".join(arrays)} alone by extensions={arrays!r} in the dataset'
    return f'{files} not read, since no image that can be read has such an ending: {counts}; {cure}'


def _other_suffixes(names: Iterable[str], suffixes: Sequence[str]) -> Counter:
    unread = (name for name in names if not name.lower().endswith(tuple(suffixes)))
    return Counter(os.path.splitext(name)[1].lower() for name in unread)


def _find_in_archive(
    archive: str, folder: str, suffixes: Sequence[str], optional: str = ''
) -> tuple[str, list[str]]:
    """Find the images in a folder of an archive.

    Args:
        archive: Path of the archive.
        folder: Folder inside it, or ''.
        suffixes: As in :func:`find_images`.
        optional: The folder that may be missing, see :func:`stands_for_train`.
    """
    opened = open_archive(archive, check=True)
    all_names = [name for name in opened.names() if not _is_hidden(name)]
    if getattr(opened, 'holds_only_images', False):
        suffixes = ('',)
    images = sorted(name for name in all_names if name.lower().endswith(tuple(suffixes)))
    other_suffixes = _other_suffixes(all_names, suffixes)
    if not images and _may_be_arrays(suffixes, other_suffixes):
        return _find_in_archive(archive, folder, ARRAY_SUFFIXES, optional)
    if not images:
        raise ValueError(no_images(archive, suffixes, other_suffixes))
    log_unread(archive, other_suffixes)
    top = _only_top_folder(images)
    if not folder and top is None:
        return archive, images
    # an archive of a folder often has that folder as its only top-level entry
    candidates = [folder, f'{top}/{folder}' if top and folder else top]
    for candidate in filter(None, candidates):
        names = [name.removeprefix(f'{candidate}/') for name in images if name.startswith(f'{candidate}/')]
        if names:
            return f'{archive}/{candidate}', names
    top_folders = [name.split('/', 1)[0] for name in images if '/' in name]
    if optional and folder == optional and stands_for_train(optional, top_folders):
        print_log(f'{archive} has no folder {folder!r}; using all of its images', logger='current')
        return _find_in_archive(archive, '', suffixes)
    raise FileNotFoundError(no_such_folder_in_archive(archive, folder, images))


def _only_top_folder(names: Sequence[str]) -> str | None:
    """Return the top-level folder of all names if they share one."""
    tops = {name.split('/', 1)[0] if '/' in name else None for name in names}
    return tops.pop() if len(tops) == 1 else None


def _may_skip_prefix(data_root: str, prefix: str, suffixes: Sequence[str]) -> bool:
    """Return True if the images of the root may be used because the folder ``prefix`` does not exist."""
    if not os.path.isdir(data_root):
        return False
    folders = [entry.name for entry in os.scandir(data_root) if entry.is_dir()]
    return stands_for_train(prefix, folders) and _has_images(data_root, tuple(suffixes))


def stands_for_train(prefix: str, folders: Sequence[str]) -> bool:
    """Return True if a root with these folders may replace its missing folder ``prefix``.

    Only a training set may be replaced, and only if no other split and no similar name exists: a validation
    set that silently became the training images, or a misspelled prefix that became everything, would give
    wrong figures.
    """
    splits = ('train', 'val', 'test')
    return (
        prefix.startswith('train')
        and not any(folder.lower().startswith(splits) for folder in folders)
        and closest(prefix, folders) is None
    )


def _scan(root: str, suffixes: tuple[str, ...]) -> tuple[list[str], Counter]:
    """Return the sorted paths of the images below ``root``, and the number of files per other suffix.

    A link right below the root is a class folder of its own, even if it leads to a folder that has been read;
    this is logged. Deeper links are followed once.
    """
    names: list[str] = []
    other_suffixes: Counter[str] = Counter()
    # (device, inode) and the class folder if that is a link -> the first name
    visited: dict[tuple[int, int, str], str] = {}
    folders: list[str] = ['']
    links: list[str] = []
    # links are followed last, so that a folder that is reached both ways has its own name
    while folders or links:
        folder = (folders or links).pop()
        if not _visit(root, folder, visited):
            continue
        new_links: list[str] = []
        with os.scandir(f'{root}/{folder}' if folder else root) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                name = f'{folder}/{entry.name}' if folder else entry.name
                if _is_dir(entry):
                    (new_links if entry.is_symlink() else folders).append(name)
                elif entry.name.lower().endswith(suffixes):
                    names.append(name)
                else:
                    other_suffixes[os.path.splitext(entry.name)[1].lower()] += 1
        links = sorted(new_links, reverse=True) + links
    return sorted(names), other_suffixes


def _visit(root: str, folder: str, visited: dict[tuple[int, int, str], str]) -> bool:
    """Enter a folder into ``visited``; return False if its images have been read under another name."""
    status = os.stat(f'{root}/{folder}' if folder else root)
    inode = (status.st_dev, status.st_ino)
    top = folder.split('/', 1)[0]
    linked_top = top if folder and os.path.islink(f'{root}/{top}') else ''
    first = visited.get((*inode, ''), visited.get((*inode, linked_top)))
    if first == '' or (first is not None and folder != linked_top):
        return False  # the root itself, or a deeper link to what has been read
    if folder == linked_top and folder:
        same = next((name for key, name in visited.items() if key[:2] == inode and '/' not in name), None)
        if same is not None:
            print_log(
                f'{root}/{folder} and {root}/{same} are the same folder: its images are read twice, once for '
                'each name; remove one of the links if that is not meant',
                logger='current',
                level=logging.WARNING,
            )
    visited[(*inode, linked_top)] = folder
    return True


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _has_images(root: str, suffixes: tuple[str, ...]) -> bool:
    return any(
        name.lower().endswith(suffixes) and not _is_hidden(name)
        for _, _, files in os.walk(root)
        for name in files
    )


def _is_hidden(name: str) -> bool:
    """Return True for hidden files, macOS's additions to archives, and names that lead out of an archive."""
    return any(not part or part.startswith('.') or part == '__MACOSX' for part in name.split('/'))
