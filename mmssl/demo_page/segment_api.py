"""Requests of the page that segments images by clicks and boxes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from mmssl.demo_page.api import Api, download, number, picture, text
from mmssl.demo_page.detector import Detect
from mmssl.demo_page.session import Session
from mmssl.demo_page.session_state import describe


class SegmentApi:
    """The endpoints.

    Args:
        session_of: Returns the :class:`Session` of what is stored for a visitor.
        detect: Detector that names the masks; None for none.
        samples: Images to try, by name.
        max_pixels: Largest image to accept.
    """

    def __init__(
        self,
        session_of: Callable[[Any], Session],
        detect: Detect | None,
        samples: Mapping[str, Path],
        max_pixels: int,
    ):
        self.session_of = session_of
        self.detect = detect
        self.samples = samples
        self.max_pixels = max_pixels

    def routes(self, api: Api) -> list[Route]:
        """Return the routes of all endpoints."""
        actions: dict[str, Callable[[Session, dict], Any]] = {
            'sample': self.open_sample,
            'click': click,
            'box': draw_box,
            'choose': lambda session, data: session.choose(int(number(data, 'index'))),
            'undo': lambda session, data: session.undo(),
            'clear': lambda session, data: session.clear_all(),
            'everything': lambda session, data: session.segment_everything(),
            'name': self.name_masks,
        }
        return [
            *(api.action(f'/api/segment/{name}', self._then_describe(do)) for name, do in actions.items()),
            api.upload('/api/segment/upload', self.open_upload),
            api.file('/api/segment/picture', lambda visit: picture(self._session_with_image(visit).jpeg)),
            api.file('/api/segment/masks.png', self.masks_png),
            api.file('/api/segment/coco.json', self.coco_json),
        ]

    def state(self, visit: Any) -> dict:
        """Return the state of a visitor's session."""
        return describe(self.session_of(visit))

    def _then_describe(self, act: Callable[[Session, dict], Any]) -> Callable[[Any, dict], dict]:
        def function(visit: Any, data: dict) -> dict:
            session = self.session_of(visit)
            act(session, data)
            return describe(session)

        return function

    def open_upload(self, visit: Any, file: Path, name: str) -> dict:
        """Open an image that the visitor has sent."""
        session = self.session_of(visit)
        session.open(file, name, self.max_pixels)
        return describe(session)

    def open_sample(self, session: Session, data: dict) -> None:
        """Open a sample by its name."""
        name = text(data, 'name')
        if name not in self.samples:  # visitors could send any other
            raise ValueError(f'there is no sample {name!r:.40}')
        session.open(self.samples[name])

    def name_masks(self, session: Session, data: dict) -> None:
        """Name the masks by the detector."""
        if self.detect is None:
            raise ValueError('there is no detector; start the page with --detector CONFIG CHECKPOINT')
        session.label(self.detect)

    def masks_png(self, visit: Any) -> Response:
        """Return the masks as a PNG."""
        session = self.session_of(visit)
        return download(session.masks_png(), f'{Path(session.name).stem}_masks.png', 'image/png')

    def coco_json(self, visit: Any) -> Response:
        """Return the masks as a COCO file."""
        session = self.session_of(visit)
        content = json.dumps(session.coco_content(), separators=(',', ':')).encode() + b'\n'
        return download(content, f'{Path(session.name).stem}_coco.json', 'application/json')

    def _session_with_image(self, visit: Any) -> Session:
        session = self.session_of(visit)
        session.require_image()
        return session


def click(session: Session, data: dict) -> None:
    """Add the click of a request."""
    session.click(number(data, 'x'), number(data, 'y'), text(data, 'mode'))


def draw_box(session: Session, data: dict) -> None:
    """Add the box of a request."""
    session.draw_box(*(number(data, key) for key in ('x1', 'y1', 'x2', 'y2')))
