"""What the visitors of the labelling page share: the images, their labels, and whose turn it is."""

from collections.abc import Sequence
from pathlib import Path

from mmssl.demo_page.labels import LabelStore
from mmssl.demo_page.leases import Leases
from mmssl.demo_page.suggestions import Suggestions


class LabelDesk:
    """Images to label.

    Args:
        folder: Their folder.
        names: Their paths below it, in the order in which they are labelled.
        store: The labels.
        suggestions: Masks to accept or discard.
        leases: Who is labelling which image.

    Attributes:
        unreadable: Reasons by image that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str],
        store: LabelStore,
        suggestions: Suggestions | None = None,
        leases: Leases | None = None,
    ):
        self.folder = Path(folder)
        self.names = list(names)
        self.store = store
        self.suggestions = suggestions or Suggestions([], self.names)
        self.leases = leases or Leases()
        self.unreadable: dict[str, str] = {}

    def take_next(self, visitor: str, skipped: set[str]) -> str | None:
        """Lease the first image that nobody has labelled or is labelling; None if there is none.

        Args:
            visitor: Who gets it.
            skipped: Images to leave out.
        """
        for name in self.names:
            if name in skipped or name in self.unreadable or self.store.is_finished(name):
                continue
            # another visitor may have finished it since
            if self.leases.take(name, visitor) and not self.store.is_finished(name):
                return name
        return None

    def take(self, name: str, visitor: str) -> None:
        """Lease an image, or renew the lease.

        Raises:
            ValueError: Somebody else is labelling it.
        """
        if not self.leases.take(name, visitor):
            raise ValueError(f'somebody else is labelling {name} now; go on with another image')

    def progress(self, visitor: str) -> dict:
        """Return the number of images, of finished, unreadable, and those that others are labelling."""
        return dict(
            total=len(self.names),
            finished=sum(map(self.store.is_finished, self.names)),
            unreadable=sorted(self.unreadable),
            others=len(self.leases.of_others(visitor)),
        )
