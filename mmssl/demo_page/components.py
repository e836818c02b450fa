"""Parts that the tabs of the page share."""

import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def file_input(gr: Any, elem_id: str) -> Any:
    """Create the input of an image file."""
    return gr.File(label='image', file_types=['image'], height=120, elem_id=elem_id)


def sample_input(gr: Any, samples: Sequence[str | Path], elem_id: str) -> Any:
    """Create the choice of a sample image, hidden if there are none."""
    choices = [(Path(path).stem, str(path)) for path in samples]
    return gr.Dropdown(choices, label='or one of these', value=None, visible=bool(samples), elem_id=elem_id)


def is_sample(path: str, samples: Sequence[str | Path]) -> bool:
    """Return True for the path of a sample; visitors could send any other."""
    return path in {str(sample) for sample in samples}


def warn(gr: Any, error: Exception, path: str | None = None) -> None:
    """Show an error as a message on the page, with the name of a file instead of its path on this machine."""
    text = str(error).replace(str(path), Path(path).name) if path else str(error)
    gr.Warning(html.escape(text), duration=8, title='Refused')


def with_warnings(gr: Any, handler: Callable, num_outputs: int) -> Callable:
    """Wrap an event handler so that its errors become messages and nothing else on the page changes.

    Gradio itself would cover the image with the error.
    """

    @functools.wraps(handler)  # Gradio reads the signature for the data of the event
    def wrapped(*arguments):
        try:
            return handler(*arguments)
        except (ValueError, OSError, TypeError) as error:
            warn(gr, error)
            return [gr.skip()] * num_outputs

    return wrapped
