"""The model of ``mmssl annotate``, of which each process has its own."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from mmssl.data.annotations import Job
    from mmssl.data.pictures import PictureSettings


class Recipe(NamedTuple):
    """What a process needs: arguments of ``load_sam``, settings of masks and pictures, device, folders."""

    model: str
    checkpoint: str
    options: tuple
    trust: bool
    settings: dict
    device: str
    overlay: str | None
    cache_dir: str | None = None
    pictures: 'PictureSettings | None' = None

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

        model = load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust).to(recipe.device)
        self.generator = make_generator(model, recipe.settings, recipe.cache_dir)
        self.overlay = recipe.overlay
        self.pictures = recipe.pictures

    def __call__(self, job: 'Job') -> tuple[int, str | None]:
        """Return the number of masks, and why the image could not be read (else None)."""
        from mmssl.data import annotations
        from mmssl.data.pictures import read_rgb
        from mmssl.errors import BadImageError

        try:
            pixels = read_rgb(job.image, self.pictures)
        except (BadImageError, OSError) as error:
            return 0, str(error)
        records = self.generator.generate(pixels)
        if self.overlay:
            self._draw(Path(self.overlay), job, pixels, records)
        annotations.write_json(job.file, annotations.sa1b_content(job.name, pixels.shape[:2], records))
        return len(records), None

    @staticmethod
    def _draw(folder: Path, job: 'Job', pixels: 'np.ndarray', records: list[dict]) -> None:
        """Draw the masks over the image with their numbers."""
        from PIL import Image

        from mmssl.visualization.files import write_image
        from mmssl.visualization.promptable import draw_texts, overlay_rles

        image = overlay_rles(pixels, [record['segmentation'] for record in records])
        points = [record['point_coords'][0] for record in records]
        image = draw_texts(image, points, range(1, len(records) + 1))
        write_image(Image.fromarray(image), (folder / job.name).with_suffix('.png'))
