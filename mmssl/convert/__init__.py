"""Weights of other releases in and out. A family is a module of this package that holds ``FAMILY``; adding one touches nothing else."""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping

from mmssl.convert import keymap

__all__ = ['families', 'from_official', 'get_family', 'to_official']


def families() -> dict[str, keymap.Family]:
    """Every family by its name."""
    modules = (importlib.import_module(f'{__name__}.{info.name}') for info in pkgutil.iter_modules(__path__))
    found = [module.FAMILY for module in modules if hasattr(module, 'FAMILY')]
    return {family.name: family for family in sorted(found, key=lambda family: family.name)}


def get_family(name: str) -> keymap.Family:
    """The family of a name; ValueError with the nearest one where there is none."""
    known = families()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise ValueError(
            f'no family {name!r}; '
            + (f'did you mean {near[0]!r}? ' if near else '')
            + f'There are: {", ".join(known)}'
        )
    return known[name]


def from_official(family: str, state_dict: Mapping, prefix: str = 'backbone.') -> dict:
    """Rename the keys of a released file to ours, which are mmpretrain's.

    Args:
        family: 'mae', 'timm-vit', ...; see :func:`families`.
        state_dict: names to tensors, or a checkpoint that keeps them under 'model' or 'state_dict'.
        prefix: what to put before the names of the backbone; '' for a bare backbone.

    Returns:
        names to the same tensors, not copied, in the same order.

    Raises:
        ValueError: an unknown family; unknown keys, missing keys or shapes that do not fit, all listed.
    """
    known = get_family(family)
    return keymap.convert(known, keymap.unwrap(state_dict, known.parts), to_official=False, prefix=prefix)[0]


def to_official(family: str, state_dict: Mapping, prefix: str = 'backbone.') -> dict:
    """Rename our keys to those of a release; the inverse of :func:`from_official`, with the same arguments and errors."""
    known = get_family(family)
    return dict(
        keymap.wrap(
            keymap.convert(known, keymap.unwrap(state_dict), to_official=True, prefix=prefix)[0], known.parts
        )
    )
