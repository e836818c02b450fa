"""State of a visitor of the page: an image, encoded once, its prompts and their masks."""

import copy
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmssl.demo_page.detector import Detect, box_ious
from mmssl.demo_page.mask_files import coco_content_of, index_image
from mmssl.demo_page.overlay import jpeg_of

if TYPE_CHECKING:
    from mmssl.data.pictures import PictureSettings

MODES = ('object', 'background')
# sides of a box in pixels
MIN_SIDE = 1


class Busy:
    """Lock of the models that all visitors share: one computation at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, function: Callable, *arguments: Any) -> tuple[Any, float]:
        """Return the result of ``function(*arguments)`` and its seconds, without those of waiting."""
        with self._lock:
            start = time.perf_counter()
            return function(*arguments), time.perf_counter() - start


class Prompts(NamedTuple):
    """Points (N, 2), labels (N,) and the last box (4,) or None."""

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None


def check_size(
    path: str | Path, name: str, max_pixels: int | None, pictures: 'PictureSettings | None' = None
) -> None:
    """Check the size of an image by its header.

    Raises:
        BadImageError: The file is not an image.
        ValueError: The image is too large.
    """
    from mmssl.data.pictures import PictureSettings, picture_size

    width, height = picture_size(path, pictures or PictureSettings())
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(
            f'{name} has {width}x{height} pixels, and this page takes {max_pixels / 1e6:g} '
            'million; '
            'make it smaller, or start the page with --max-pixels'
        )


class Session:
    """One image of one visitor.

    Args:
        model: A :class:`mmssl.promptable.Sam`.
        generator: Arguments of ``SamAutomaticMaskGenerator``.
        busy: Lock of the model.
        cache_dir: Folder for embeddings of images; None for no cache.
        pictures: How images that are not 8-bit RGB are shown.

    Attributes:
        image: (H, W, 3) uint8, RGB; None before the first image.
        jpeg: The image as it is sent to the browser.
        note: What happened last, in words.
        masks: (N, H, W) bool, the masks of the prompts, best first.
        scores: Their predicted IoU.
        chosen: Index of the mask that is shown.
        records: The masks to download, as records of the generator.
        everything: True if ``records`` are all masks of the image.
    """

    def __init__(
        self,
        model: Any,
        generator: dict | None = None,
        busy: Busy | None = None,
        cache_dir: str | Path | None = None,
        pictures: 'PictureSettings | None' = None,
    ):
        from mmssl.promptable import SamPredictor

        self.predictor = SamPredictor(model, cache_dir=cache_dir)
        self.generator = dict(generator or {})
        self.pictures = pictures
        self.busy = busy or Busy()
        self.name = ''
        self.note = ''
        self.image: np.ndarray | None = None
        self.jpeg = b''
        self.clear()

    def copy(self) -> 'Session':
        """Return a session with the same image and prompts, which is changed independently."""
        twin = copy.copy(self)
        twin.predictor = copy.copy(self.predictor)
        twin.actions = list(self.actions)
        twin.records = [dict(record) for record in self.records]
        return twin

    def open(self, path: str | Path, name: str | None = None, max_pixels: int | None = None) -> None:
        """Read an image and encode it.

        Args:
            path: The file.
            name: Its name as the visitor knows it.
            max_pixels: Largest image to accept, by the header of the file.

        Raises:
            BadImageError: The file is not an image, or a broken one.
            ValueError: The image is too large.
        """
        from mmssl.data.pictures import read_rgb

        check_size(path, name or Path(path).name, max_pixels, self.pictures)
        image = read_rgb(path, self.pictures)
        _, seconds = self.busy(self.predictor.set_image, image)
        self.name = Path(name or path).name
        self.image = image
        self.jpeg = jpeg_of(image)
        self.clear()
        self.note = f'{self.name}: {image.shape[1]} x {image.shape[0]} pixels, encoded in {seconds:.1f} s'

    def clear_all(self) -> None:
        """Do what :meth:`clear` does, and say so."""
        self.require_image()
        self.clear()
        self.note = 'cleared'

    def clear(self) -> None:
        """Forget prompts and masks, but not the image."""
        # ('object' or 'background', (x, y)), or ('box', (x1, y1, x2, y2))
        self.actions: list[tuple[str, tuple[float, ...]]] = []
        self.everything = False
        self._forget_masks()

    def _forget_masks(self) -> None:
        self.records: list[dict] = []
        self.masks: np.ndarray = np.zeros((0, 1, 1), dtype=bool)
        self.scores: list[float] = []
        self.chosen = 0

    @property
    def prompts(self) -> Prompts:
        """The prompts that the clicks and boxes so far add up to."""
        points = [(*coords, mode == 'object') for mode, coords in self.actions if mode != 'box']
        boxes = [coords for mode, coords in self.actions if mode == 'box']
        table = np.array(points, dtype=float).reshape(-1, 3)
        box = np.array(boxes[-1]) if boxes else None
        return Prompts(table[:, :2], table[:, 2].astype(int), box)

    def click(self, x: float, y: float, mode: str) -> None:
        """Add a point at a pixel and segment.

        Args:
            x: Column, from 0 up to the width.
            y: Row, from 0 up to the height.
            mode: 'object' or 'background'.

        Raises:
            ValueError: There is no image, or the click is outside of it.
        """
        self._check_inside(x, y)
        if mode not in MODES:
            raise ValueError(f'mode {mode!r}; one of {", ".join(MODES)}')
        self._act(mode, (float(x), float(y)))

    def draw_box(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Add a box by two opposite corners, in place of an earlier one, and segment.

        Raises:
            ValueError: There is no image, a corner is outside of it, or the box has no area.
        """
        self._check_inside(x1, y1)
        self._check_inside(x2, y2)
        if min(abs(x1 - x2), abs(y1 - y2)) < MIN_SIDE:
            raise ValueError('a box without area; draw it from one corner to the opposite one')
        self._act('box', (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))

    def _check_inside(self, x: float, y: float) -> None:
        height, width = self.require_image().shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f'({x:g}, {y:g}) is outside of the image of {width} x {height} pixels')

    def _act(self, mode: str, coords: tuple[float, ...]) -> None:
        if self.everything:
            self.clear()
        self.actions.append((mode, coords))
        self._segment()

    def undo(self) -> None:
        """Take the last click or box back."""
        self.require_image()
        if self.everything:
            self.clear()
            self.note = ''
        elif self.actions:
            self.actions.pop()
            self._segment()

    def _segment(self) -> None:
        points, labels, box = self.prompts
        self._forget_masks()
        if box is None and not labels.any():
            self.note = 'click on the object first' if len(points) else ''
            return
        (masks, scores, _), seconds = self.busy(
            lambda: self.predictor.predict(
                points if len(points) else None,
                labels if len(points) else None,
                box,
                multimask_output=len(points) == 1 and box is None,
            )
        )
        order = np.argsort(-scores, kind='stable')
        self.masks = masks[order].astype(bool)
        self.scores = [float(score) for score in scores[order]]
        self.note = f'{_count(len(self.masks))} in {1000 * seconds:.0f} ms'

    def choose(self, index: int) -> None:
        """Show another mask, by its index in the order of scores."""
        if not 0 <= index < len(self.masks):
            raise ValueError(f'mask {index + 1} of {len(self.masks)}')
        self.chosen = index
        self.records = []

    def segment_everything(self) -> None:
        """Generate all masks of the image, from its embedding unless crops need the image."""
        from mmssl.promptable import SamAutomaticMaskGenerator

        self.require_image()
        predictor = self.predictor
        generator = SamAutomaticMaskGenerator(predictor.model, **self.generator, output_mode='coco_rle')
        if generator.crop_n_layers:
            records, seconds = self.busy(generator.generate, self.image)
        else:
            records, seconds = self.busy(
                generator.generate_encoded, predictor.features, predictor.input_size, predictor.original_size
            )
        self.clear()
        self.records = records
        self.everything = True
        hint = '' if records else '; nothing passed the filters'
        self.note = f'{_count(len(records))} in {seconds:.1f} s{hint}'

    def label(self, detect: Detect, min_iou: float = 0.5) -> None:
        """Name each mask by the detection whose box overlaps its own most.

        Args:
            detect: Detector.
            min_iou: Smallest IoU of the boxes.

        Raises:
            ValueError: There are no masks.
        """
        records = self.current_records()
        if not records:
            raise ValueError('no masks to name yet: click on an object, or ask for all masks')
        detections, seconds = self.busy(detect, self.image)
        boxes, labels, scores, names = detections
        named = 0
        for record in records:
            record.pop('label', None)
            x, y, width, height = record['bbox']
            ious = box_ious(np.array([x, y, x + width, y + height], dtype=float), boxes)
            if len(ious) and ious.max() >= min_iou:
                best = int(ious.argmax())
                record.update(label=names[int(labels[best])], label_score=float(scores[best]))
                named += 1
        self.records = records
        self.note = f'{named} of {len(records)} masks named in {seconds:.1f} s'

    def current_records(self) -> list[dict]:
        """Return the masks to download: all of the image, or the chosen one of the prompts."""
        if self.records or self.everything or not len(self.masks):
            return self.records
        from mmssl.data.annotations import encode

        mask = self.masks[self.chosen]
        if mask.any():
            self.records = [dict(encode(mask), predicted_iou=self.scores[self.chosen])]
        return self.records

    def masks_png(self) -> bytes:
        """Return the file NAME_masks.png, see :func:`mmssl.demo_page.mask_files.index_image`.

        Raises:
            ValueError: There are no masks.
        """
        return index_image(self._require_masks(), self.require_image().shape[:2])

    def coco_content(self) -> dict:
        """Return the content of NAME_coco.json: run lengths with scores, and classes if they were named.

        Raises:
            ValueError: There are no masks.
        """
        return coco_content_of(self._require_masks(), self.name, self.require_image().shape[:2])

    def require_image(self) -> np.ndarray:
        """Return the image.

        Raises:
            ValueError: There is none yet.
        """
        if self.image is None:
            raise ValueError('no image yet: open one')
        return self.image

    def _require_masks(self) -> list[dict]:
        self.require_image()
        records = self.current_records()
        if not records:
            raise ValueError('no masks yet: click on an object, or ask for all masks')
        return records


def _count(masks: int) -> str:
    return '1 mask' if masks == 1 else f'{masks} masks'
