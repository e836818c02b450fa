"""Masks of one image after the other: of everything in it, or of prompted objects."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.apis.sam import make_generator

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import nn

# probability of the object at the pixels of a mask prompt, which the model takes as logits
MASK_PROBABILITY = 0.999


class AutomaticSegmenter:
    """Segment everything in an image.

    Args:
        model: A SAM.
        settings: Settings of the generator, see :func:`mmssl.apis.sam.make_generator`.
        cache_dir: Folder for embeddings of images; None for no cache.
        show_progress: Show a progress line for each image, which may take a minute on a CPU.
    """

    def __init__(
        self,
        model: 'nn.Module',
        settings: Mapping,
        cache_dir: str | None = None,
        show_progress: bool = False,
    ):
        from mmssl.layers.input_channels import input_channels

        self.generator = make_generator(model, settings, cache_dir)
        self.channels = input_channels(model.image_encoder)
        self.show_progress = show_progress

    def __call__(self, pixels: 'np.ndarray') -> list[dict]:
        """Return the records of the masks of an image (H, W, 3) RGB, best first."""
        from tqdm import tqdm

        with tqdm(
            desc='decoding', unit='batch', leave=False, dynamic_ncols=True, disable=not self.show_progress
        ) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            records = self.generator.generate(pixels, progress=show)
        return sorted(records, key=lambda record: -record['predicted_iou'])

    def draw(self, pixels: 'np.ndarray', records: Sequence[dict]) -> 'Image.Image':
        """Draw the masks over the image."""
        from PIL import Image

        from mmssl.visualization.promptable import overlay_rles

        return Image.fromarray(overlay_rles(pixels, [record['segmentation'] for record in records]))


class PromptedSegmenter:
    """Segment prompted objects.

    Args:
        model: A SAM.
        objects: Prompts of each object: 'points' (N, 2), 'labels' (N,) and 'box' (4,) as lists, which may be
            empty.
        multimask: Return all three masks of each object, not only the best.
        mask: File with a mask prompt, see :func:`read_mask_prompt`; None for none.
        cache_dir: Folder for embeddings of images; None for no cache.
    """

    def __init__(
        self,
        model: 'nn.Module',
        objects: Sequence[dict],
        multimask: bool = False,
        mask: str | None = None,
        cache_dir: str | None = None,
    ):
        from mmssl.promptable import SamPredictor

        self.predictor = SamPredictor(model, cache_dir)
        self.channels = self.predictor.channels
        self.objects = list(objects)
        self.multimask = multimask
        self.mask = mask

    def __call__(self, pixels: 'np.ndarray') -> list[dict]:
        """Return the records of the masks of an image (H, W, 3) RGB, in the order of the objects."""
        mask = None
        if self.mask is not None:
            mask = read_mask_prompt(self.mask, self.predictor.model, pixels.shape[:2])
        self.predictor.set_image(pixels)
        return [
            record
            for index, prompts in enumerate(self.objects)
            for record in self._segment(index, prompts, mask)
        ]

    def _segment(self, index: int, prompts: dict, mask: 'np.ndarray | None') -> Iterator[dict]:
        import numpy as np

        from mmssl.data.annotations import encode

        points = prompts['points']
        labels = prompts['labels']
        box = prompts['box']
        ambiguous = len(points) == 1 and not box and mask is None
        masks, ious, _ = self.predictor.predict(
            np.array(points) if points else None,
            np.array(labels) if points else None,
            np.array(box) if box else None,
            mask,
            multimask_output=self.multimask or ambiguous,
        )
        for rank in range(len(masks)) if self.multimask else [int(np.argmax(ious))]:
            record = dict(encode(masks[rank]), predicted_iou=float(ious[rank]), object=index + 1)
            if points:
                record.update(point_coords=points, point_labels=labels)
            if box:
                record['box'] = box
            yield record

    def draw(self, pixels: 'np.ndarray', records: Sequence[dict]) -> 'Image.Image':
        """Draw masks and prompts over the image; with ``multimask``, on a sheet of one image per mask."""
        from mmssl.visualization.layout import tile_images

        if not self.multimask or not records:
            return self._draw_masks(pixels, records, self.objects)
        return tile_images(
            [self._draw_masks(pixels, [record], [self.objects[record['object'] - 1]]) for record in records],
            [f'object {record["object"]}, predicted IoU {record["predicted_iou"]:.2f}' for record in records],
        )

    @staticmethod
    def _draw_masks(pixels: 'np.ndarray', records: Sequence[dict], objects: Sequence[dict]) -> 'Image.Image':
        from PIL import Image

        from mmssl.data.colors import class_color
        from mmssl.visualization.promptable import draw_prompts, overlay_rles

        codes = [record['segmentation'] for record in records]
        image = overlay_rles(pixels, codes, [class_color(record['object'] - 1) for record in records])
        points = [point for prompts in objects for point in prompts['points']]
        labels = [label for prompts in objects for label in prompts['labels']]
        boxes = [prompts['box'] for prompts in objects if prompts['box']]
        return Image.fromarray(draw_prompts(image, points or None, labels or None, boxes or None))


def read_mask_prompt(path: str | Path, model: Any, image_size: tuple[int, int]) -> 'np.ndarray':
    """Read a mask as the prompt encoder takes it.

    Args:
        path: An image of the same size as the segmented one, not black on the object; or a .npy file of
            logits (S, S) or (1, S, S), as ``SamPredictor.predict`` returns them.
        model: A SAM, whose mask prompts are S x S.
        image_size: (H, W) of the segmented image.

    Returns:
        (1, S, S) float32 logits.

    Raises:
        ValueError: The mask has another size, or no pixel of it is set.
    """
    size = model.prompt_encoder.mask_input_size[0]
    if str(path).endswith('.npy'):
        return _read_logits(path, size)
    import cv2
    import numpy as np

    from mmssl.data.images import read_rgb

    mask = read_rgb(path).any(2)
    if mask.shape != tuple(image_size):
        raise ValueError(
            f'mask {path} is {mask.shape[1]}x{mask.shape[0]} and the image {image_size[1]}x{image_size[0]} '
            'pixels '
            '(width x height); give it at the size of the image'
        )
    if not mask.any():
        raise ValueError(f'mask {path} is black; it must not be black on the object')
    height, width = (max(1, int(edge * size / max(image_size) + 0.5)) for edge in image_size)
    covered = np.zeros((size, size))
    covered[:height, :width] = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    probability = covered.clip(1 - MASK_PROBABILITY, MASK_PROBABILITY)
    return np.log(probability / (1 - probability)).astype(np.float32)[None]


def _read_logits(path: str | Path, size: int) -> 'np.ndarray':
    import numpy as np

    try:
        logits = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f'mask {path} is no array of numbers: {error}') from None
    if logits.shape not in ((size, size), (1, size, size)) or logits.dtype.kind != 'f':
        raise ValueError(
            f'mask {path} holds {logits.dtype} of shape {logits.shape}; logits of this model are float of '
            'shape '
            f'(1, {size}, {size})'
        )
    return logits.reshape(1, size, size).astype(np.float32)
