"""The pages of ``mmssl demo``: one to segment by clicks, one to view reconstructions."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mmssl.demo_page.api import Api
from mmssl.demo_page.detector import Detect
from mmssl.demo_page.guard import RefusedError
from mmssl.demo_page.model_words import model_line, small_note
from mmssl.demo_page.pages import page_route, static_route
from mmssl.demo_page.reconstruct_api import DEFAULT_MASK_RATIO, ReconstructApi
from mmssl.demo_page.samples import FirstView
from mmssl.demo_page.segment_api import SegmentApi
from mmssl.demo_page.session import Busy, Session
from mmssl.demo_page.visitors import Visitors

if TYPE_CHECKING:
    from torch import Tensor

# seconds between two looks for visitors who do nothing
SWEEP_SECONDS = 60
NO_MODEL = 'no model: segmenting needs weights'
NO_MAE = 'no model: start the page with --mae CONFIG CHECKPOINT of configs/mae, decoder included'


@dataclass
class PageSettings:
    """What a page shows.

    Attributes:
        folder: Folder for uploads.
        model: A :class:`mmssl.promptable.Sam`; None for a page without one.
        model_name: Its name.
        generator: Arguments of ``SamAutomaticMaskGenerator``.
        detect: Detector that names the masks; None for none.
        mae: A masked autoencoder; None for none.
        mae_name: Its name.
        samples: Images to try the page with, by name.
        max_pixels: Largest image to accept.
        cache_dir: Folder for embeddings of images; None for no cache.
        pictures: How images that are not 8-bit RGB are shown.
    """

    folder: Path
    model: Any = None
    model_name: str = ''
    generator: dict | None = None
    detect: Detect | None = None
    mae: Any = None
    mae_name: str = ''
    samples: Mapping[str, Path] = field(default_factory=dict)
    max_pixels: int = 40_000_000
    cache_dir: str | None = None
    pictures: Any = None

    def start_session(self, busy: Busy) -> Session:
        """Return a session without an image."""
        return Session(self.model, self.generator, busy, self.cache_dir, self.pictures)


class Visit:
    """What is stored for a visitor.

    Attributes:
        session: Image and prompts; None without a model.
        mae_image: (3, H, W) uint8, the image to reconstruct; None before the first.
        mae_name: Its name.
    """

    def __init__(self, session: Session | None):
        self.session = session
        self.mae_image: Tensor | None = None
        self.mae_name = ''

    def require_session(self) -> Session:
        """Return the session.

        Raises:
            ValueError: There is no model.
        """
        if self.session is None:
            raise ValueError(NO_MODEL)
        return self.session


def build(settings: PageSettings) -> Starlette:
    """Build the pages, to be served by :class:`mmssl.demo_page.server.PageServer`."""
    busy = Busy()
    first = FirstView(lambda: settings.start_session(busy), settings.samples)
    has_model = settings.model is not None
    visitors = Visitors(lambda visitor: Visit(first.session() if has_model else None))
    api = Api(visitors, settings.folder)
    segment = SegmentApi(Visit.require_session, settings.detect, settings.samples, settings.max_pixels)
    routes = [static_route(), api.leave('/api/leave')]
    sample_names = json.dumps(list(settings.samples))
    notice = small_note(settings.model) if has_model else ''
    values = dict(
        model=model_line(settings.model, settings.model_name) if has_model else NO_MODEL,
        notice=notice,
        notice_hidden='' if notice else 'hidden',
        samples=sample_names,
        detector='yes' if settings.detect else 'no',
        available='yes' if has_model else 'no',
    )
    routes.append(page_route('/', 'segment.html', values))
    if has_model:
        routes.append(api.enter('/api/segment/visit', lambda visit: dict(state=segment.state(visit))))
        routes += segment.routes(api)
    ratio = DEFAULT_MASK_RATIO
    if settings.mae is not None:
        reconstruct = ReconstructApi(settings.mae, busy, settings.samples, settings.max_pixels)
        ratio = reconstruct.mask_ratio
        routes.append(api.enter('/api/reconstruct/visit', lambda visit: {}))
        routes += reconstruct.routes(api)
    values = dict(
        model=NO_MAE if settings.mae is None else model_line(settings.mae, settings.mae_name),
        samples=sample_names,
        ratio=f'{ratio:g}',
        available='no' if settings.mae is None else 'yes',
    )
    routes.append(page_route('/reconstruct', 'reconstruct.html', values))
    return make_app(routes, visitors, settings.folder, first.session if has_model else None)


def make_app(
    routes: list, visitors: Visitors, folder: Path, prepare: Callable[[], Any] | None = None
) -> Starlette:
    """Make an application that forgets idle visitors.

    Args:
        routes: Its routes.
        visitors: The visitors.
        folder: Folder of uploads.
        prepare: Called in a thread when the server starts; what a first visitor would wait for.
    """

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await run_in_threadpool(visitors.forget_idle)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(sweep())]
        if prepare is not None:
            tasks.append(asyncio.create_task(run_in_threadpool(prepare)))
        yield
        for task in tasks:
            task.cancel()

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)  # raised while the body is read
        return PlainTextResponse(error.reason, error.status, {'connection': 'close'})

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={RefusedError: refuse})
    app.state.folder = folder
    app.state.visitors = visitors
    return app
