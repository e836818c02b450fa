"""List of the patches, and the function that puts one in place."""

import functools
import importlib
import importlib.abc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


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


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """Finder that calls a function with each of certain modules once the module has been executed."""

    def __init__(self):
        self.functions: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(self, fullname: str, path=None, target=None):
        """Return what the other finders find, with a loader that calls the function at its end."""
        if fullname not in self.functions:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec'))
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((each for each in specs if each is not None), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                for function in self.functions[fullname]:
                    function(module)

            loader.exec_module = exec_module
        return spec


_WATCHER = _ImportWatcher()


def when_imported(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module: now if it has been imported, else at the end of its import.

    Args:
        name: Full name of the module, which does not have to exist.
        function: Called with the module; it may change its attributes.
    """
    if name in sys.modules:
        function(sys.modules[name])
        return
    _WATCHER.functions.setdefault(name, []).append(function)
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
