"""Checks of the arguments of transforms; errors name the value and what is accepted."""

import math

INTERPOLATIONS = ('bicubic', 'bilinear', 'lanczos')


def check_size(scale: int | tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) of an output that is given as such a pair or as one number."""
    size = (scale, scale) if isinstance(scale, int) else tuple(scale)
    if len(size) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in size):
        raise ValueError(
            f'scale={scale!r} must be a whole number of pixels above 0 or (width, height), such as 224'
        )
    return size


def check_range(name: str, values: tuple[float, float], limit: float) -> tuple[float, float]:
    """Return ``values`` if they are two numbers with 0 < first <= second <= limit."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= limit:
        upper = f' <= {limit:g}' if math.isfinite(limit) else ''
        raise ValueError(f'{name}={values!r} must be two numbers with 0 < first <= second{upper}')
    first, second = values
    return first, second


def check_probability(name: str, value: float) -> float:
    """Return ``value`` if it is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f'{name}={value!r} must be a probability in [0, 1]')
    return value


def check_interpolation(name: str) -> str:
    """Return ``name`` if :func:`mmssl.data.images.resize` has this interpolation."""
    if name not in INTERPOLATIONS:
        raise ValueError(f'interpolation={name!r} is not one of {", ".join(INTERPOLATIONS)}')
    return name


def check_reducing_gap(gap: float | None) -> float | None:
    """Return ``gap`` if it is None or at least 1."""
    if gap is not None and gap < 1:
        raise ValueError(
            f'reducing_gap={gap!r} would decode fewer pixels than the output has; '
            'give 1 or more, or None to decode at full size'
        )
    return gap
