"""List of the patches, and the function that puts one in place."""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A change to a toolbox while it is in use.

    Attributes:
        name: Name of the patch.
        reason: What is wrong in the toolbox.
        versions: Affected versions, among those that were tried.
        until: Condition under which the patch can be removed.
        function: Function that applies it, once per process.
    """

    name: str
    reason: str
    versions: str
    until: str
    function: Callable[[], None]


PATCHES: list[Patch] = []


def listed(reason: str, versions: str, until: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorate a function that applies a patch, so that it is applied and listed."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        PATCHES.append(Patch(function.__name__, reason, versions, until, function))
        return function

    return decorate


def replace(attribute: str, modules: tuple[str, ...], make: Callable[[Callable], Callable]) -> None:
    """Replace a function in the modules that hold it under its name.

    Only the first of them is imported. A module that is imported later takes the replacement from there; one
    that has been imported before holds the original and is changed too.

    Args:
        attribute: Name of the function.
        modules: Names of the modules, the one that defines or uses the function first.
        make: Called with the original, returns its replacement.
    """
    original = getattr(importlib.import_module(modules[0]), attribute, None)
    if original is None:  # other flavours and versions lack some functions
        return
    replacement = functools.wraps(original)(make(original))
    for name in modules:
        module = sys.modules.get(name)
        if getattr(module, attribute, None) is original:
            setattr(module, attribute, replacement)
