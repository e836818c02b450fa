"""The model of ``mmssl annotate``, of which each process has its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from mmssl.apis.mask_classes import MaskClasses
    from mmssl.apis.mask_prompts import MaskPrompt
    from mmssl.data.annotations import Job
    from mmssl.data.pictures import PictureSettings


class Recipe(NamedTuple):
    """What a process needs: arguments of ``load_sam``, settings of masks and pictures, device, folders.

    Attributes:
        model: As for :func:`mmssl.apis.sam.load_sam`.
        checkpoint: As for :func:`mmssl.apis.sam.load_sam`.
        options: As for :func:`mmssl.apis.sam.load_sam`.
        trust: As for :func:`mmssl.apis.sam.load_sam`.
        settings: Settings of the automatic masks, see :func:`mmssl.apis.sam.make_generator`.
        device: The device.
        overlay: Folder for pictures with masks; None for none.
        cache_dir: Folder for embeddings of images; None for no cache.
        pictures: How images that are not 8-bit RGB are read.
        prompts: Prompts of each image by its name, in place of automatic masks.
        classes: Classifier of the masks; None for masks without classes.
    """

    model: str
    checkpoint: str
    options: tuple
    trust: bool
    settings: dict
    device: str
    overlay: str | None = None
    cache_dir: str | None = None
    pictures: 'PictureSettings | None' = None
    prompts: 'Mapping[str, Sequence[MaskPrompt]] | None' = None
    classes: 'MaskClasses | None' = None

    def build(self, device: str) -> 'Annotator':
        """Return the annotator of a process, with its model on a device."""
        return Annotator(self._replace(device=device))


class Annotator:
    """Segment an image and write the file of its masks.

    Args:
        recipe: The model and the settings of its masks.
    """

    def __init__(self, recipe: Recipe):
        from mmssl.apis.sam import load_sam, make_generator
        from mmssl.apis.segmenters import PromptedSegmenter

        self.recipe = recipe
        model = load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust).to(recipe.device)
        self.generator = make_generator(model, recipe.settings, recipe.cache_dir)
        self.segmenter = PromptedSegmenter(model, [], cache_dir=recipe.cache_dir)
        self.predictor = self.segmenter.predictor

    def __call__(self, job: 'Job') -> 'tuple[Job, int, str | None]':
        """Return the image, the number of its masks, and why it could not be read (else None)."""
        from mmssl.data import annotations
        from mmssl.data.pictures import read_rgb
        from mmssl.errors import BadImageError

        try:
            pixels = read_rgb(job.image, self.recipe.pictures)
        except (BadImageError, OSError) as error:
            return job, 0, str(error)
        if self.recipe.prompts is None:
            records = self._automatic(pixels)
        else:
            records = self._prompted(pixels, self.recipe.prompts.get(job.name, ()))
        if self.recipe.classes is not None:
            self._name(records)
        if self.recipe.overlay:
            self._draw(Path(self.recipe.overlay), job, pixels, records)
        annotations.write_json(job.file, annotations.sa1b_content(job.name, pixels.shape[:2], records))
        return job, len(records), None

    def _automatic(self, pixels: 'np.ndarray') -> list[dict]:
        """Segment everything; with classes, the predictor has the embedding of the whole image afterwards."""
        from mmssl.promptable import SamAutomaticMaskGenerator

        if self.recipe.classes is None:
            return self.generator.generate(pixels)
        self.predictor.set_image(pixels)
        if isinstance(self.generator, SamAutomaticMaskGenerator) and not self.generator.crop_n_layers:
            return self.generator.generate_encoded(
                self.predictor.get_image_embedding(), *self.predictor.sizes()
            )
        return self.generator.generate(pixels)

    def _prompted(self, pixels: 'np.ndarray', prompts: 'Sequence[MaskPrompt]') -> list[dict]:
        """Segment the prompted objects; masks that the prompts have already stay as they are."""
        self.segmenter.objects = [prompt.object for prompt in prompts if not prompt.record]
        predicted = iter(self.segmenter(pixels))
        records = []
        for prompt in prompts:
            record = dict(prompt.record or next(predicted))
            if prompt.category is not None:
                record.update(category=prompt.category, category_score=prompt.score)
            if record['area']:
                records.append(record)
        return records

    def _name(self, records: list[dict]) -> None:
        """Give records without a category the most probable one."""
        from mmssl.apis.mask_classes import features_of
        from mmssl.data.annotations import coco_masks

        classes = self.recipe.classes
        assert classes is not None
        nameless = [record for record in records if 'category' not in record]
        if not nameless:
            return
        masks = [coco_masks().decode(record['segmentation']).astype(bool) for record in nameless]
        scores, labels = classes.probabilities(features_of(self.predictor, masks)).max(1)
        for record, score, label in zip(nameless, scores.tolist(), labels.tolist(), strict=True):
            record.update(category=classes.names[label], category_score=score)

    @staticmethod
    def _draw(folder: Path, job: 'Job', pixels: 'np.ndarray', records: list[dict]) -> None:
        """Draw the masks over the image with their numbers."""
        from PIL import Image

        from mmssl.visualization.files import write_image
        from mmssl.visualization.promptable import draw_texts, overlay_rles

        image = overlay_rles(pixels, [record['segmentation'] for record in records])
        image = draw_texts(image, [_position(record) for record in records], range(1, len(records) + 1))
        write_image(Image.fromarray(image), (folder / job.name).with_suffix('.png'))


def _position(record: dict) -> tuple[float, float]:
    """Return where the number of a mask is drawn: its first point, or else the centre of its box."""
    if record.get('point_coords'):
        x, y = record['point_coords'][0]
        return x, y
    left, top, width, height = record['bbox']
    return left + width / 2, top + height / 2
