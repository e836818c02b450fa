"""Environment variables that switch something on."""

import os


def switched_on(name: str) -> bool:
    """Whether an environment variable is set, to anything but 0, false or no."""
    return os.environ.get(name, '').lower() not in ('', '0', 'false', 'no')
