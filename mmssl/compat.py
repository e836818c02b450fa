"""Differences between the toolboxes' distributions and versions, and mends of what is broken in them."""


def patch() -> None:
    """Mend the hosts; safe to call more than once."""
