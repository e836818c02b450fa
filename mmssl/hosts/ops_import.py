"""Import hook that serves ``mmcv._ext`` where mmcv has no compiled operators.

mmdet imports the operators when it is imported, so that without them not even detectors that need none can
be built. The hook loads a stand-in (:mod:`mmssl.hosts.mmcv_ext`) in place of the extension. torch is imported
inside the functions only.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types

from mmssl.hosts.distributions import DISTRIBUTIONS, UPSTREAM_SETUPTOOLS, distribution_of, version
from mmssl.hosts.environment import switched_on

EXTENSION = 'mmcv._ext'
STAND_IN = 'mmssl.hosts.mmcv_ext'


@functools.cache
def has_ops() -> bool:
    """Whether mmcv's compiled operators can be used; False for the stand-in of :func:`stand_in_for_ops`."""
    try:
        hidden = EXTENSION not in sys.modules and ops_are_hidden()
        spec = None if hidden else importlib.util.find_spec(EXTENSION)
        if spec is None or spec.origin == STAND_IN:
            return False
        importlib.import_module(EXTENSION)
    except (ImportError, OSError, ValueError):
        return False
    # a module without a file, as tests put in the extension's place, computes nothing
    return getattr(sys.modules[EXTENSION], '__file__', None) is not None


def ops_are_hidden() -> bool:
    """Whether ``MMSSL_NO_EXT=1`` asks for the stand-in even where compiled operators are installed."""
    return switched_on('MMSSL_NO_EXT')


class StandInModule(types.ModuleType):
    """Module in place of ``mmcv._ext``.

    It has the functions of :mod:`mmssl.hosts.mmcv_ext`. Every other name is a function that raises
    ImportError with the command that installs the compiled operators.
    """

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(f'{self.__name__} has no {name}')
        operators = importlib.import_module(STAND_IN)
        if name in operators.PROVIDED:
            function = getattr(operators, name)
        else:

            def function(*args, **kwargs):
                raise missing_operator(name)

            function.__name__ = name
        setattr(self, name, function)
        return function


class StandInFinder(importlib.abc.Loader):
    """Finder and loader of the stand-in, for where no other finder of ``sys.meta_path`` finds ``mmcv._ext``.

    Attributes:
        ignores_compiled: Serve the stand-in even if another finder has the extension.
    """

    def __init__(self):
        self.ignores_compiled = False

    def find_spec(self, name: str, path=None, target=None):
        """Return the spec of the stand-in; None for other names and where the extension is installed."""
        if name != EXTENSION:
            return None
        if not self.ignores_compiled and not ops_are_hidden() and self._extension_exists(path):
            return None
        return importlib.machinery.ModuleSpec(EXTENSION, self, origin=STAND_IN)

    def _extension_exists(self, path) -> bool:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                try:
                    if finder.find_spec(EXTENSION, path, None) is not None:
                        return True
                except ImportError:
                    return False
        return False

    def create_module(self, spec):
        """Return the stand-in."""
        return StandInModule(spec.name)

    def exec_module(self, module) -> None:
        """Do nothing: the module fetches its functions on first use."""


_FINDER = StandInFinder()


def stand_in_for_ops() -> None:
    """Make ``import mmcv._ext`` find a stand-in where mmcv has no compiled operators.

    The stand-in has the operators of most detectors and segmentors. A compiled
    extension is never touched, unless ``MMSSL_NO_EXT=1`` hides it. Imports nothing; safe to call more than
    once.
    """
    if EXTENSION in sys.modules and sys.modules[EXTENSION] is None:  # its import has been blocked
        del sys.modules[EXTENSION]
        _FINDER.ignores_compiled = True
    if not sys.meta_path or sys.meta_path[0] is not _FINDER:
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        sys.meta_path.insert(0, _FINDER)


def missing_operator(name: str) -> ImportError:
    """Return the error for an operator that the stand-in lacks."""
    import torch

    mmcv = distribution_of('mmcv') or DISTRIBUTIONS['mmcv'][0]
    command = ops_command(mmcv, version('mmcv'), torch.__version__, torch.version.cuda)
    return ImportError(
        f'{name} needs the compiled operators of mmcv, which are not installed, and mmssl has no '
        f'replacement for this one: {command}'
    )


def ops_command(mmcv: str, mmcv_version: str | None, torch_version: str, cuda: str | None) -> str:
    """Return the command that installs mmcv's compiled operators.

    Args:
        mmcv: Name of the distribution, 'onedl-mmcv' or 'mmcv'.
        mmcv_version: Version of the distribution, None for any.
        torch_version: Version of torch, such as '2.11.0+cu130'.
        cuda: CUDA version that torch was built with, such as '13.0'; None for a CPU build.
    """
    pip = 'python -m pip'
    pinned = f'{mmcv}=={mmcv_version}' if mmcv_version else mmcv
    build = 'cu' + cuda.replace('.', '') if cuda else 'cpu'
    digits = ''.join(re.findall(r'\d+', torch_version.partition('+')[0])[:3])
    source = (
        f"{pip} install ninja 'setuptools>=80,<{UPSTREAM_SETUPTOOLS}' wheel packaging && "
        f'MAX_JOBS=2 {pip} install --force-reinstall --no-deps --no-build-isolation '
        f'--no-binary {mmcv} {pinned}'
    )
    if not mmcv.startswith('onedl-'):
        return source
    wheel = (
        f'{pip} install --force-reinstall --no-deps --only-binary {mmcv} '
        f'--extra-index-url https://mmwheels.onedl.ai/{build}-torch{digits}/simple {pinned}'
    )
    return f'{wheel}; where there is no such wheel, with a compiler: {source}'
