"""Photographs to try the page with, and the one that it opens with."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from mmssl.demo_page.session import Session

# sample that is shown first, and where it is clicked, as fractions of its width and height
FIRST = ('flower', 0.5, 0.47)


def write_samples(folder: Path) -> dict[str, Path]:
    """Write photographs of scikit-image and scikit-learn (public domain or free to use).

    Returns:
        The files by name; none if the packages are not installed.
    """
    from PIL import Image

    from mmssl.data.demo import load_photos

    try:
        photos = load_photos()
    except ImportError:
        return {}
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, pixels in sorted(photos.items()):
        paths[name] = folder / f'{name}.jpg'
        Image.fromarray(pixels).convert('RGB').save(paths[name], quality=95)
    return paths


class FirstView:
    """What a visitor sees first: a sample with the mask of a click, encoded once for all visitors.

    Args:
        start: Creates a session.
        samples: Images by name; without any, the session is empty.
    """

    def __init__(self, start: Callable[[], Session], samples: Mapping[str, Path]):
        self._start = start
        self._samples = samples
        self._prepared: Session | None = None
        self._lock = threading.Lock()

    def session(self) -> Session:
        """Return the session of a new visitor."""
        if not self._samples:
            return self._start()
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare()
        return self._prepared.copy()

    def _prepare(self) -> Session:
        session = self._start()
        name, x, y = FIRST
        if name not in self._samples:
            name, x, y = next(iter(self._samples)), 0.5, 0.5
        session.open(self._samples[name])
        height, width = session.require_image().shape[:2]
        session.click(int(x * width), int(y * height), 'object')
        session.note = 'An example: click on something else, or open your own image.'
        return session
