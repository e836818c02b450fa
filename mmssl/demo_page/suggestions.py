"""Masks of a model that a person accepts or discards: COCO files, and the folders of ``mmssl annotate``."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmssl.errors import LabelError

DEFAULT_CLASS = 'object'


class Suggestions:
    """Masks by image.

    Args:
        paths: COCO files, and folders with a file of SA-1B for each image, as ``mmssl annotate`` writes them.
        names: Paths of the images to label below their folder. A COCO file may name them by their last part
            if no other image has the same.
        default: Class of masks without one.

    Raises:
        FileNotFoundError: There is no such file.
        LabelError: It is neither of the two.
    """

    def __init__(self, paths: Sequence[str | Path], names: Sequence[str], default: str = DEFAULT_CLASS):
        self.default = default
        self._folders: list[tuple[int, Path]] = []
        self._masks: dict[str, list[dict]] = defaultdict(list)
        for index, path in enumerate(map(Path, paths)):
            if not path.exists():
                raise FileNotFoundError(f'--prefill {path} does not exist')
            if path.is_dir():
                self._folders.append((index, path))
            else:
                self._read_coco(path, index, names)

    def of(self, name: str) -> list[dict]:
        """Return the masks of an image, large ones first.

        Returns:
            'key' (unique in the image), 'segmentation', 'class', and 'score' or None.

        Raises:
            LabelError: The file of the image is not one of SA-1B.
        """
        masks = list(self._masks.get(name, ()))
        for index, folder in self._folders:
            file = folder / PurePosixPath(name).with_suffix('.json')
            if not file.is_file():
                continue
            content = _read(file)
            if not isinstance(content.get('annotations'), list):
                raise LabelError('is no file of mmssl annotate', str(file))
            masks += [self._suggestion(each, self.default, index) for each in content['annotations']]
        return sorted(masks, key=lambda mask: -mask['area'])

    def _read_coco(self, path: Path, index: int, names: Sequence[str]) -> None:
        from mmssl.data.coco_masks import prepare_masks

        content = _read(path)
        try:
            prepare_masks(content)
        except (ValueError, KeyError, TypeError) as error:
            raise LabelError(f'--prefill: is no COCO file of masks ({error})', str(path)) from error
        by_last_part = defaultdict(list)
        for name in names:
            by_last_part[PurePosixPath(name).name].append(name)
        known = set(names)
        images = {}
        for image in content['images']:
            name = str(image.get('file_name')).replace('\\', '/')
            alike = by_last_part[PurePosixPath(name).name]
            images[image['id']] = name if name in known else alike[0] if len(alike) == 1 else None
        classes = {each.get('id'): str(each.get('name')) for each in content.get('categories') or []}
        used = False
        for annotation in content['annotations']:
            target = images[annotation['image_id']]
            if target is not None and annotation.get('segmentation'):
                label = classes.get(annotation.get('category_id'), self.default)
                self._masks[target].append(self._suggestion(annotation, label, index))
                used = True
        if content['annotations'] and not used:
            first = content['images'][0]['file_name'] if content['images'] else 'none'
            raise LabelError(f'--prefill: none of its images, such as {first}, is to be labelled', str(path))

    def _suggestion(self, annotation: dict, label: str, index: int) -> dict[str, Any]:
        score = annotation.get('score', annotation.get('predicted_iou'))
        return {
            'key': f'{index}-{annotation.get("id")}' if index else str(annotation.get('id')),
            'segmentation': annotation['segmentation'],
            'area': float(annotation.get('area') or 0),
            'class': label,
            'score': None if score is None else float(score),
        }


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise LabelError(f'is no JSON file ({error})', str(path)) from error
    if not isinstance(content, dict):
        raise LabelError('is neither a COCO file nor one of mmssl annotate', str(path))
    return content
