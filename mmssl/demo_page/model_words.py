"""What a page says about its model."""

from typing import Any

# below this number of parameters, outlines are visibly coarse
SMALL_PARAMETERS = 8_000_000


def count_parameters(model: Any) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_line(model: Any, name: str) -> str:
    """Return name, size and device of a model in a line."""
    device = next(model.parameters()).device.type
    where = 'CPU' if device == 'cpu' else 'GPU' if device == 'cuda' else device
    return f'{name}, {count_parameters(model) / 1e6:.1f} million parameters, on the {where}'


def small_note(model: Any) -> str:
    """Return what to expect of a small model; '' for others."""
    if count_parameters(model) >= SMALL_PARAMETERS:
        return ''
    return (
        'This model is small: outlines are coarse and some masks are wrong. For finer ones, start the page '
        'with a released model.'
    )
