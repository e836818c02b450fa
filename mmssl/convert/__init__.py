"""Conversion of checkpoints from and to other releases.

Each family of checkpoints is a module of this package with a constant ``FAMILY``, and is found by that.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping

from mmssl.convert import keymap

__all__ = ['families', 'from_official', 'get_family', 'to_official']


def families() -> dict[str, keymap.Family]:
    """Return all families by name."""
    modules = (importlib.import_module(f'{__name__}.{info.name}') for info in pkgutil.iter_modules(__path__))
    known = [module.FAMILY for module in modules if hasattr(module, 'FAMILY')]
    return {family.name: family for family in sorted(known, key=lambda family: family.name)}


def get_family(name: str) -> keymap.Family:
    """Return the family of a name.

    Raises:
        ValueError: There is no such family; the message suggests a similar name and lists all.
    """
    known = families()
    if name not in known:
        similar = difflib.get_close_matches(str(name), known, n=1)
        suggestion = f'did you mean {similar[0]!r}? ' if similar else ''
        raise ValueError(f'no family {name!r}; {suggestion}The families are {", ".join(known)}')
    return known[name]


def from_official(family: str, state_dict: Mapping, prefix: str = 'backbone.') -> dict:
    """Rename the keys of a released checkpoint to those of mmssl and mmpretrain.

    Args:
        family: Name of the release: 'mae', 'timm-vit', ...; see :func:`families`.
        state_dict: State dict, or a checkpoint with a state dict under 'model' or 'state_dict'.
        prefix: Prefix of the backbone's names in the result; '' for a bare backbone.

    Returns:
        State dict with the same tensors, not copied, in the same order. What ``state_dict`` says about the
        grids of position tables goes along in its ``_metadata``.

    Raises:
        ValueError: The family is unknown, or keys are unknown or missing or shapes do not fit; all are
            listed.
    """
    known = get_family(family)
    return keymap.convert(known, keymap.unwrap(state_dict, known.parts), to_official=False, prefix=prefix)[0]


def to_official(family: str, state_dict: Mapping, prefix: str = 'backbone.') -> dict:
    """Rename the keys of mmssl to those of a release; the inverse of :func:`from_official`.

    Args:
        family: Name of the release; see :func:`families`.
        state_dict: State dict, or a checkpoint with a state dict under 'model' or 'state_dict'.
        prefix: Prefix of the backbone's names in ``state_dict``; '' for a bare backbone.

    Raises:
        ValueError: As in :func:`from_official`.
    """
    known = get_family(family)
    weights, _ = keymap.convert(known, keymap.unwrap(state_dict), to_official=True, prefix=prefix)
    wrapped = keymap.wrap(weights, known.parts)
    return wrapped if isinstance(wrapped, dict) else dict(wrapped)
