"""File-name suffixes of the images that the package reads. Imports nothing outside Python."""

import os

IMAGE_SUFFIXES = (
    '.jpg',
    '.jpeg',
    '.jpe',
    '.jfif',
    '.png',
    '.webp',
    '.bmp',
    '.tif',
    '.tiff',
    '.gif',
    '.ppm',
    '.pgm',
    '.jp2',
    '.j2k',
    '.heic',
    '.heif',
    '.hif',
    '.avif',
)
# read as images where a folder has none of the above: arrays beside photographs are seldom images
ARRAY_SUFFIXES = ('.npy', '.npz', '.dcm', '.dicom')
# files that are often beside images and are not images themselves
SIDECAR_SUFFIXES = (
    '.txt',
    '.json',
    '.jsonl',
    '.xml',
    '.csv',
    '.tsv',
    '.md',
    '.rst',
    '.html',
    '.yml',
    '.yaml',
    '.toml',
    '.log',
    '.py',
    '.sh',
    '.db',
    '.ini',
    '.md5',
    '.sha256',
    '.lock',
    '.cls',
)


def is_image(path: str | os.PathLike) -> bool:
    """Return True if the file name ends with one of :data:`IMAGE_SUFFIXES`, in upper or lower case."""
    return os.fspath(path).lower().endswith(IMAGE_SUFFIXES)
