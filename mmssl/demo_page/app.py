"""The page of ``mmssl demo``: Gradio in front of :mod:`mmssl.demo_page.session`."""

import functools
import html
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmssl.demo_page.session import Busy, Session

TITLE = 'mmssl demo'
# least and largest longest side of the picture that is sent to the browser after every click
SHOWN = 960, 1280
CLICKS = {'on the object': 'object', 'beside the object': 'background', 'corner of a box': 'box'}
HOW = (
    'Click on an object. A click beside it takes away what does not belong; two corners make a box. Of a single click the model offers '
    'three masks: the object, a part of it, or more than it.'
)
STYLE = """
footer {display: none !important}
.gradio-container {max-width: 1200px !important; margin: auto}
#canvas {min-height: 260px}
#canvas img {cursor: crosshair; max-height: 70vh}
#note {min-height: 1.6em}
"""


def build(
    model=None,
    notice: str = '',
    generator: dict | None = None,
    detect: Callable | None = None,
    mae=None,
    samples: Sequence[str | Path] = (),
    max_pixels: int = 40_000_000,
    cache_dir: str | None = None,
):
    """The page.

    Args:
        model: a :class:`mmssl.promptable.Sam`; None where there are no weights, which ``notice`` explains.
        notice: Markdown at the top.
        generator: arguments of ``SamAutomaticMaskGenerator``.
        detect: as for :meth:`Session.label`; None for none.
        mae: a masked autoencoder that reconstructs; None for none.
        samples: images to try.
        max_pixels: of an image.
        cache_dir: of embeddings.

    Returns:
        ``gradio.Blocks``.
    """
    import gradio as gr

    busy = Busy()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f'# {TITLE}')
        if notice:
            gr.Markdown(notice, elem_id='notice')
        with gr.Tab('Segment'):
            if model is None:
                gr.Markdown('Segmenting needs weights; see above.')
            else:
                _segment_tab(
                    gr, lambda: Session(model, generator, busy, cache_dir), detect, samples, max_pixels
                )
        with gr.Tab('Reconstruct'):
            if mae is None:
                gr.Markdown(
                    'Start the page with `--mae CONFIG CHECKPOINT` of a pre-training of `configs/mae`, the decoder included. '
                    '`make demo` in a clone trains a small one in about three minutes.'
                )
            else:
                _reconstruct_tab(gr, mae, busy, samples, max_pixels)
    return page


def _segment_tab(
    gr, start: Callable[[], Session], detect: Callable | None, samples: Sequence, max_pixels: int
) -> None:
    state = gr.State(None)
    gr.Markdown(HOW)
    with gr.Row():
        with gr.Column(scale=3):
            canvas = gr.Image(
                label='click here', interactive=False, elem_id='canvas', format='jpeg', buttons=['fullscreen']
            )
            note = gr.Markdown('Choose an image first.', elem_id='note')
        with gr.Column(scale=1, min_width=260):
            file = gr.File(label='image', file_types=['image'], height=120, elem_id='file')
            if samples:
                sample = gr.Dropdown(
                    [(Path(path).stem, str(path)) for path in samples],
                    label='or one of these',
                    value=None,
                    elem_id='sample',
                )
            mode = gr.Radio(list(CLICKS), value=next(iter(CLICKS)), label='a click is', elem_id='mode')
            masks = gr.Radio([], label='masks, by predicted IoU', visible=False, elem_id='masks')
            with gr.Row():
                undo = gr.Button('undo', size='sm', elem_id='undo', min_width=80)
                clear = gr.Button('clear', size='sm', elem_id='clear', min_width=80)
            everything = gr.Button('all masks', variant='primary', elem_id='everything')
            name = gr.Button('name them with the detector', visible=detect is not None, elem_id='name')
            save = gr.Button('make files to download', elem_id='save')
            png = gr.File(label='PNG of the masks', visible=False, elem_id='png', height=70)
            coco = gr.File(label='COCO JSON', visible=False, elem_id='coco', height=70)
    outputs = [state, canvas, note, masks, png, coco]

    def shown(session: Session):
        offered = [f'{number + 1}: {score:.3f}' for number, score in enumerate(session.scores)]
        radio = gr.Radio(offered, value=offered[session.chosen] if offered else None, visible=bool(offered))
        return (
            session,
            _shown(session.picture()),
            session.note,
            radio,
            gr.File(visible=False),
            gr.File(visible=False),
        )

    def refusing(work: Callable, count: int):
        """``work``; what it refuses becomes a message on the page, and nothing else changes: an error would lie over the picture."""

        @functools.wraps(work)  # Gradio looks at the signature for the event's data
        def wrapped(*arguments):
            try:
                return work(*arguments)
            except (ValueError, OSError, TypeError) as error:
                gr.Warning(html.escape(str(error)), duration=8, title='Refused')
                return [gr.skip()] * count

        return wrapped

    def opened(path, name, session):
        session = session or start()
        try:
            session.open(path, name, max_pixels)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), name)) from error
        return shown(session)

    def upload(path, session):
        return opened(path, Path(path).name, session)

    def choose_sample(path, session):
        if path is None:
            return [gr.skip()] * len(outputs)
        if path not in {str(one) for one in samples}:
            raise ValueError('no such sample')
        return opened(path, Path(path).name, session)

    def click(session, kind, event: gr.SelectData):
        _need(session)
        x, y = event.index
        factor, (height, width) = _factor(session.image), session.image.shape[:2]
        session.click(min((x + 0.5) * factor, width - 1), min((y + 0.5) * factor, height - 1), CLICKS[kind])
        return shown(session)

    def act(method: str):
        def work(session, *arguments):
            getattr(_need(session), method)(*arguments)
            return shown(session)

        return work

    def choose(session, text):
        if text is None:
            return [gr.skip()] * len(outputs)
        _need(session).choose(int(text.partition(':')[0]) - 1)
        return shown(session)

    def save_files(session):
        folder = tempfile.mkdtemp(prefix='masks-', dir=os.environ['GRADIO_TEMP_DIR'])
        return (
            gr.File(str(_need(session).save_masks(folder)), visible=True),
            gr.File(str(session.save_coco(folder)), visible=True),
        )

    def listen(event, work, inputs, **options):
        event(
            refusing(work, len(outputs)),
            inputs,
            outputs,
            api_visibility='private',
            show_progress_on=canvas,
            **options,
        )

    listen(file.upload, upload, [file, state])
    if samples:
        listen(sample.input, choose_sample, [sample, state])
    listen(canvas.select, click, [state, mode], show_progress='hidden')
    listen(undo.click, act('undo'), [state])
    listen(clear.click, act('clear_all'), [state])
    listen(everything.click, act('segment_everything'), [state])
    listen(masks.input, choose, [state, masks], show_progress='hidden')
    if detect is not None:
        listen(name.click, lambda session: act('label')(session, detect), [state])
    save.click(refusing(save_files, 2), [state], [png, coco], api_visibility='private')


def _need(session: Session | None) -> Session:
    if session is None:
        raise ValueError('choose an image first')
    return session


def _factor(image: np.ndarray) -> float:
    """Pixels of the image over those of the picture that is shown."""
    longest = max(image.shape[:2])
    return longest / min(max(longest, SHOWN[0]), SHOWN[1])


def _shown(image: np.ndarray) -> np.ndarray:
    """Enlarged or reduced to what a person clicks on."""
    from PIL import Image

    height, width = (max(1, round(side / _factor(image))) for side in image.shape[:2])
    return (
        image
        if (height, width) == image.shape[:2]
        else np.asarray(Image.fromarray(image).resize((width, height)))
    )


def _reconstruct_tab(gr, mae, busy: Busy, samples: Sequence, max_pixels: int) -> None:
    from mmssl.demo_page.masking import reconstruct

    gr.Markdown('A masked autoencoder sees what is left of the image and draws the rest.')
    with gr.Row():
        with gr.Column(scale=3):
            canvas = gr.Image(
                label='image, what the model sees, reconstruction',
                interactive=False,
                format='png',
                elem_id='reconstruction',
                buttons=['download', 'fullscreen'],
            )
        with gr.Column(scale=1, min_width=260):
            file = gr.File(label='image', file_types=['image'], height=120, elem_id='mae-file')
            sample = gr.Dropdown(
                [(Path(path).stem, str(path)) for path in samples],
                label='or one of these',
                value=None,
                visible=bool(samples),
                elem_id='mae-sample',
            )
            ratio = gr.Slider(
                0.1,
                0.9,
                value=float(getattr(mae.backbone, 'mask_ratio', 0.75)),
                step=0.05,
                label='share that is masked',
                elem_id='ratio',
            )
            seed = gr.Slider(0, 20, value=0, step=1, label='draw of the masks')
    chosen = gr.State(None)

    def draw(path, ratio, seed):
        if path is None:
            return None
        try:
            return busy(reconstruct, mae, path, ratio, int(seed), max_pixels)[0]
        except (ValueError, OSError) as error:
            gr.Warning(
                html.escape(str(error).replace(str(path), Path(path).name)), duration=8, title='Refused'
            )
            return gr.skip()

    def upload(path, ratio, seed):
        return path, draw(path, ratio, seed)

    def choose_sample(path, ratio, seed):
        if path is not None and path not in {str(one) for one in samples}:
            return gr.skip(), gr.skip()
        return path, draw(path, ratio, seed)

    file.upload(upload, [file, ratio, seed], [chosen, canvas], api_visibility='private')
    sample.input(choose_sample, [sample, ratio, seed], [chosen, canvas], api_visibility='private')
    for slider in (ratio, seed):
        slider.release(draw, [chosen, ratio, seed], canvas, api_visibility='private')
