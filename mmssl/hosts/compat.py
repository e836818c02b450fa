"""Differences between the toolboxes' distributions and versions, and mends of what is broken in them.

The only place that looks at distribution names. torch and mmengine are imported inside the functions.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
from typing import Any

# import name -> (OneDL's distribution, upstream's)
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
HOSTS = tuple(DISTRIBUTIONS)
UPSTREAM_SETUPTOOLS = (
    82  # the first without pkg_resources, which upstream mmengine 0.10 and the build of mmcv import
)
EXTENSION = 'mmcv._ext'
STAND_IN = 'mmssl.hosts.mmcv_ext'


def owners_of(import_name: str) -> list[str]:
    """Every installed distribution that carries the package; more than one means that they overwrote each other's files."""
    names = importlib.metadata.packages_distributions().get(import_name, [])
    # distributions that list no files are asked for by name
    known = [name for name in (*DISTRIBUTIONS.get(import_name, ()), import_name) if _installed(name)]
    return sorted({name.lower().replace('_', '-') for name in [*names, *known]})


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def distribution_of(import_name: str) -> str | None:
    """The distribution that carries the package, or None when none does; of several OneDL's comes first."""
    owners = owners_of(import_name)
    return next(
        (name for name in DISTRIBUTIONS.get(import_name, ()) if name in owners), owners[0] if owners else None
    )


def version(import_name: str) -> str | None:
    """Version of the distribution that carries the package, or None when it is not installed."""
    distribution = distribution_of(import_name)
    return None if distribution is None else importlib.metadata.version(distribution)


def flavour() -> str:
    """``'onedl'``, ``'upstream'``, ``'mixed'`` (both at once), or ``'none'``."""
    found = set()
    for import_name, (onedl, _) in DISTRIBUTIONS.items():
        found |= {'onedl' if name == onedl else 'upstream' for name in owners_of(import_name)}
    return 'none' if not found else 'mixed' if len(found) == 2 else found.pop()


@functools.cache
def has_ops() -> bool:
    """Whether mmcv's compiled operators can be used; False for the stand-in of :func:`stand_in_for_ops`, which serves detection too."""
    try:
        spec = (
            importlib.util.find_spec(EXTENSION) if EXTENSION in sys.modules or not ops_are_hidden() else None
        )
        if spec is None or spec.origin == STAND_IN:
            return False
        importlib.import_module(EXTENSION)
    except (ImportError, OSError, ValueError):
        return False
    # a stand-in without a file lets configs be built, but computes nothing
    return getattr(sys.modules[EXTENSION], '__file__', None) is not None


def ops_are_hidden() -> bool:
    """Whether the user asks for the stand-in where compiled operators are installed: ``MMSSL_NO_EXT=1``."""
    return os.environ.get('MMSSL_NO_EXT', '').lower() not in ('', '0', 'false', 'no')


class _StandIn(types.ModuleType):
    """In the place of ``mmcv._ext``: what detection calls, and for every other name a function that says what is missing."""

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(f'{self.__name__} has no {name}')
        ours = importlib.import_module(STAND_IN)
        if name in ours.PROVIDED:
            function = getattr(ours, name)
        else:

            def function(*args, **kwargs):
                raise missing_operator(name)

            function.__name__ = name
        setattr(self, name, function)
        return function


class _StandInFinder(importlib.abc.Loader):
    """Finds the stand-in where no other finder of ``sys.meta_path`` finds a ``mmcv._ext``."""

    def __init__(self):
        self.hidden = False

    def find_spec(self, name: str, path=None, target=None):
        """Spec of the stand-in, or None: another name, or there is a real one."""
        if name != EXTENSION or (not self.hidden and not ops_are_hidden() and self._is_there(path)):
            return None
        return importlib.machinery.ModuleSpec(EXTENSION, self, origin=STAND_IN)

    def _is_there(self, path) -> bool:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                try:
                    if finder.find_spec(EXTENSION, path, None) is not None:
                        return True
                except ImportError:
                    return False
        return False

    def create_module(self, spec):
        """The stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module) -> None:
        """Nothing: it takes its functions when they are asked for."""


_FINDER = _StandInFinder()


def stand_in_for_ops() -> None:
    """Let ``import mmcv._ext`` find a stand-in where mmcv has no compiled operators, so that mmdet imports and its detectors work.

    It has what R-FCN, Faster R-CNN, Mask R-CNN and deformable backbones call (:mod:`mmssl.hosts.mmcv_ext`),
    from torch and torchvision; any other function can be imported, and raises ImportError with the command to
    install the compiled ones when it is called. A real extension is never touched, unless ``MMSSL_NO_EXT=1``
    hides it. Imports nothing; safe to call more than once.
    """
    if sys.modules.get(EXTENSION, sys) is None:  # somebody blocked it
        del sys.modules[EXTENSION]
        _FINDER.hidden = True
    if not sys.meta_path or sys.meta_path[0] is not _FINDER:
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        sys.meta_path.insert(0, _FINDER)


def missing_operator(name: str) -> ImportError:
    """The error for an operator that the stand-in lacks."""
    import torch

    mmcv, cuda = distribution_of('mmcv') or DISTRIBUTIONS['mmcv'][0], torch.version.cuda
    return ImportError(
        f'{name} needs the compiled operators of mmcv, which are not installed (mmssl stands in for those that R-FCN, '
        f'Faster R-CNN, Mask R-CNN and deformable backbones call): '
        f'{ops_command(mmcv, version("mmcv"), torch.__version__, cuda)}'
    )


def ops_command(mmcv: str, mmcv_version: str | None, torch_version: str, cuda: str | None) -> str:
    """The command that installs mmcv's compiled operators.

    Args:
        mmcv: the distribution, 'onedl-mmcv' or 'mmcv'.
        mmcv_version: of it, None for any.
        torch_version: as '2.11.0+cu130'.
        cuda: version that torch was built with, as '13.0'; None for a CPU build.
    """
    pip = 'python -m pip'
    pinned = f'{mmcv}=={mmcv_version}' if mmcv_version else mmcv
    build = 'cu' + cuda.replace('.', '') if cuda else 'cpu'
    numbers = ''.join(re.findall(r'\d+', torch_version.partition('+')[0])[:3])
    source = (
        f"{pip} install ninja 'setuptools>=80,<{UPSTREAM_SETUPTOOLS}' wheel packaging && "
        f'MAX_JOBS=2 {pip} install --force-reinstall --no-deps --no-build-isolation --no-binary {mmcv} {pinned}'
    )
    wheel = (
        f'{pip} install --force-reinstall --no-deps --only-binary {mmcv} '
        f'--extra-index-url https://mmwheels.onedl.ai/{build}-torch{numbers}/simple {pinned}'
    )
    return (
        f'{wheel}; where there is no such wheel, with a compiler: {source}'
        if mmcv.startswith('onedl-')
        else source
    )


def patch() -> None:
    """Mend mmengine, whichever host uses it, and stand in for compiled operators that mmcv lacks; safe to call more than once.

    Raises:
        ImportError: mmengine is not installed; the message has the command.
    """
    if importlib.util.find_spec('mmengine') is None:
        raise ImportError("mmengine is not installed: pip install 'mmssl[onedl]'")
    stand_in_for_ops()
    from mmengine.config import utils

    if getattr(utils, '_mmssl_patched', False):
        return
    utils._mmssl_patched = True
    _patch_config_inheritance()
    _patch_checkpoints()
    _patch_ranks_on_cpu()
    _patch_test_results()


def _patch_config_inheritance() -> None:
    """Make ``_base_='mmseg::...'`` and ``'mmssl::...'`` work, without a pip install behind the user's back."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    # looked up as a distribution first and as a package next, and only the package's name is the same in both
    # flavours
    MODULE2PACKAGE.update({name: name for name in (*HOSTS[2:], 'mmssl')})
    get_path = Config._get_cfg_path

    def get_cfg_path(cfg_path, filename):
        if not cfg_path.startswith('mmssl::'):
            return get_path(cfg_path, filename)
        # our configs name every part with its prefix and are built in their host's scope: a stamp of ours
        # would hide the host's parts
        from mmssl.config.paths import config_root

        return os.path.join(config_root(), cfg_path.removeprefix('mmssl::')), None

    Config._get_cfg_path = staticmethod(get_cfg_path)


def replace_everywhere(old, new) -> None:
    """Put ``new`` in the place of a function wherever a loaded module of mmengine or of a host holds ``old`` under some name."""
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] in HOSTS and module is not None:
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)


def _patch_checkpoints() -> None:
    """Every way in which mmengine reads, writes or matches a checkpoint goes through ``mmssl.checkpoint``."""
    from mmengine.fileio import LocalBackend, get_file_backend
    from mmengine.runner import checkpoint as host

    from mmssl import checkpoint as ours
    from mmssl.checkpoint import matching

    host_save, host_to_model = host.save_checkpoint, host._load_checkpoint_to_model

    @functools.wraps(host._safe_torch_load)
    def safe_torch_load(file, map_location=None, weights_only=None):
        return ours.load_file(file, map_location=map_location)

    @functools.wraps(host.load_url)
    def load_url(url, model_dir=None, map_location=None, progress=True, check_hash=False, file_name=None):
        import torch

        with ours.safe_loading(url):
            return torch.hub.load_state_dict_from_url(
                url, model_dir, map_location, progress, check_hash, file_name, weights_only=True
            )

    @functools.wraps(host_save)
    def save_checkpoint(checkpoint, filename, file_client_args=None, backend_args=None):
        remote = file_client_args is not None or '://' in str(filename)
        if remote or not isinstance(get_file_backend(filename, backend_args=backend_args), LocalBackend):
            return host_save(checkpoint, filename, file_client_args, backend_args)
        ours.save_file(checkpoint, filename)

    @functools.wraps(host.load_state_dict)
    def load_state_dict(module, state_dict, strict=False, logger=None):
        matching.load_matching(module, state_dict, strict=strict, logger=logger)

    @functools.wraps(host._load_checkpoint_with_prefix)
    def load_checkpoint_with_prefix(prefix, filename, map_location=None):
        weights = ours.weights_of(host._load_checkpoint(filename, map_location=map_location), filename)
        return matching.select_prefix(ours.strip_module(weights), prefix, filename)

    @functools.wraps(host_to_model)
    def load_checkpoint_to_model(
        model, checkpoint, strict=False, logger=None, revise_keys=((r'^module\.', ''),)
    ):
        # the runners' default pattern has a bare dot, which also eats the head of 'modules.' or 'module1'
        revise_keys = [
            (r'^module\.' if pattern == r'^module.' else pattern, new) for pattern, new in revise_keys
        ]
        if 'state_dict' in checkpoint:
            return host_to_model(model, checkpoint, strict, logger, revise_keys)
        host_to_model(model, {'state_dict': ours.weights_of(checkpoint)}, strict, logger, revise_keys)
        return checkpoint

    @functools.wraps(host.find_latest_checkpoint)
    def find_latest_checkpoint(path):
        found = ours.find_resume_checkpoint(path)
        return None if found is None else os.fspath(found)

    # modules that took a function under its name before are mended too
    for name, new in (
        ('_safe_torch_load', safe_torch_load),
        ('load_url', load_url),
        ('save_checkpoint', save_checkpoint),
        ('load_state_dict', load_state_dict),
        ('_load_checkpoint_with_prefix', load_checkpoint_with_prefix),
        ('_load_checkpoint_to_model', load_checkpoint_to_model),
        ('find_latest_checkpoint', find_latest_checkpoint),
    ):
        if hasattr(host, name):
            replace_everywhere(getattr(host, name), new)


def _patch_ranks_on_cpu() -> None:
    """Let several processes train on the CPU: mmengine asks for a CUDA device in each, and hands its number to the model wrappers."""
    import torch
    from mmengine.dist import utils
    from mmengine.model import wrappers

    host_init = utils._init_dist_pytorch

    @functools.wraps(host_init)
    def init_dist_pytorch(backend, init_backend='torch', **kwargs):
        accelerators = (
            utils.is_mlu_available,
            utils.is_npu_available,
            utils.is_musa_available,
            torch.cuda.is_available,
        )
        if init_backend != 'torch' or any(available() for available in accelerators):
            return host_init(backend, init_backend=init_backend, **kwargs)
        torch.distributed.init_process_group(backend=backend, **kwargs)

    utils._init_dist_pytorch = init_dist_pytorch
    # DDP takes no devices for a model on the CPU; FSDP has to be told that it is to stay there
    for name, argument, value in (
        ('MMDistributedDataParallel', 'device_ids', None),
        ('MMFullyShardedDataParallel', 'device_id', torch.device('cpu')),
    ):
        if hasattr(wrappers, name):
            _set_on_cpu(getattr(wrappers, name), argument, value)


def _set_on_cpu(wrapper: type[Any], argument: str, value) -> None:
    host_init = wrapper.__init__

    @functools.wraps(host_init)
    def init(self, module, *args, **kwargs):
        import torch

        first = next(module.parameters(), None)
        if not torch.cuda.is_available() and (first is None or first.device.type == 'cpu'):
            kwargs[argument] = value
        host_init(self, module, *args, **kwargs)

    wrapper.__init__ = init


def _patch_test_results() -> None:
    """Let the first rank alone write the results of a test: mmengine's ranks all write the same file at once, and spoil it."""
    from mmengine.dist import master_only
    from mmengine.hooks import LoggerHook

    LoggerHook.after_test_epoch = master_only(LoggerHook.after_test_epoch)
