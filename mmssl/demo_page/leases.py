"""Who is labelling which image."""

import threading
import time
from collections.abc import Callable

# a page renews its lease every minute; browsers slow the timers of hidden tabs down to that
LEASE_SECONDS = 180


class Leases:
    """Images by the visitor who is labelling them; a lease ends if it is not renewed.

    Args:
        seconds: Time from the last renewal to the end.
        clock: Returns the time in seconds.
    """

    def __init__(self, seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._clock = clock
        self._leases: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def take(self, image: str, visitor: str) -> bool:
        """Lease an image to a visitor, or renew the lease; False if it is leased to somebody else."""
        with self._lock:
            owner, end = self._leases.get(image, (visitor, 0.0))
            now = self._clock()
            if owner != visitor and end > now:
                return False
            self._leases[image] = (visitor, now + self._seconds)
            return True

    def release(self, visitor: str) -> None:
        """End the leases of a visitor."""
        with self._lock:
            for image in [image for image, (owner, _) in self._leases.items() if owner == visitor]:
                del self._leases[image]

    def of_others(self, visitor: str) -> set[str]:
        """Return the images that are leased to others."""
        with self._lock:
            now = self._clock()
            return {image for image, (owner, end) in self._leases.items() if owner != visitor and end > now}
