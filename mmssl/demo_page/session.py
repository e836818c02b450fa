"""What one visitor of the page has done: an image, encoded once, prompts on it and the masks they give. Knows nothing of the page."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODES = ('object', 'background', 'box')


class Busy:
    """One computation at a time on the models that all visitors share."""

    def __init__(self):
        self._lock = threading.Lock()

    def __call__(self, work: Callable, *arguments) -> tuple[Any, float]:
        """Result of ``work(*arguments)`` and the seconds it took, waiting left out."""
        with self._lock:
            start = time.perf_counter()
            return work(*arguments), time.perf_counter() - start


class Session:
    """One image of one visitor.

    Args:
        model: a :class:`mmssl.promptable.Sam`.
        generator: arguments of ``SamAutomaticMaskGenerator``.
        busy: what visitors wait for.
        cache_dir: of embeddings; None for none.
    """

    def __init__(
        self,
        model,
        generator: dict | None = None,
        busy: Busy | None = None,
        cache_dir: str | Path | None = None,
    ):
        from mmssl.promptable import SamPredictor

        self.predictor = SamPredictor(model, cache_dir=cache_dir)
        self.generator, self.busy = dict(generator or {}), busy or Busy()
        self.name, self.note = '', ''
        self.image: np.ndarray | None = None
        self.clear()

    def open(self, path: str | Path, name: str | None = None, max_pixels: int | None = None) -> None:
        """Read an image and encode it.

        Args:
            path: of the file.
            name: as the visitor knows it.
            max_pixels: more are refused by the header of the file.

        Raises:
            BadImageError: no image, or a broken one.
            ValueError: more pixels.
        """
        from mmssl.commands.prompting import read_rgb
        from mmssl.data.images import open_image

        header = open_image(str(path))
        if max_pixels is not None and header.width * header.height > max_pixels:
            raise ValueError(
                f'{name or Path(path).name} has {header.width}x{header.height} pixels, and this page takes '
                f'{max_pixels / 1e6:g} million; make it smaller, or start the page with --max-pixels'
            )
        image = read_rgb(path)
        _, seconds = self.busy(self.predictor.set_image, image)
        self.name, self.image = Path(name or path).name, image
        self.clear()
        self.note = f'{self.name}: {image.shape[1]} x {image.shape[0]} pixels, encoded in {seconds:.1f} s'

    def clear_all(self) -> None:
        """As :meth:`clear`, and says so."""
        self._need_image()
        self.clear()
        self.note = 'cleared'

    def clear(self) -> None:
        """Forget the prompts and masks, not the image."""
        self.actions: list[tuple[str, float, float]] = []
        self.records: list[dict] = []
        self.masks: np.ndarray = np.zeros((0, 1, 1), dtype=bool)
        self.scores: list[float] = []
        self.chosen, self.everything = 0, False

    @property
    def prompts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[float, float] | None]:
        """Points (N, 2), labels (N,), the last whole box (4,) or None, and the corner of a box that waits for its second or None."""
        points = [(x, y, int(mode == 'object')) for mode, x, y in self.actions if mode != 'box']
        corners = [(x, y) for mode, x, y in self.actions if mode == 'box']
        waiting = corners.pop() if len(corners) % 2 else None
        box = None
        if corners:
            (x1, y1), (x2, y2) = corners[-2:]
            box = np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], dtype=float)
        table = np.array(points, dtype=float).reshape(-1, 3)
        return table[:, :2], table[:, 2].astype(int), box, waiting

    def click(self, x: float, y: float, mode: str) -> None:
        """Add a point, or a corner of a box, at a pixel, and segment.

        Raises:
            ValueError: no image; a click outside; a box without area.
        """
        height, width = self._need_image().shape[:2]
        if mode not in MODES:
            raise ValueError(f'mode {mode!r}; one of {", ".join(MODES)}')
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f'({x:g}, {y:g}) is outside of the image of {width} x {height} pixels')
        if self.everything:
            self.clear()
        waiting = self.prompts[3]
        if mode == 'box' and waiting is not None and (waiting[0] == x or waiting[1] == y):
            raise ValueError('a box without area; click its opposite corner')
        self.actions.append((mode, float(x), float(y)))
        self._segment()

    def undo(self) -> None:
        """Take the last click back."""
        self._need_image()
        if self.everything:
            self.clear()
        elif self.actions:
            self.actions.pop()
            self._segment()

    def _segment(self) -> None:
        points, labels, box, waiting = self.prompts
        self.records, self.masks, self.scores, self.chosen = [], self.masks[:0], [], 0
        if waiting is not None and not len(points) and box is None:
            self.note = 'now the opposite corner of the box'
            return
        if box is None and not labels.any():
            self.note = 'click on the object first' if len(points) else ''
            return
        several = len(points) == 1 and box is None
        (masks, scores, _), seconds = self.busy(
            lambda: self.predictor.predict(
                points if len(points) else None,
                labels if len(points) else None,
                box,
                multimask_output=several,
            )
        )
        order = np.argsort(-scores, kind='stable')
        self.masks, self.scores = masks[order].astype(bool), [float(scores[number]) for number in order]
        self.note = f'{len(self.masks)} mask{"s" * (len(self.masks) > 1)} in {1000 * seconds:.0f} ms'
        if waiting is not None:
            self.note += '; now the opposite corner of the box'

    def choose(self, number: int) -> None:
        """Show the mask of this place in the order of scores."""
        if not 0 <= number < len(self.masks):
            raise ValueError(f'mask {number + 1} of {len(self.masks)}')
        self.chosen, self.records = number, []

    def segment_everything(self) -> None:
        """All masks of the image, from its embedding and, for crops, the image."""
        from mmssl.promptable import SamAutomaticMaskGenerator

        self._need_image()
        predictor = self.predictor
        generator = SamAutomaticMaskGenerator(predictor.model, **self.generator, output_mode='coco_rle')
        if generator.crop_n_layers:
            records, seconds = self.busy(generator.generate, self.image)
        else:
            records, seconds = self.busy(
                generator.generate_encoded, predictor.features, predictor.input_size, predictor.original_size
            )
        self.clear()
        self.records, self.everything = records, True
        self.note = (
            f'{len(records)} mask{"s" * (len(records) != 1)} in {seconds:.1f} s'
            + '; nothing passed the filters' * (not records)
        )

    def label(
        self,
        detect: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]],
        least: float = 0.5,
    ) -> None:
        """Name masks by the detection whose box overlaps theirs most.

        Args:
            detect: image (H, W, 3) RGB to boxes (N, 4), labels (N,), scores (N,) and names of the classes.
            least: IoU of the boxes.
        """
        records = self.found()
        if not records:
            raise ValueError('no masks to name yet: click on an object, or ask for all masks')
        (boxes, labels, scores, names), seconds = self.busy(detect, self.image)
        named = 0
        for record in records:
            x, y, width, height = record['bbox']
            overlap = _iou(np.array([x, y, x + width, y + height], dtype=float), boxes)
            best = int(overlap.argmax()) if len(overlap) else 0
            record.pop('label', None)
            if len(overlap) and overlap[best] >= least:
                record.update(label=names[int(labels[best])], label_score=float(scores[best]))
                named += 1
        self.records = records
        self.note = f'{named} of {len(records)} masks named in {seconds:.1f} s'

    def found(self) -> list[dict]:
        """The masks that would be downloaded, as the generator's records; of prompts, the one that is chosen."""
        if self.records or self.everything or not len(self.masks):
            return self.records
        from mmssl.promptable.annotations import encode

        mask = self.masks[self.chosen]
        if mask.any():
            self.records = [dict(encode(mask), predicted_iou=self.scores[self.chosen])]
        return self.records

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8: the image with masks and prompts over it."""
        from mmssl.visualization.promptable import draw_prompts, overlay_codes, overlay_masks

        picture = self._need_image()
        if self.everything:
            return self._named(overlay_codes(picture, [record['segmentation'] for record in self.records]))
        if len(self.masks):
            picture = overlay_masks(picture, self.masks[self.chosen][None], [(30, 144, 255)])
        points, labels, box, waiting = self.prompts
        picture = draw_prompts(picture, points, labels, None if box is None else box[None])
        if waiting is not None:
            x, y = waiting
            reach = max(picture.shape[:2]) / 60
            picture = draw_prompts(picture, boxes=np.array([[x - reach, y - reach, x + reach, y + reach]]))
        return self._named(picture)

    def _named(self, image: np.ndarray) -> np.ndarray:
        from mmssl.visualization.promptable import draw_numbers

        named = [record for record in self.records if 'label' in record]
        if not named:
            return image
        places = [
            (record['bbox'][0] + record['bbox'][2] / 2, record['bbox'][1] + record['bbox'][3] / 2)
            for record in named
        ]
        return draw_numbers(image, places, [record['label'] for record in named])

    def save_masks(self, folder: str | Path) -> Path:
        """Write NAME_masks.png: 16-bit numbers of the masks from 1 on, large ones below small ones, 0 where there is none.

        Raises:
            ValueError: no masks.
        """
        from PIL import Image
        from pycocotools import mask as coco

        records = self._need_masks()
        numbers = np.zeros(self._need_image().shape[:2], dtype=np.uint16)
        for number in sorted(range(len(records)), key=lambda number: -records[number]['area']):
            numbers[coco.decode(records[number]['segmentation']).astype(bool)] = number + 1
        path = Path(folder) / f'{Path(self.name).stem}_masks.png'
        if len(records) == 1:
            Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(path)
        else:
            Image.fromarray(numbers).save(path)
        return path

    def save_coco(self, folder: str | Path) -> Path:
        """Write NAME_coco.json: the masks as run lengths, with scores, and the classes of a detector where there are some.

        Raises:
            ValueError: no masks.
        """
        from mmssl.promptable.annotations import coco_content, write_json

        records = self._need_masks()
        height, width = self._need_image().shape[:2]
        image = dict(id=1, file_name=self.name, width=width, height=height)
        content = coco_content(
            [image],
            [
                dict(
                    image_id=1, **{key: value for key, value in record.items() if not key.startswith('label')}
                )
                for record in records
            ],
        )
        names = sorted({record['label'] for record in records if 'label' in record})
        if names:
            first = len(content['categories']) + 1
            content['categories'] = [
                *content['categories'],
                *(dict(id=first + number, name=name) for number, name in enumerate(names)),
            ]
            for annotation, record in zip(content['annotations'], records, strict=True):
                if 'label' in record:
                    annotation.update(
                        category_id=first + names.index(record['label']), score=record['label_score']
                    )
        path = Path(folder) / f'{Path(self.name).stem}_coco.json'
        write_json(path, content)
        return path

    def _need_image(self) -> np.ndarray:
        if self.image is None:
            raise ValueError('no image yet: choose one')
        return self.image

    def _need_masks(self) -> list[dict]:
        self._need_image()
        records = self.found()
        if not records:
            raise ValueError('no masks yet: click on an object, or ask for all masks')
        return records


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with boxes (N, 4), left, top, right, bottom."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(min=0).prod(1)
    return shared / np.maximum(
        (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared, 1e-9
    )
