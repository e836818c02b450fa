"""The tab that segments images by clicks: Gradio in front of :class:`mmssl.demo_page.session.Session`."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.demo_page.components import file_input, is_sample, sample_input, with_warnings
from mmssl.demo_page.detector import Detect
from mmssl.demo_page.session import Session
from mmssl.demo_page.visitors import IDLE_SECONDS, remove_upload

# smallest and largest longer side of the image that is sent to the browser after every click
MIN_SHOWN = 960
MAX_SHOWN = 1280
CLICK_MODES = {'on the object': 'object', 'beside the object': 'background', 'corner of a box': 'box'}
HELP = (
    'Click on an object. A click beside it removes what does not belong to it; two corners make a box. '
    'For a single click the model offers three masks: the object, a part of it, or more than it.'
)


class SegmentTab:
    """The components of the tab and the handlers of its events.

    Args:
        gr: Gradio.
        start_session: Creates the session of a new visitor.
        detect: Detector that names the masks; None for none.
        samples: Images to try.
        max_pixels: Largest image to accept.
    """

    def __init__(
        self,
        gr: Any,
        start_session: Callable[[], Session],
        detect: Detect | None,
        samples: Sequence[str | Path],
        max_pixels: int,
    ):
        self.gr = gr
        self.start_session = start_session
        self.detect = detect
        self.samples = samples
        self.max_pixels = max_pixels
        self._create_components()
        self.outputs = [self.state, self.canvas, self.note, self.masks, self.png, self.coco]
        self._connect_events()

    def _create_components(self) -> None:
        gr = self.gr
        self.state = gr.State(None, time_to_live=IDLE_SECONDS)
        gr.Markdown(HELP)
        with gr.Row():
            with gr.Column(scale=3):
                self.canvas = gr.Image(
                    label='click here',
                    interactive=False,
                    elem_id='canvas',
                    format='jpeg',
                    buttons=['fullscreen'],
                )
                self.note = gr.Markdown('Choose an image first.', elem_id='note')
            with gr.Column(scale=1, min_width=260):
                self.file = file_input(gr, 'file')
                self.sample = sample_input(gr, self.samples, 'sample')
                self.mode = gr.Radio(
                    list(CLICK_MODES), value=next(iter(CLICK_MODES)), label='a click is', elem_id='mode'
                )
                self.masks = gr.Radio([], label='masks, by predicted IoU', visible=False, elem_id='masks')
                with gr.Row():
                    self.undo = gr.Button('undo', size='sm', elem_id='undo', min_width=80)
                    self.clear = gr.Button('clear', size='sm', elem_id='clear', min_width=80)
                self.everything = gr.Button('all masks', variant='primary', elem_id='everything')
                has_detector = self.detect is not None
                self.name = gr.Button('name them with the detector', visible=has_detector, elem_id='name')
                self.save = gr.Button('make files to download', elem_id='save')
                self.png = gr.File(label='PNG of the masks', visible=False, elem_id='png', height=70)
                self.coco = gr.File(label='COCO JSON', visible=False, elem_id='coco', height=70)

    def _connect_events(self) -> None:
        self._on(self.file.upload, self._upload, [self.file, self.state])
        self._on(self.sample.input, self._choose_sample, [self.sample, self.state])
        self._on(self.canvas.select, self._click_handler(), [self.state, self.mode], show_progress='hidden')
        self._on(self.undo.click, self._apply(Session.undo), [self.state])
        self._on(self.clear.click, self._apply(Session.clear_all), [self.state])
        self._on(self.everything.click, self._apply(Session.segment_everything), [self.state])
        self._on(self.masks.input, self._choose_mask, [self.state, self.masks], show_progress='hidden')
        if self.detect is not None:
            detect = self.detect
            self._on(self.name.click, self._apply(lambda session: session.label(detect)), [self.state])
        files = [self.png, self.coco]
        self.save.click(
            with_warnings(self.gr, self._save_files, len(files)),
            [self.state],
            files,
            api_visibility='private',
        )

    def _on(self, event: Callable, handler: Callable, inputs: list, **options: Any) -> None:
        event(
            with_warnings(self.gr, handler, len(self.outputs)),
            inputs,
            self.outputs,
            api_visibility='private',
            show_progress_on=self.canvas,
            **options,
        )

    def _show(self, session: Session) -> tuple:
        """Return the values of the outputs."""
        gr = self.gr
        choices = [f'{number}: {score:.3f}' for number, score in enumerate(session.scores, 1)]
        chosen = choices[session.chosen] if choices else None
        radio = gr.Radio(choices, value=chosen, visible=bool(choices))
        hidden = gr.File(visible=False)
        return session, _shown(session.draw()), session.note, radio, hidden, hidden

    def _open(self, path: str, session: Session | None) -> tuple:
        session = session or self.start_session()
        name = Path(path).name
        try:
            session.open(path, name, self.max_pixels)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), name)) from error
        return self._show(session)

    def _upload(self, path: str, session: Session | None) -> tuple:
        try:
            return self._open(path, session)
        finally:
            remove_upload(path)

    def _choose_sample(self, path: str | None, session: Session | None) -> Any:
        if path is None:
            return [self.gr.skip()] * len(self.outputs)
        if not is_sample(path, self.samples):
            raise ValueError('no such sample')
        return self._open(path, session)

    def _click_handler(self) -> Callable:
        gr = self.gr

        def click(session: Session | None, mode: str, event: gr.SelectData) -> tuple:  # type: ignore[name-defined]
            session = _require(session)
            image = session.require_image()
            height, width = image.shape[:2]
            scale = _scale(image)
            x, y = ((value + 0.5) * scale for value in event.index)
            session.click(min(x, width - 1), min(y, height - 1), CLICK_MODES[mode])
            return self._show(session)

        return click

    def _apply(self, method: Callable[[Session], Any]) -> Callable:
        def handler(session: Session | None) -> tuple:
            session = _require(session)
            method(session)
            return self._show(session)

        return handler

    def _choose_mask(self, session: Session | None, text: str | None) -> Any:
        if text is None:
            return [self.gr.skip()] * len(self.outputs)
        session = _require(session)
        session.choose(int(text.partition(':')[0]) - 1)
        return self._show(session)

    def _save_files(self, session: Session | None) -> tuple:
        session = _require(session)
        folder = tempfile.mkdtemp(prefix='masks-', dir=os.environ['GRADIO_TEMP_DIR'])
        files = session.save_masks(folder), session.save_coco(folder)
        return tuple(self.gr.File(str(file), visible=True) for file in files)


def _require(session: Session | None) -> Session:
    if session is None:
        raise ValueError('choose an image first')
    return session


def _scale(image: np.ndarray) -> float:
    """Return the pixels of the image per pixel of its shown version."""
    longest = max(image.shape[:2])
    return longest / min(max(longest, MIN_SHOWN), MAX_SHOWN)


def _shown(image: np.ndarray) -> np.ndarray:
    """Resize an image for the browser."""
    from PIL import Image

    height, width = (max(1, round(edge / _scale(image))) for edge in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height)))
