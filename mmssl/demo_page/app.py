"""The page of ``mmssl demo``: one tab to segment by clicks, one to view reconstructions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.demo_page.detector import Detect
from mmssl.demo_page.reconstruct_tab import reconstruct_tab
from mmssl.demo_page.segment_tab import SegmentTab
from mmssl.demo_page.session import Busy, Session
from mmssl.demo_page.visitors import IDLE_SECONDS, forget_visitor

TITLE = 'mmssl demo'
STYLE = """
footer {display: none !important}
.gradio-container {max-width: 1200px !important; margin: auto}
#canvas {min-height: 260px}
#canvas img {cursor: crosshair; max-height: 70vh}
#note {min-height: 1.6em}
"""


@dataclass
class PageSettings:
    """What a page shows.

    Attributes:
        model: A :class:`mmssl.promptable.Sam`; None without weights, which ``notice`` explains.
        notice: Markdown at the top.
        generator: Arguments of ``SamAutomaticMaskGenerator``.
        detect: Detector that names the masks; None for none.
        mae: A masked autoencoder; None for none.
        samples: Images to try the page with.
        max_pixels: Largest image to accept.
        cache_dir: Folder for embeddings of images; None for no cache.
        pictures: How images that are not 8-bit RGB are shown.
    """

    model: Any = None
    notice: str = ''
    generator: dict | None = None
    detect: Detect | None = None
    mae: Any = None
    samples: Sequence[str | Path] = field(default_factory=list)
    max_pixels: int = 40_000_000
    cache_dir: str | None = None
    pictures: Any = None


def build(settings: PageSettings) -> Any:
    """Build the page.

    Returns:
        ``gradio.Blocks``.
    """
    import gradio as gr

    busy = Busy()

    def start_session() -> Session:
        return Session(settings.model, settings.generator, busy, settings.cache_dir, settings.pictures)

    # files that no event has taken are removed too, once a minute
    cleaning = dict(delete_cache=(60, IDLE_SECONDS))
    with gr.Blocks(title=TITLE, analytics_enabled=False, **cleaning) as page:
        gr.Markdown(f'# {TITLE}')
        if settings.notice:
            gr.Markdown(settings.notice, elem_id='notice')
        with gr.Tab('Segment'):
            if settings.model is None:
                gr.Markdown('Segmenting needs weights; see above.')
            else:
                SegmentTab(gr, start_session, settings.detect, settings.samples, settings.max_pixels)
        with gr.Tab('Reconstruct'):
            if settings.mae is None:
                gr.Markdown(
                    'Start the page with `--mae CONFIG CHECKPOINT` of a model of `configs/mae`, '
                    'decoder included. '
                    '`make demo` in a clone trains a small one in about three minutes.'
                )
            else:
                reconstruct_tab(gr, settings.mae, busy, settings.samples, settings.max_pixels)

        def leave(request: gr.Request) -> None:
            forget_visitor(page, request.session_hash)

        page.unload(leave)
    return page
