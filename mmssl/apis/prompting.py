"""Masks in images from points and boxes, or of everything in them."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.apis.base import Inferencer, Source, check_batch_size
from mmssl.apis.loading import pick_device
from mmssl.apis.sam import load_sam, make_generator
from mmssl.apis.segmenters import PromptedSegmenter
from mmssl.apis.sources import find_sources
from mmssl.config import RANDOM

if TYPE_CHECKING:
    from mmssl.data.pictures import PictureSettings

PROMPTS = ('points', 'labels', 'boxes')


class PromptInferencer(Inferencer):
    """Segment prompted objects, or everything, with Segment Anything.

    Args:
        config: 'sam-mini', a small model in the package; 'vit_b', 'vit_l', 'vit_h', 'vit_t'; a name of
            ``list_models(system='promptable')``; or the path of a config.
        checkpoint: File in the official names, or written by a training run; 'auto' for the released file,
            which is downloaded. None: that of 'sam-mini', random weights for other models.
        device: 'cpu', 'cuda:0', ...; a GPU if there is one when None.
        trust: Load a checkpoint that contains pickled code.
        multimask: Return all three masks of a prompted object, not only the best.
        pictures: How images that are not 8-bit RGB are read, such as
            ``PictureSettings(value_range=(0, 4095), page=0)`` of :mod:`mmssl.data.pictures`. As the config
            says, if None.
        **generator: Settings of the automatic masks, passed on to
            :class:`mmssl.promptable.SamAutomaticMaskGenerator` (``points_per_side=16``), and ``tile`` for
            large images.

    Results:
        'annotations', one record per mask as in the COCO file of ``mmssl segment``: 'segmentation'
        (compressed run lengths), 'bbox', 'area', 'predicted_iou', ...; with prompts also 'masks' (M, H, W)
        bool and 'scores' (M,), in the order of the objects.

    Examples:
        >>> from mmssl.apis import PromptInferencer
        >>> infer = PromptInferencer('vit_b', 'sam_vit_b_01ec64.pth')
        >>> infer('street.jpg', prompts=dict(points=[(320, 200), (40, 30)], labels=[1, 0]))[0]['masks']
        >>> infer('photos/', out_dir='masks')  # everything in every image
    """

    def __init__(
        self,
        config: str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: Any = None,
        trust: bool = False,
        multimask: bool = False,
        pictures: 'PictureSettings | None' = None,
        **generator: Any,
    ):
        from mmengine.config import Config

        from mmssl.apis.models import scope_of
        from mmssl.layers.input_channels import input_channels

        self.device = pick_device(device)
        self.multimask = multimask
        name, path = _find_model(config, checkpoint)
        self.pictures = pictures or _settings_of(name)
        if path is None:
            warnings.warn(f'{config} runs with random weights: no checkpoint was given', stacklevel=2)
        self.cfg = Config(dict(default_scope='mmpretrain'))
        with scope_of(self.cfg):
            self.model = load_sam(name, path or RANDOM, trust=trust)
        self.model.to(self.device)
        self.channels = input_channels(self.model.image_encoder)
        self.generator = make_generator(self.model, {**_automatic_settings(config, checkpoint), **generator})

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
        prompts: Mapping | Sequence[Mapping | None] | None = None,
    ) -> list[dict]:
        """Return the masks of images, in their order.

        Args:
            inputs: As for the other inferencers.
            batch_size: Has no effect: images are encoded one by one, and ``points_per_batch`` of the
                generator sets how many points are decoded at once.
            out_dir: As for the other inferencers; masks are also written as ``masks/NAME/000.png``.
            image_format: As for the other inferencers.
            progress: As for the other inferencers.
            prompts: A dict for all images, or a list with one entry per image, where None segments everything
                in that image; None for everything in all images. 'points' [(x, y), ...] with 'labels' [1 or
                0, ...] describe a single object; each of 'boxes' [(x1, y1, x2, y2), ...] is an object, and
                points refine a single box. All in pixels of the image.

        Raises:
            ValueError: Also for prompts that are malformed or outside an image.
        """
        return list(self.stream(inputs, batch_size, out_dir, image_format, progress, prompts))

    def stream(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
        prompts: Mapping | Sequence[Mapping | None] | None = None,
    ) -> Iterator[dict]:
        """Yield the results one after the other.

        Args:
            inputs: As for calling the inferencer.
            batch_size: As for calling the inferencer.
            out_dir: As for calling the inferencer.
            image_format: As for calling the inferencer.
            progress: As for calling the inferencer.
            prompts: As for calling the inferencer.
        """
        check_batch_size(batch_size)
        sources = find_sources(inputs, image_format)
        if prompts is None or isinstance(prompts, Mapping):
            prompts = [prompts] * len(sources)
        if len(prompts) != len(sources):
            raise ValueError(
                f'{len(prompts)} prompts for {len(sources)} images; give a dict for all of them, or one per '
                'image'
            )
        objects = [None if prompt is None else objects_of(prompt) for prompt in prompts]
        folder = None if out_dir is None else Path(out_dir)
        return self._results(sources, 1, folder, progress, objects=objects)

    def predict(
        self, sources: Sequence[Source], files: Sequence[Path], objects: Sequence = (), **options: Any
    ) -> list[dict]:
        """Segment images; see the class."""
        results: list[dict] = []
        for source, file in zip(sources, files, strict=True):
            pixels = self._read(file)
            prompts = objects[source.input_index]
            if prompts is None:
                records = self.generator.generate(pixels)
                records = sorted(records, key=lambda record: -record['predicted_iou'])
                results.append({'annotations': records})
                continue
            try:
                results.append(self._segment(pixels, prompts))
            except ValueError as error:
                raise ValueError(f'{source.path or source.name}: {error}') from error
        return results

    def _read(self, file: Path) -> np.ndarray:
        """Return an image as the model reads it, (H, W, C) uint8."""
        from mmssl.data.pictures import read_channels, read_rgb

        if self.channels == 3:
            return read_rgb(file, self.pictures)
        return read_channels(file, self.channels, self.pictures)

    def _segment(self, pixels: np.ndarray, prompts: list[dict]) -> dict:
        from mmssl.data.annotations import coco_masks

        records = PromptedSegmenter(self.model, prompts, self.multimask)(pixels)
        masks = [coco_masks().decode(record['segmentation']).astype(bool) for record in records]
        scores = np.array([record['predicted_iou'] for record in records])
        return {'annotations': records, 'masks': np.stack(masks), 'scores': scores}

    def in_json(self, result: dict) -> dict:
        """Leave out the masks, which the annotations contain as run lengths."""
        return {key: value for key, value in result.items() if key != 'masks'}

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """Write one PNG file per mask, and the masks with the prompts over the image."""
        from PIL import Image

        from mmssl.data.annotations import coco_masks
        from mmssl.data.pictures import read_rgb
        from mmssl.visualization.files import write_image
        from mmssl.visualization.promptable import draw_prompts, overlay_rles

        records = result['annotations']
        for index, record in enumerate(records):
            mask = Image.fromarray(coco_masks().decode(record['segmentation']) * 255)
            write_image(mask, folder / 'masks' / source.name / f'{index:03d}.png')
        drawing = overlay_rles(read_rgb(file, self.pictures), [record['segmentation'] for record in records])
        if 'masks' in result:
            by_object = {record['object']: record for record in records}.values()
            points = np.array([point for record in by_object for point in record.get('point_coords', [])])
            labels = np.array([label for record in by_object for label in record.get('point_labels', [])])
            boxes = np.array([record['box'] for record in by_object if 'box' in record])
            drawing = draw_prompts(drawing, points if len(points) else None, labels, boxes)
        write_image(Image.fromarray(drawing), folder / 'pictures' / f'{source.name}.png')


def _settings_of(name: str) -> 'PictureSettings':
    """Return how the images of a config are read; the defaults for the name of a model."""
    from mmssl.config.load import load_config
    from mmssl.data.pictures import PictureSettings, settings_of_config
    from mmssl.data.reader_settings import reader_settings
    from mmssl.promptable.build import KINDS

    return PictureSettings() if name in KINDS else settings_of_config(reader_settings(load_config(name)))


def _automatic_settings(config: Any, checkpoint: Any) -> dict[str, Any]:
    """Return the settings of automatic masks that suit weights in the package; none for others."""
    from mmssl.weights import find_packaged

    packaged = find_packaged(str(config)) if checkpoint in (None, True, 'auto') else None
    return packaged.automatic if packaged else {}


def _find_model(config: Any, checkpoint: Any) -> tuple[str, str | None]:
    """Return the name or path that :func:`mmssl.apis.sam.load_sam` takes, and the checkpoint or None."""
    from mmssl.apis.models import Entry, find_entry, find_weights
    from mmssl.checkpoint.packaged import AUTO, automatic_file
    from mmssl.hints import nearest
    from mmssl.promptable.build import KINDS
    from mmssl.weights import find_packaged

    if not isinstance(config, (str, os.PathLike)):
        raise TypeError(
            f'a config of type {type(config).__name__}; give one of {", ".join(KINDS)}, a name of '
            "mmssl.apis.list_models(system='promptable'), or a path"
        )
    packaged = find_packaged(str(config))
    if checkpoint == AUTO or (packaged is not None and config == packaged.name and checkpoint is None):
        return packaged.config if packaged else str(config), automatic_file(str(config))
    if config in KINDS:
        if checkpoint is True:
            raise ValueError(
                f"{config}'s weights are Meta's or MobileSAM's release: checkpoint='auto' downloads them"
            )
        released = Entry(str(config), Path(config), 'promptable', None)
        return str(config), find_weights(checkpoint, released)
    hint = nearest(str(config), KINDS)
    if hint:
        raise ValueError(f'no model {str(config)!r}{hint}')
    entry = find_entry(config)
    return str(entry.path), find_weights(checkpoint, entry)


def objects_of(prompt: Mapping) -> list[dict]:
    """Split a prompt into objects with 'points', 'labels' and 'box', as PromptedSegmenter takes them.

    Raises:
        TypeError: The prompt is not a dict.
        ValueError: It has unknown keys, nothing to segment by, points and labels of different lengths, or
            several boxes with points.
    """
    from mmssl.hints import nearest

    if not isinstance(prompt, Mapping):
        raise TypeError(
            f'a prompt of type {type(prompt).__name__}; give dict(points=[(x, y)], labels=[1]) or '
            'dict(boxes=[(x1, y1, x2, y2)])'
        )
    for key in prompt:
        if key not in PROMPTS:
            raise ValueError(f'a prompt has no {key!r}{nearest(key, PROMPTS)}; it has {", ".join(PROMPTS)}')
    points = _rows(prompt.get('points'), 2, 'points')
    boxes = _rows(prompt.get('boxes'), 4, 'boxes')
    labels = prompt.get('labels')
    labels = [1] * len(points) if labels is None else [int(label) for label in np.asarray(labels).reshape(-1)]
    if len(labels) != len(points):
        raise ValueError(
            f'{len(labels)} labels for {len(points)} points; each has one, 1 on the object, 0 beside it'
        )
    if len(boxes) > 1 and points:
        raise ValueError(
            f'points refine a single box, and there are {len(boxes)}; give one prompt per object'
        )
    if not points and not boxes:
        raise ValueError('a prompt without points and boxes; give None to segment everything')
    if len(boxes) > 1:
        return [dict(points=[], labels=[], box=box) for box in boxes]
    return [dict(points=points, labels=labels, box=boxes[0] if boxes else [])]


def _rows(value: Any, width: int, name: str) -> list[list[float]]:
    if value is None or len(value) == 0:
        return []
    rows = np.asarray(value, dtype=float)
    rows = rows[None] if rows.shape == (width,) else rows
    if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
        raise ValueError(f'{name} of shape {rows.shape}; give (N, {width}) numbers in pixels of the image')
    return rows.tolist()
