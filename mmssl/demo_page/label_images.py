"""The images to label, in their order."""

from pathlib import Path


def images_to_label(folder: str | Path, order: str | Path | None = None) -> list[str]:
    """List the images of a folder and its subfolders.

    Args:
        folder: The folder.
        order: List file of ``mmssl select``, a path per line: only these images, in this order. Paths are
            absolute, or relative to the list or to the folder. None for all images by name.

    Returns:
        Paths below the folder, with '/' between folders.

    Raises:
        FileNotFoundError: The folder, the list or one of its images does not exist.
        ValueError: There are no images, or one is not in the folder.
    """
    from mmssl.data.annotations import images_below
    from mmssl.data.label_formats.files import read_names
    from mmssl.hints import nearest_path

    folder = Path(folder)
    if not folder.is_dir():
        reason = 'is no folder' if folder.exists() else f'does not exist{nearest_path(str(folder))}'
        raise FileNotFoundError(f'--data {folder} {reason}')
    if order is None:
        names = [path.relative_to(folder).as_posix() for path in images_below(folder)]
    elif not Path(order).is_file():
        raise FileNotFoundError(f'--order {order} does not exist{nearest_path(str(order))}')
    else:
        names = [_name_below(folder, Path(order), line) for line in read_names(str(order))]
    if not names:
        raise ValueError(f'--data {folder}: no images' if order is None else f'--order {order} is empty')
    return list(dict.fromkeys(names))


def _name_below(folder: Path, order: Path, line: str) -> str:
    """Return the path of a line of the list below the folder."""
    candidates = [order.absolute().parent / line, folder.absolute() / line]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f'--order {order} names {line}, which does not exist')
    for root, file in ((folder.absolute(), path), (folder.resolve(), path.resolve())):
        if file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    raise ValueError(f'--order {order} names {line}, which is not in --data {folder}')
