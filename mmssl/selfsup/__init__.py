"""Self-supervised pre-training: one paper, one file.

Every module of this package is imported here, so that a new method is registered and importable from
``mmssl.selfsup`` without being named anywhere else.
"""

import importlib
import pkgutil
from typing import Any

from mmssl.registry import MODELS
from mmssl.selfsup.dino import DINOLoss

__all__ = ['DINOLoss']


def _export_registered_classes() -> None:
    """Import the modules of this package, and export the classes that they register."""
    for info in pkgutil.iter_modules(__path__, f'{__name__}.'):
        module = importlib.import_module(info.name)
        for name, member in vars(module).items():
            defined_here = isinstance(member, type) and member.__module__ == info.name
            if defined_here and MODELS.module_dict.get(name) is member:
                globals()[name] = member
                __all__.append(name)


def __getattr__(name: str) -> Any:  # tells type checkers that more is exported than they can see
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


_export_registered_classes()
