"""Whether checkpoints may hold pickled code."""

import contextlib
from collections.abc import Iterator

_trust = False


@contextlib.contextmanager
def trusted(enabled: bool = True) -> Iterator[None]:
    """Allow pickled code in all checkpoints read inside this context, as ``--trust-checkpoint`` does."""
    global _trust
    before, _trust = _trust, enabled
    try:
        yield
    finally:
        _trust = before


def is_trusted() -> bool:
    """Whether pickled code is allowed, by :func:`trusted`."""
    return _trust
