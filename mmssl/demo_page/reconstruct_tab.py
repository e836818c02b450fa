"""The tab that shows reconstructions of a masked autoencoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl.demo_page.components import file_input, is_sample, sample_input, warn
from mmssl.demo_page.masking import reconstruct
from mmssl.demo_page.session import Busy
from mmssl.demo_page.visitors import IDLE_SECONDS, forget_value, take_upload

DEFAULT_MASK_RATIO = 0.75


def reconstruct_tab(gr: Any, mae: Any, busy: Busy, samples: Sequence[str | Path], max_pixels: int) -> None:
    """Create the components of the tab and connect its events.

    Args:
        gr: Gradio.
        mae: A masked autoencoder.
        busy: Lock of the models.
        samples: Images to try.
        max_pixels: Largest image to accept.
    """
    gr.Markdown('A masked autoencoder sees what is left of the image and draws the rest.')
    with gr.Row():
        with gr.Column(scale=3):
            canvas = gr.Image(
                label='image, visible patches, reconstruction',
                interactive=False,
                format='png',
                elem_id='reconstruction',
                buttons=['download', 'fullscreen'],
            )
        with gr.Column(scale=1, min_width=260):
            file = file_input(gr, 'mae-file')
            sample = sample_input(gr, samples, 'mae-sample')
            ratio = gr.Slider(
                0.1,
                0.9,
                value=float(getattr(mae.backbone, 'mask_ratio', DEFAULT_MASK_RATIO)),
                step=0.05,
                label='fraction that is masked',
                elem_id='ratio',
            )
            seed = gr.Slider(0, 20, value=0, step=1, label='seed of the masks')
    chosen = gr.State(None, time_to_live=IDLE_SECONDS, delete_callback=forget_value)

    def draw(path: str | None, ratio: float, seed: float):
        if path is None:
            return None
        try:
            return busy(reconstruct, mae, path, ratio, int(seed), max_pixels)[0]
        except (ValueError, OSError) as error:
            warn(gr, error, path)
            return gr.skip()

    def upload(path: str, before: str | None, ratio: float, seed: float):
        forget_value(before)
        path = take_upload(path)
        return path, draw(path, ratio, seed)

    def choose_sample(path: str | None, before: str | None, ratio: float, seed: float):
        if path is not None and not is_sample(path, samples):
            return gr.skip(), gr.skip()
        forget_value(before)
        return path, draw(path, ratio, seed)

    file.upload(upload, [file, chosen, ratio, seed], [chosen, canvas], api_visibility='private')
    sample.input(choose_sample, [sample, chosen, ratio, seed], [chosen, canvas], api_visibility='private')
    for slider in (ratio, seed):
        slider.release(draw, [chosen, ratio, seed], canvas, api_visibility='private')
