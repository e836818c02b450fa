"""YOLO's ``data.yaml``: the names of the classes, and the folders or lists of the splits."""

import os
from pathlib import PurePosixPath
from typing import Any

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, read_names, read_text
from mmssl.errors import LabelError


def find_yaml(folder: LabelFolder) -> tuple[str, dict] | None:
    """Return the path and the content of the YAML file that names the classes; None if there is none.

    Raises:
        LabelError: A file named data.yaml is not YAML.
    """
    import yaml

    files = sorted(folder.with_suffix('.yaml', '.yml'), key=lambda file: (file.count(os.sep), file))
    for file in files:
        try:
            content = yaml.safe_load(read_text(file))
        except yaml.YAMLError as error:
            if os.path.basename(file).lower() in ('data.yaml', 'data.yml', 'dataset.yaml'):
                reason = str(error).splitlines()[0]
                raise LabelError(f'not YAML: {reason}; correct it', file) from None
            continue
        if (
            isinstance(content, dict)
            and content.get('names')
            and set(content) & {'train', 'val', 'path', 'nc'}
        ):
            return file, content
    return None


def yaml_classes(path: str, content: dict) -> list[str]:
    names = content['names']
    if isinstance(names, dict):
        names = {int(key) if str(key).strip().isdigit() else key: name for key, name in names.items()}
        numbers = sorted(names, key=lambda key: (isinstance(key, str), key))
        if numbers != list(range(len(names))):
            raise LabelError(f'names has the numbers {numbers[:8]}; they must go from 0 without gaps', path)
        names = [names[number] for number in numbers]
    names = [str(name).strip() for name in names]
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise LabelError(f'names lists {doubled!r} twice; give every class a name of its own', path)
    if isinstance(content.get('nc'), int) and content['nc'] != len(names):
        raise LabelError(f'nc is {content["nc"]}, but names lists {len(names)} classes; correct one', path)
    return names


def images_of_splits(
    folder: LabelFolder, data_yaml: tuple[str, dict] | None, builder: LabelSetBuilder
) -> dict[str, str | None]:
    """Return the split of each image; those of ``data.yaml`` if it names folders."""
    images: dict[str, str | None] = {}
    if data_yaml:
        path, content = data_yaml
        values = {split: content.get(split) for split in ('train', 'val', 'test')}
        values['val'] = values['val'] or content.get('valid')
        same = values['val'] == values['train']
        for split, value in values.items():
            if value is None or (split == 'val' and same):
                continue
            for entry in value if isinstance(value, list) else [value]:
                _add_entry(folder, path, content, split, str(entry), images, builder)
        if same:
            builder.notes.append('train and val of data.yaml are the same folder, which is split')
            images = dict.fromkeys(images)
    return images or {path: folder.split_of(path) for path in folder.images}


def _add_entry(folder, yaml_path, content, split, entry, images, builder) -> None:
    """Add the images of a folder or list of ``data.yaml`` to ``images``."""
    location = _resolve(folder, yaml_path, content.get('path'), entry)
    if location is None:
        if split == 'test':
            builder.notes.append(f'test of {folder.below(yaml_path)} does not exist: {entry}')
            return
        raise LabelError(f'{split} is {entry}, which does not exist; correct the path', yaml_path)
    if os.path.isfile(location):
        names = read_names(location)
        paths = [folder.find_image(name, os.path.dirname(location), split) for name in names]
        builder.missing += [name for name, path in zip(names, paths, strict=True) if path is None]
    else:
        paths = [path for path in folder.images if path.startswith(location.rstrip(os.sep) + os.sep)]
        if not paths:
            paths = list(LabelFolder(location).images)
    for path in filter(None, paths):
        earlier = images.setdefault(path, split)
        if earlier != split and earlier == 'train':
            raise LabelError(f'{folder.below(path)} is in {images[path]} and in {split}', yaml_path)


def _resolve(folder: LabelFolder, yaml_path: str, base: Any, entry: str) -> str | None:
    """Return the folder or file that an entry of ``data.yaml`` means, also if it was written elsewhere."""
    entry = entry.replace('\\', '/')
    base = str(base or '').replace('\\', '/')
    near = os.path.dirname(yaml_path)
    parts = [part for part in PurePosixPath(entry).parts if part not in ('/', '..', '.') and ':' not in part]
    candidates = [os.path.join(near, base, entry), os.path.join(near, entry)]
    candidates += [
        os.path.join(root, *parts[start:]) for start in range(len(parts)) for root in (near, folder.root)
    ]
    if not parts:
        candidates.append(near)
    return next((os.path.normpath(path) for path in candidates if os.path.exists(path)), None)
