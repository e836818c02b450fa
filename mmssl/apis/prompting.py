"""Masks of images from points and boxes, or of everything in them."""

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.apis.base import Inferencer, Source, find_sources, pick_device, read_rgb, write_picture

PROMPTS = ('points', 'labels', 'boxes')


class PromptInferencer(Inferencer):
    """Masks by Segment Anything: of prompted objects, or of everything.

    Args:
        config: 'vit_b', 'vit_l', 'vit_h', 'vit_t'; a name of ``list_models(system='promptable')``; or the
            path of a config.
        checkpoint: released file in the official names, or of a training of ours; random when None.
        device: 'cpu', 'cuda:0', ...; a GPU where there is one when None.
        trust: load a checkpoint that holds pickled code.
        multimask: give all three masks of a prompted object, not the best.
        **generator: settings of the automatic masks, as :class:`mmssl.promptable.SamAutomaticMaskGenerator`
        takes them
            (``points_per_side=16``), and ``tile`` for large images.

    Results:
        'annotations', a record a mask as in ``mmssl segment``'s COCO file: 'segmentation' (compressed run
        lengths), 'bbox', 'area', 'predicted_iou', ...; with prompts also 'masks' (M, H, W) bool and 'scores'
        (M,), in the order of the objects.

    Examples:
        >>> from mmssl.apis import PromptInferencer
        >>> infer = PromptInferencer('vit_b', 'sam_vit_b_01ec64.pth')
        >>> infer('street.jpg', prompts=dict(points=[(320, 200), (40, 30)], labels=[1, 0]))[0]['masks']
        >>> infer('photos/', out_dir='masks')  # everything in every image
    """

    def __init__(
        self, config, checkpoint=None, device=None, trust: bool = False, multimask: bool = False, **generator
    ):
        import warnings

        from mmengine.config import Config

        from mmssl.apis.models import Entry, find_entry, find_weights, scope_of
        from mmssl.commands.prompting import RANDOM, load_sam, make_generator
        from mmssl.hints import nearest
        from mmssl.promptable.build import KINDS

        if not isinstance(config, (str, os.PathLike)):
            raise TypeError(
                f'a config of type {type(config).__name__}; give one of {", ".join(KINDS)}, a name of '
                "mmssl.apis.list_models(system='promptable'), or a path"
            )
        self.device, self.multimask = pick_device(device), multimask
        near = nearest(str(config), KINDS)
        if near and config not in KINDS:
            raise ValueError(f'no model {str(config)!r}{near}')
        entry = None if config in KINDS else find_entry(config)
        if checkpoint is True and entry is None:
            raise ValueError(
                f"{config}'s weights are Meta's or MobileSAM's release: download the file and give its path"
            )
        path = find_weights(checkpoint, entry or Entry(str(config), Path(config), 'promptable', None))
        if path is None:
            warnings.warn(f'{config} runs with random weights: no checkpoint was given', stacklevel=2)
        self.cfg = Config(dict(default_scope='mmpretrain'))
        with scope_of(self.cfg):
            try:
                self.model = load_sam(
                    str(config if entry is None else entry.path), path or RANDOM, trust=trust
                )
            except ValueError as error:
                raise ValueError(str(error).replace('--model ', '')) from error
        self.model.to(self.device)
        self.generator = make_generator(self.model, generator)

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
        prompts: Mapping | Sequence[Mapping | None] | None = None,
    ) -> list[dict]:
        """Masks of images, in their order.

        Args:
            inputs, out_dir, image_format, progress: as of the other inferencers; masks are also written as
                ``masks/NAME/000.png``.
            batch_size: images are encoded one by one whatever it is; how many points are decoded at once is
                the generator's ``points_per_batch``.
            prompts: a dict for all images, or a list of one an image (None in it: everything in that image);
                None: everything in all. 'points' [(x, y), ...] with 'labels' [1 or 0, ...] are about one
                object; 'boxes' [(x1, y1, x2, y2), ...] are an object each, and points refine a single one.
                Pixels of the image.

        Raises:
            ValueError: also prompts that are malformed or outside of an image.
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
        """As calling it, one result after the other."""
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size={batch_size!r} must be a whole number above 0')
        sources = find_sources(inputs, image_format)
        given = [prompts] * len(sources) if prompts is None or isinstance(prompts, Mapping) else list(prompts)
        if len(given) != len(sources):
            raise ValueError(
                f'{len(given)} prompts for {len(sources)} images; give a dict for all of them, or one an image'
            )
        objects = [None if one is None else objects_of(one) for one in given]
        return self._results(
            sources, 1, None if out_dir is None else Path(out_dir), progress, objects=objects
        )

    def predict(
        self, sources: Sequence[Source], files: Sequence[Path], objects: Sequence = (), **options
    ) -> list[dict]:
        """See the class."""
        from mmssl.commands.segment import Prompted
        from mmssl.promptable.annotations import coco_masks

        results: list[dict] = []
        for source, file in zip(sources, files, strict=True):
            pixels, wanted = read_rgb(file), objects[source.number]
            if wanted is None:
                records = sorted(self.generator.generate(pixels), key=lambda record: -record['predicted_iou'])
                results.append({'annotations': records})
                continue
            settings = Namespace(cache_dir=None, multimask=self.multimask, mask=None)
            try:
                records = Prompted(self.model, wanted, settings)(pixels, file)
            except ValueError as error:
                raise ValueError(f'{source.path or source.name}: {error}') from error
            masks = [coco_masks().decode(record['segmentation']).astype(bool) for record in records]
            scores = np.array([record['predicted_iou'] for record in records])
            results.append({'annotations': records, 'masks': np.stack(masks), 'scores': scores})
        return results

    def in_json(self, result: dict) -> dict:
        """Run lengths, not pixels."""
        return {key: value for key, value in result.items() if key != 'masks'}

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """A PNG file a mask, and the masks with the prompts over the image."""
        from PIL import Image

        from mmssl.promptable.annotations import coco_masks
        from mmssl.visualization.promptable import draw_prompts, overlay_codes

        records = result['annotations']
        for number, record in enumerate(records):
            mask = Image.fromarray(coco_masks().decode(record['segmentation']) * 255)
            write_picture(mask, folder / 'masks' / source.name / f'{number:03d}.png')
        picture = overlay_codes(read_rgb(file), [record['segmentation'] for record in records])
        if 'masks' in result:
            first = {record['object']: record for record in records}.values()
            points, labels = (
                np.array([item for record in first for item in record.get(key, [])])
                for key in ('point_coords', 'point_labels')
            )
            boxes = np.array([record['box'] for record in first if 'box' in record])
            picture = draw_prompts(picture, points if len(points) else None, labels, boxes)
        write_picture(Image.fromarray(picture), folder / 'pictures' / f'{source.name}.png')


def objects_of(prompt: Mapping) -> list[dict]:
    """Objects with 'points', 'labels' and 'box', as ``mmssl segment`` has them.

    Raises:
        TypeError: no dict.
        ValueError: unknown keys, nothing to segment by, points and labels of different lengths, several boxes
            with points.
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
    points, boxes = (_rows(prompt.get(key), width, key) for key, width in (('points', 2), ('boxes', 4)))
    labels = prompt.get('labels')
    labels = [1] * len(points) if labels is None else [int(label) for label in np.asarray(labels).reshape(-1)]
    if len(labels) != len(points):
        raise ValueError(
            f'{len(labels)} labels for {len(points)} points; each has one, 1 on the object, 0 beside it'
        )
    if len(boxes) > 1 and points:
        raise ValueError(f'points refine a single box, and there are {len(boxes)}; give a prompt an object')
    if not points and not boxes:
        raise ValueError('a prompt without points and boxes; None in its place segments everything')
    if len(boxes) > 1:
        return [dict(points=[], labels=[], box=box) for box in boxes]
    return [dict(points=points, labels=labels, box=boxes[0] if boxes else [])]


def _rows(value: Any, width: int, what: str) -> list[list[float]]:
    if value is None or len(value) == 0:
        return []
    rows = np.asarray(value, dtype=float)
    rows = rows[None] if rows.shape == (width,) else rows
    if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
        raise ValueError(f'{what} of shape {rows.shape}; give (N, {width}) numbers in pixels of the image')
    return rows.tolist()
