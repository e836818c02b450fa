"""Looks at a folder, says which formats of labels it holds, and reads one."""

import os
from collections.abc import Callable, Iterable, Mapping

from mmssl.data.label_formats import (
    class_folders,
    coco,
    cvat,
    label_studio,
    labelme,
    maps,
    tables,
    voc,
    yolo,
)
from mmssl.data.label_formats.files import LabelFolder
from mmssl.data.label_formats.records import TASKS, LabelSet
from mmssl.data.label_formats.xml_files import root_tag
from mmssl.errors import LabelError
from mmssl.hints import nearest

FORMATS = ('coco', 'voc', 'yolo', 'png', 'classes', 'csv', 'labelme', 'cvat', 'label-studio')
# formats that can serve each task
_TASK_FORMATS = {
    'classify': ('classes', 'csv', 'label-studio', 'cvat'),
    'detect': ('coco', 'voc', 'yolo', 'csv', 'labelme', 'cvat', 'label-studio'),
    'instance': ('coco', 'yolo', 'labelme', 'cvat', 'label-studio'),
    'semantic': ('png', 'coco', 'yolo', 'labelme', 'cvat', 'label-studio'),
}
# JSON files of a folder that are opened to recognise its format; a labelme folder has one for each image
_MAX_SNIFFED = 20
_UNREADABLE = 'unreadable'


def read_labels(
    path: str | os.PathLike,
    task: str | None = None,
    format: str | None = None,
    images: Iterable[str | os.PathLike] = (),
    ignore: Iterable[int] = (),
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> LabelSet:
    """Read the labels of a folder or of a file, whatever their format.

    Args:
        path: A folder, or the file of the labels.
        task: 'classify', 'detect', 'instance' or 'semantic': decides between formats if a folder holds
            several, and is checked; None takes what is there.
        format: One of :data:`FORMATS`, if the folder holds several.
        images: More folders in which to look for the images.
        ignore: Values of label maps to ignore, besides 255 and those named void.
        sizes: (width, height) by the name of an image without its suffix. With them, which may be empty,
            images do not have to exist: labels, as of predictions, are read without opening any.

    Returns:
        The labels, with the images sorted by name.

    Raises:
        FileNotFoundError: There is no such file or folder.
        LabelError: There are no labels, they are of several formats, or they are wrong; the message gives the
            file, the reason and the cure.
        ValueError: There is no such task or format.
    """
    _check_choice('task', task, TASKS)
    _check_choice('format', format, FORMATS)
    folder = LabelFolder(path, images)
    files = find_formats(folder)
    chosen = format or _choose(folder, files, task)
    if chosen not in files:
        held = ', '.join(files) or 'none'
        raise LabelError(f'holds no labels of the format {chosen!r}; formats there: {held}', path)
    labels = _read(folder, chosen, files[chosen], tuple(ignore), sizes)
    if task and not labels.supports(task):
        raise LabelError(_unsupported(labels, task), path)
    return labels


def find_formats(folder: LabelFolder) -> dict[str, list[str]]:
    """Return the formats that a folder holds, each with its files, in the order of :data:`FORMATS`."""
    files: dict[str, list[str]] = {}
    _add_json(folder, files)
    for file in folder.with_suffix('.xml'):
        tag = root_tag(file)
        if tag in ('annotation', 'annotations'):
            files.setdefault('voc' if tag == 'annotation' else 'cvat', []).append(file)
    if yolo.find_yaml(folder) or _has_yolo_texts(folder):
        files['yolo'] = []
    csv_files = [file for file in folder.with_suffix('.csv', '.tsv') if tables.is_table(file)]
    if csv_files:
        files['csv'] = csv_files
    if folder.images and _has_maps(folder, bool(files)):
        files['png'] = []
    if not files and class_folders.is_class_folders(folder):
        files['classes'] = []
    return {name: files[name] for name in FORMATS if name in files}


def _add_json(folder: LabelFolder, files: dict[str, list[str]]) -> None:
    """Sort the JSON files by format; of many files in one folder only some are read."""
    json_files = folder.with_suffix('.json')
    kinds: dict[str, str] = {}
    for file in json_files:
        name = os.path.dirname(file)
        if len(json_files) > _MAX_SNIFFED and kinds.get(name) == 'labelme':
            files['labelme'].append(file)
            continue
        kind = _json_kind(folder, file)
        if kind == _UNREADABLE:
            raise LabelError('not JSON; it may be truncated: replace or remove it', file)
        if kind:
            kinds[name] = kind
            files.setdefault(kind, []).append(file)


def _json_kind(folder: LabelFolder, file: str) -> str:
    content = folder.json(file)
    kinds: Mapping[str, Callable] = {
        'coco': coco.is_coco,
        'labelme': labelme.is_labelme,
        'label-studio': label_studio.is_label_studio,
    }
    return next((kind for kind, matches in kinds.items() if matches(content)), '')


def _has_maps(folder: LabelFolder, has_others: bool) -> bool:
    try:
        return bool(maps.find_pairs(folder))
    except LabelError:
        if has_others:  # pictures of labels, which are not needed
            return False
        raise


def _has_yolo_texts(folder: LabelFolder) -> bool:
    stems = {os.path.splitext(os.path.basename(path))[0] for path in folder.images}
    texts = folder.with_suffix('.txt')
    named = [file for file in texts if os.path.splitext(os.path.basename(file))[0] in stems]
    return any(map(yolo.is_label_file, named or texts[:_MAX_SNIFFED]))


def _choose(folder: LabelFolder, files: Mapping[str, list[str]], task: str | None) -> str:
    """Return the format to read.

    Raises:
        LabelError: There is none, or several serve the task.
    """
    usable = [name for name in files if task is None or name in _TASK_FORMATS[task]]
    if 'png' in usable and len(usable) > 1:  # layouts such as PASCAL's hold label maps beside objects
        usable = ['png'] if task == 'semantic' else [name for name in usable if name != 'png']
    if len(usable) == 1:
        return usable[0]
    if len(usable) > 1:
        raise LabelError(
            f'holds labels of several formats: {", ".join(usable)}; name one with --format, or give its '
            'folder or file',
            folder.path,
        )
    if files:
        raise LabelError(
            f'holds labels of the format {", ".join(files)}, which cannot be used for the task {task!r}; '
            f'{_TASK_FORMATS[task or ""][0]} can',
            folder.path,
        )
    raise LabelError(_nothing(folder), folder.path)


def _nothing(folder: LabelFolder) -> str:
    known = 'COCO, VOC, YOLO, label maps, class folders, CSV, labelme, CVAT and Label Studio'
    if not folder.images:
        archives = [file for file in folder.labels if file.lower().endswith(('.zip', '.tar', '.gz', '.7z'))]
        if archives:
            return f'holds no image, but {os.path.basename(archives[0])}; unpack it'
        return f'holds neither images nor labels; formats that are read: {known}'
    return (
        f'holds {len(folder.images)} images and no labels that are read: {known}; `mmssl init` pre-trains '
        'without'
    )


def _unsupported(labels: LabelSet, task: str) -> str:
    if task == 'instance' and labels.num_objects:
        return (
            f'has {labels.num_objects} boxes without outlines or masks; the task instance needs outlines, '
            'detect does not'
        )
    return f'holds no labels for the task {task!r}: no object in {len(labels)} images'


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        hint = nearest(value, choices) or f'; one of {", ".join(choices)}'
        raise ValueError(f'{name} {value!r} does not exist{hint}')


_READERS: dict[str, Callable[[LabelFolder, list[str], bool], LabelSet]] = {
    'coco': coco.read,
    'voc': voc.read,
    'csv': tables.read,
    'labelme': labelme.read,
    'cvat': cvat.read,
    'label-studio': label_studio.read,
}


def _read(
    folder: LabelFolder,
    format: str,
    files: list[str],
    ignore: tuple[int, ...],
    sizes: Mapping[str, tuple[int, int]] | None,
) -> LabelSet:
    if format == 'yolo':
        return yolo.read(folder, sizes, need_images=sizes is None)
    if format == 'png':
        return maps.read(folder, ignore)
    if format == 'classes':
        return class_folders.read(folder)
    return _READERS[format](folder, files, sizes is None)
