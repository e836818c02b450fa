"""Patches of mmengine and mmcv: one function for each fault, listed with its reason by ``mmssl doctor``.

:mod:`mmssl.registry` applies them on import; ``MMSSL_NO_PATCH=1`` leaves them out. torch and mmengine are
imported inside the functions only.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
from typing import Any

from mmssl.hosts import (  # noqa: F401  list their patches
    channel_patches,
    checkpoint_patches,
    file_patches,
    operator_patches,
    sample_patches,
    unpickling_patches,
)

# names that code written for mmssl 0.1 imports from here
from mmssl.hosts.distributions import DISTRIBUTIONS, TOOLBOXES, distribution_of, flavour, owners_of, version
from mmssl.hosts.environment import switched_on
from mmssl.hosts.ops_import import has_ops, missing_operator, ops_are_hidden, ops_command, stand_in_for_ops
from mmssl.hosts.patching import PATCHES, Patch, listed, replace

__all__ = [
    'DISTRIBUTIONS',
    'PATCHES',
    'TOOLBOXES',
    'Patch',
    'apply',
    'distribution_of',
    'flavour',
    'has_ops',
    'missing_operator',
    'ops_are_hidden',
    'ops_command',
    'owners_of',
    'patch',
    'patches_are_off',
    'stand_in_for_ops',
    'version',
]


def patches_are_off() -> bool:
    """Whether ``MMSSL_NO_PATCH=1`` asks for the toolboxes as they are."""
    return switched_on('MMSSL_NO_PATCH')


def apply() -> None:
    """Apply all patches, unless ``MMSSL_NO_PATCH=1`` is set; safe to call more than once.

    Raises:
        ImportError: mmengine is not installed; the message has the command that installs it.
    """
    if importlib.util.find_spec('mmengine') is None:
        raise ImportError("mmengine is not installed: pip install 'mmssl[onedl]'")
    if patches_are_off():
        return
    stand_in_for_ops()  # each time: another finder may have come first since the last call
    import mmengine

    if getattr(mmengine, '_mmssl_patched', False):
        return
    mmengine._mmssl_patched = True
    for each in PATCHES:
        each.function()


patch = apply


@listed(
    reason='mmdet cannot be imported without the compiled operators of mmcv, which have to be built',
    versions='mmcv 2.1.0 to 2.3.6 (OneDL)',
    until='mmcv on PyPI has compiled operators, or mmdet imports them where it calls them',
)
def serve_operators() -> None:
    """Serve ``mmcv._ext`` from :mod:`mmssl.hosts.mmcv_ext` where it is not installed."""
    stand_in_for_ops()


@listed(
    reason="_base_ = 'mmseg::...' is searched under upstream's distribution name, which pip then installs",
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='MODULE2PACKAGE knows the installed distributions',
)
def inherit_toolbox_configs() -> None:
    """Look up the configs of a toolbox by the name of its package, which both flavours share."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.update({name: name for name in (*TOOLBOXES[2:], 'mmssl')})


@listed(
    reason='a config inherited from a package gets its scope, which does not have the parts of the toolbox; '
    'configs of a checkout are not found',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine lets a package say where its configs are and that they need no stamp',
)
def inherit_own_configs() -> None:
    """Make ``_base_ = 'mmssl::...'`` find the configs of this package, without a scope."""
    from mmengine.config import Config

    get_cfg_path = Config._get_cfg_path

    def get_own_cfg_path(cfg_path, filename):
        if not cfg_path.startswith('mmssl::'):
            return get_cfg_path(cfg_path, filename)
        from mmssl.hosts.mim import config_root

        return os.path.join(config_root(), cfg_path.removeprefix('mmssl::')), None

    Config._get_cfg_path = staticmethod(get_own_cfg_path)


@listed(
    reason='every process started by torchrun selects a CUDA device, also where there is none',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='_init_dist_pytorch asks whether CUDA is available',
)
def start_processes_on_cpu() -> None:
    """Start the process group without a device on machines that have no accelerator."""

    def make(original):
        import torch
        from mmengine.dist import utils

        def init_dist_pytorch(backend, init_backend='torch', **kwargs):
            accelerators = (
                utils.is_mlu_available,
                utils.is_npu_available,
                utils.is_musa_available,
                torch.cuda.is_available,
            )
            if init_backend != 'torch' or any(available() for available in accelerators):
                return original(backend, init_backend=init_backend, **kwargs)
            return torch.distributed.init_process_group(backend=backend, **kwargs)

        return init_dist_pytorch

    replace('_init_dist_pytorch', ('mmengine.dist.utils',), make)


@listed(
    reason='the model wrappers get the index of a CUDA device for a model on the CPU',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='the runner passes devices only for models that are on one',
)
def wrap_models_on_cpu() -> None:
    """Wrap models on the CPU without devices (DistributedDataParallel), or sharded on the CPU (FSDP)."""
    import torch
    from mmengine.model import wrappers

    for name, argument, value in (
        ('MMDistributedDataParallel', 'device_ids', None),
        ('MMFullyShardedDataParallel', 'device_id', torch.device('cpu')),
    ):
        if hasattr(wrappers, name):
            _set_argument_on_cpu(getattr(wrappers, name), argument, value)


def _set_argument_on_cpu(wrapper: type[Any], argument: str, value) -> None:
    original = wrapper.__init__

    @functools.wraps(original)
    def init(self, module, *args, **kwargs):
        import torch

        parameter = next(module.parameters(), None)
        if not torch.cuda.is_available() and (parameter is None or parameter.device.type == 'cpu'):
            kwargs[argument] = value
        original(self, module, *args, **kwargs)

    wrapper.__init__ = init


@listed(
    reason='all ranks write the results of a test to the same file at once, which spoils it',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='LoggerHook.after_test_epoch writes on the first rank only',
)
def write_test_results_once() -> None:
    """Write the results of a test on the first rank only."""
    from mmengine.dist import master_only
    from mmengine.hooks import LoggerHook

    LoggerHook.after_test_epoch = master_only(LoggerHook.after_test_epoch)


@listed(
    reason='nothing of mmpretrain can be imported beside transformers 5, which lacks names that the '
    'multimodal models need',
    versions='mmpretrain 1.3.6 (OneDL)',
    until='mmpretrain asks for a version of transformers below 5, or supports it',
)
def leave_out_multimodal_models() -> None:
    """Let mmpretrain do without its multimodal models, as where transformers is not installed."""
    try:
        major = int(importlib.metadata.version('transformers').split('.')[0])
    except importlib.metadata.PackageNotFoundError:
        return
    if version('mmpretrain') is None or major < 5:
        return
    name = 'mmpretrain.utils.dependency'
    if name not in sys.modules:
        # by its file: a command that needs nothing of mmpretrain does not import it
        package = importlib.util.find_spec('mmpretrain')
        folder = ((package and package.submodule_search_locations) or [''])[0]
        path = os.path.join(folder, 'utils', 'dependency.py')
        if not os.path.isfile(path):
            return
        spec: Any = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    sys.modules[name].WITH_MULTIMODAL = False  # type: ignore[attr-defined]


@listed(
    reason='the error about a batch norm over a single value per channel does not say what to do',
    versions='torch 2.1 to 2.11',
    until='torch names the cures',
)
def explain_single_values() -> None:
    """Add the cure to torch's error about a batch norm that gets one value per channel."""

    def make(original):
        def verify_batch_size(size):
            try:
                original(size)
            except ValueError as error:
                raise ValueError(
                    f'{error}: a batch norm cannot normalise over a single value of each channel; give each '
                    'process batches of at least two images (train_dataloader.batch_size, drop_last=True), '
                    "or use norm_cfg=dict(type='SyncBN') on several GPUs or dict(type='GN', num_groups=32)"
                ) from None

        return verify_batch_size

    replace('_verify_batch_size', ('torch.nn.functional',), make)
