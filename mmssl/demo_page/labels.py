"""The labels of a folder of images as COCO files that are whole at any time."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmssl.checkpoint import write_text
from mmssl.errors import LabelError

FINISHED_FILE = 'annotations.json'
# hidden from what reads labels: objects of its images are still missing
UNFINISHED_FILE = '.unfinished.json'
_LONGEST_CLASS = 80


@dataclass
class _Entry:
    """An image with its labels; ``text`` is their JSON, which is made once after a change."""

    image: dict
    annotations: list[dict] = field(default_factory=list)
    finished: bool = False
    text: tuple[str, str] | None = None

    def as_text(self) -> tuple[str, str]:
        if self.text is None:
            self.text = _dumps(self.image), ',\n'.join(map(_dumps, self.annotations))
        return self.text


class LabelStore:
    """Labels in two files of a folder, which every change replaces as a whole.

    ``annotations.json`` has the finished images. Those with some objects so far are in ``.unfinished.json``.
    Annotations of images that are not among those to label stay as they are.

    Args:
        folder: The folder, which is created.
        classes: Names of classes, which get the first ids if the folder is new.

    Raises:
        LabelError: A file is there and is no COCO file of masks.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str] = ()):
        self.folder = Path(folder)
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._categories: list[dict] = []
        for name, finished in ((FINISHED_FILE, True), (UNFINISHED_FILE, False)):
            self._read(self.folder / name, finished)
        annotations = [each for entry in self._entries.values() for each in entry.annotations]
        self._next_id = 1 + max((each['id'] for each in annotations), default=0)
        for name in classes:
            self._category_id(class_name(name))
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their ids."""
        with self._lock:
            return [str(category['name']) for category in sorted(self._categories, key=lambda it: it['id'])]

    def is_finished(self, name: str) -> bool:
        """Return True if the labels of an image are complete."""
        entry = self._entries.get(name)
        return entry is not None and entry.finished

    def annotations(self, name: str) -> list[dict]:
        """Return the annotations of an image, with 'class', the name of the class."""
        with self._lock:
            names = {category['id']: str(category['name']) for category in self._categories}
            entry = self._entries.get(name)
            return [
                {**each, 'class': names[each['category_id']]} for each in (entry.annotations if entry else [])
            ]

    def add(self, name: str, size: tuple[int, int], record: dict, label: str) -> int:
        """Add an annotation to an image.

        Args:
            name: Path of the image below the folder of images.
            size: (H, W) of the image.
            record: 'segmentation', 'bbox' and 'area', and more keys to write.
            label: Name of the class, which is added if it is new.

        Returns:
            The id of the annotation.
        """
        with self._changing(name, size) as entry:
            annotation = dict(
                id=self._next_id,
                image_id=entry.image['id'],
                category_id=self._category_id(class_name(label)),
                iscrowd=0,
                **record,
            )
            self._next_id += 1
            entry.annotations.append(annotation)
        return annotation['id']

    def remove(self, name: str, annotation_id: int) -> dict:
        """Remove an annotation and return it, for :meth:`restore`."""
        annotation = self._find(name, annotation_id)
        with self._changing(name) as entry:
            entry.annotations.remove(annotation)
        return annotation

    def restore(self, name: str, annotation: dict) -> None:
        """Put an annotation back that was removed."""
        with self._changing(name) as entry:
            entry.annotations.append(annotation)
            entry.annotations.sort(key=lambda each: each['id'])

    def rename(self, name: str, annotation_id: int, label: str) -> None:
        """Give an annotation another class."""
        annotation = self._find(name, annotation_id)
        with self._changing(name) as entry:
            index = entry.annotations.index(annotation)
            entry.annotations[index] = {**annotation, 'category_id': self._category_id(class_name(label))}

    def finish(self, name: str, size: tuple[int, int]) -> None:
        """Note that the labels of an image are complete; it may have no objects."""
        with self._changing(name, size) as entry:
            entry.finished = True

    def _find(self, name: str, annotation_id: int) -> dict:
        with self._lock:
            entry = self._entries.get(name)
            for annotation in entry.annotations if entry else []:
                if annotation['id'] == annotation_id:
                    return annotation
        raise ValueError(f'{name} has no annotation {annotation_id} any more')

    @contextlib.contextmanager
    def _changing(self, name: str, size: tuple[int, int] | None = None) -> Iterator[_Entry]:
        """Change an image and write its file; if that fails, nothing has changed."""
        from mmssl.data.annotations import image_id

        with self._lock:
            before = self._entries.get(name)
            categories, next_id = list(self._categories), self._next_id
            if before is None:
                if size is None:
                    raise ValueError(f'{name} has no annotations')
                image = dict(id=image_id(name), file_name=name, height=size[0], width=size[1])
                entry = _Entry(image)
            else:
                entry = replace(before, annotations=list(before.annotations), text=None)
            try:
                self._entries[name] = entry
                yield entry
                if entry.finished:
                    self._write(self.folder / FINISHED_FILE, True)
                # what is in both files counts as finished
                if not entry.finished or (before is not None and not before.finished):
                    self._write(self.folder / UNFINISHED_FILE, False)
            except BaseException:
                self._categories, self._next_id = categories, next_id
                if before is None:
                    del self._entries[name]
                else:
                    self._entries[name] = before
                raise

    def _category_id(self, label: str) -> int:
        for category in self._categories:
            if category['name'] == label:
                return category['id']
        category_id = 1 + max((category['id'] for category in self._categories), default=0)
        self._categories.append(dict(id=category_id, name=label, supercategory=''))
        return category_id

    def _write(self, path: Path, finished: bool) -> None:
        texts = [entry.as_text() for entry in self._entries.values() if entry.finished == finished]
        images = ',\n'.join(image for image, _ in texts)
        annotations = ',\n'.join(annotations for _, annotations in texts if annotations)
        write_text(
            path,
            f'{{"info":{{"description":"labels of mmssl demo"}},\n"images":[\n{images}\n],\n'
            f'"annotations":[\n{annotations}\n],\n"categories":{_dumps(self._categories)}}}\n',
        )

    def _read(self, path: Path, finished: bool) -> None:
        from mmssl.data.coco_masks import prepare_masks

        if not path.is_file():
            return
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            prepare_masks(content)
            categories = {int(each['id']): str(each['name']) for each in content['categories']}
            for annotation in content['annotations']:
                annotation.update(id=int(annotation['id']), category_id=int(annotation['category_id']))
                if annotation['category_id'] not in categories:
                    raise ValueError(f'annotation {annotation["id"]} is of no category of the file')
        except (ValueError, KeyError, TypeError) as error:
            raise LabelError(
                f'is no COCO file of masks ({error}); move it, or name another --out', str(path)
            ) from error
        known = {category['id'] for category in self._categories}
        self._categories += [each for each in content['categories'] if int(each['id']) not in known]
        by_id = {
            image['id']: self._entries.setdefault(image['file_name'], _Entry(image, finished=finished))
            for image in content['images']
        }
        for annotation in content['annotations']:
            entry = by_id[annotation['image_id']]
            if entry.finished == finished:
                entry.annotations.append(annotation)


def class_name(text: str) -> str:
    """Return the name of a class without spaces around it.

    Raises:
        ValueError: It is empty or too long.
    """
    name = ' '.join(text.split())
    if not name:
        raise ValueError('the class has no name; type one')
    if len(name) > _LONGEST_CLASS:
        raise ValueError(f'a class name of {len(name)} characters; at most {_LONGEST_CLASS} are allowed')
    return name


def _dumps(content: object) -> str:
    return json.dumps(content, separators=(',', ':'), ensure_ascii=False)
