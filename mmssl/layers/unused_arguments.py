"""Refusal of arguments that a base class accepts and a subclass does not use."""

from collections.abc import Mapping
from typing import Any


def refuse_unused(owner: str, settings: Mapping[str, Any], unused: Mapping[str, Any], reason: str) -> None:
    """Refuse arguments that would have no effect.

    Args:
        owner: Name of the class, for the message.
        settings: Arguments that were passed on.
        unused: Argument -> the only value that means what the class does, its default.
        reason: Why the class does not use them, for the message.

    Raises:
        ValueError: An argument has another value than in ``unused``.
    """
    for name, default in unused.items():
        if name in settings and settings[name] != default:
            raise ValueError(f'{owner} does not use {name}={settings[name]!r}: {reason}; leave it out')
