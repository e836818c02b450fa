"""Requests of the page that shows reconstructions of a masked autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from starlette.routing import Route

from mmssl.demo_page.api import Api, number, text
from mmssl.demo_page.masking import read_for, reconstruct
from mmssl.demo_page.session import Busy
from mmssl.demo_page.session_state import data_url

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MASK_RATIO = 0.75
MAX_SEED = 2**31 - 1


class HasImage(Protocol):
    """What is stored for a visitor: the image of the masked autoencoder, and its name."""

    mae_image: 'Tensor | None'
    mae_name: str


class ReconstructApi:
    """The endpoints.

    Args:
        mae: A masked autoencoder.
        busy: Lock of the models.
        samples: Images to try, by name.
        max_pixels: Largest image to accept.
    """

    def __init__(self, mae: Any, busy: Busy, samples: Mapping[str, Path], max_pixels: int):
        self.mae = mae
        self.busy = busy
        self.samples = samples
        self.max_pixels = max_pixels

    @property
    def mask_ratio(self) -> float:
        """The ratio that the model was trained with."""
        return float(getattr(self.mae.backbone, 'mask_ratio', DEFAULT_MASK_RATIO))

    def routes(self, api: Api) -> list[Route]:
        """Return the routes of all endpoints."""
        return [
            api.action('/api/reconstruct/draw', self.draw),
            api.upload('/api/reconstruct/upload', self.open_upload),
        ]

    def open_upload(self, visit: HasImage, file: Path, name: str) -> dict:
        """Open an image that the visitor has sent."""
        visit.mae_image = read_for(self.mae, file, self.max_pixels)
        visit.mae_name = name
        return dict(name=name)

    def draw(self, visit: HasImage, data: dict) -> dict:
        """Reconstruct the image of the visitor, or a sample, which becomes the image of the visitor."""
        sample = data.get('sample')
        if sample is not None:
            name = text(data, 'sample')
            if name not in self.samples:
                raise ValueError(f'there is no sample {name!r:.40}')
            self.open_upload(visit, self.samples[name], name)
        if visit.mae_image is None:
            raise ValueError('no image yet: open one')
        seed = number(data, 'seed')
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f'seed={seed:g} must be from 0 to {MAX_SEED}')
        ratio = number(data, 'ratio')
        png, seconds = self.busy(reconstruct, self.mae, visit.mae_image, ratio, int(seed))
        note = f'{visit.mae_name}: {100 * ratio:.0f} % of the patches masked, drawn in {seconds:.1f} s'
        return dict(picture=data_url(png), note=note)
