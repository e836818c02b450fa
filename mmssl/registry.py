"""Registries of mmssl: children of mmengine's root registries, scope ``mmssl``.

A config keeps its toolbox's ``default_scope`` and names parts of mmssl with the prefix, ``type='mmssl.MAE'``:
mmengine then imports this module by itself, and ``locations`` import the parts. The registries are children
of the root and not of a toolbox's registry, because mmengine finds only direct children of the root by
their prefix (``Registry.get``). Importing this module applies :mod:`mmssl.hosts.patches`.
"""

import importlib
import importlib.util

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmssl.hosts import patches

patches.apply()

SCOPE = 'mmssl'


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


class LazyRegistry(Registry):
    """Registry that imports the parts for a toolbox only when a name is found nowhere else.

    mmengine imports all locations of a registry at its first use. Pre-training then neither needs mmseg nor
    waits for its import.

    Args:
        *args: Passed on to mmengine's Registry.
        pending: Module to import -> toolbox that it needs.
        **kwargs: Passed on to mmengine's Registry.
    """

    def __init__(self, *args, pending: dict[str, str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.pending = dict(pending or {})

    def import_pending(self, until: str | None = None) -> list[str]:
        """Import the parts that need a toolbox, and return the toolboxes that are missing.

        Args:
            until: Name of a part at which to stop; None imports everything.
        """
        missing = []
        for module, toolbox in list(self.pending.items()):
            if until in self.module_dict:
                break
            if not installed(toolbox):
                missing.append(toolbox)
            else:
                importlib.import_module(module)
                del self.pending[module]
        return missing

    def get(self, key: str):
        """Return the part of that name, as mmengine's Registry does."""
        name = key.removeprefix(f'{SCOPE}.')
        if self.pending and '.' not in name:
            self.import_from_location()
            self.import_pending(until=name)
        return super().get(key)


def _child(name: str, parent: Registry, *locations: str, **toolboxes: str) -> LazyRegistry:
    """Create the child of a root registry; ``toolboxes`` are toolbox=module of the parts that need one."""
    pending = {module: toolbox for toolbox, module in toolboxes.items()}
    return LazyRegistry(name, parent=parent, scope=SCOPE, locations=list(locations), pending=pending)


MODELS = _child(
    'model',
    MMENGINE_MODELS,
    'mmssl.layers',
    'mmssl.selfsup',
    'mmssl.promptable',
    mmseg='mmssl.segmentation',
    mmdet='mmssl.detection',
)
DATASETS = _child(
    'dataset', MMENGINE_DATASETS, 'mmssl.data', 'mmssl.data.mask_datasets', mmseg='mmssl.data.segmentation'
)
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'mmssl.data', 'mmssl.data.mask_transforms')
DATA_SAMPLERS = _child('data sampler', MMENGINE_DATA_SAMPLERS, 'mmssl.data')
HOOKS = _child('hook', MMENGINE_HOOKS, 'mmssl.engine', 'mmssl.data', 'mmssl.promptable.hooks')
METRICS = _child('metric', MMENGINE_METRICS, 'mmssl.evaluation')
OPTIMIZERS = _child('optimizer', MMENGINE_OPTIMIZERS, 'mmssl.engine')
OPTIM_WRAPPERS = _child('optim_wrapper', MMENGINE_OPTIM_WRAPPERS, 'mmssl.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optim_wrapper_constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'mmssl.engine'
)
PARAM_SCHEDULERS = _child('parameter scheduler', MMENGINE_PARAM_SCHEDULERS, 'mmssl.engine')
STRATEGIES = _child('strategy', MMENGINE_STRATEGIES, 'mmssl.engine.fsdp')


# defaults of mmpretrain's classes that differ from those of mmssl's classes of the same name
MMPRETRAIN_DEFAULTS: dict[str, dict] = {
    'MAEViT': {'out_type': 'raw'},
    'MoCoV3ViT': {'stop_grad_conv1': False},
}
# parts of mmpretrain's methods that those of mmssl cannot use, and what takes their place
COUNTERPARTS = {'MAEPretrainDecoder': 'mmssl.MAEDecoder', 'MAEPretrainHead': 'mmssl.MAEHead'}


def build(cfg, registry: Registry):
    """Build a part from a registry, whatever default scope is set.

    mmengine ignores the registry that ``build`` is called on once a default scope is set, and searches a
    plain name in the toolbox's registry. Here a plain name that mmssl has gets its prefix first, and keeps
    the defaults of mmpretrain, for which it may have been written; all others are left to the scope.

    Args:
        cfg: A dict with ``type``, or a part that is built already, which is returned unchanged.
        registry: One of the registries above.

    Returns:
        The built part.

    Raises:
        ValueError: The type is one of :data:`COUNTERPARTS`.
    """
    if not isinstance(cfg, dict):
        return cfg
    registry.import_from_location()
    name = cfg.get('type')
    if isinstance(name, str) and name.removeprefix('mmpretrain.') in COUNTERPARTS:
        counterpart = COUNTERPARTS[name.removeprefix('mmpretrain.')]
        raise ValueError(
            f'{name} is a part of mmpretrain that a method of mmssl cannot use; its counterpart is '
            f'{counterpart}'
        )
    if isinstance(name, str) and name in registry.module_dict:
        cfg = {**MMPRETRAIN_DEFAULTS.get(name, {}), **cfg, 'type': f'{SCOPE}.{name}'}
    return registry.build(cfg)
