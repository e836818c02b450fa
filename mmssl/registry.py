"""Registries of mmssl: children of mmengine's root registries, scope ``mmssl``.

A config keeps its host's ``default_scope`` and names our parts with the prefix, ``type='mmssl.MAE'``:
mmengine then imports this module by itself, and ``locations`` import the parts. Children of the root and not
of a host's registry, because mmengine finds only direct children of the root by their prefix
(``Registry.get``).
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


class HostBoundRegistry(Registry):
    """mmengine imports all locations of a registry at its first use; here what needs a host waits until a name is found nowhere else.

    Pre-training then neither needs mmseg nor waits for its import.

    Args:
        hosts: module to import -> the toolbox that it needs.
        others: of mmengine's Registry.
    """

    def __init__(self, *args, hosts: dict[str, str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.hosts = dict(hosts or {})

    def import_hosts(self, until: str | None = None) -> list[str]:
        """Import what needs a host, no further than the part named ``until``, and return the hosts that are missing."""
        missing = []
        for location, host in list(self.hosts.items()):
            if until in self.module_dict:
                break
            if not installed(host):
                missing.append(host)
            else:
                importlib.import_module(location)
                del self.hosts[location]
        return missing

    def get(self, key: str):
        """The part of that name, as mmengine's Registry."""
        name = key.removeprefix(f'{SCOPE}.')
        if self.hosts and '.' not in name:
            self.import_from_location()
            self.import_hosts(until=name)
        return super().get(key)


def _child(name: str, parent: Registry, *locations: str, **hosts: str) -> HostBoundRegistry:
    return HostBoundRegistry(
        name,
        parent=parent,
        scope=SCOPE,
        locations=list(locations),
        hosts={at: host for host, at in hosts.items()},
    )


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
    'dataset', MMENGINE_DATASETS, 'mmssl.data', 'mmssl.promptable.data', mmseg='mmssl.segmentation.datasets'
)
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'mmssl.data', 'mmssl.promptable.transforms')
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


def build(cfg, registry: Registry):
    """Build ``cfg`` from ``registry``, whatever default scope is set.

    mmengine ignores the registry that ``build`` is called on once a default scope is set, so a plain name of
    ours would be looked up in a host's registry. Here a plain name that is ours gets its prefix first; every
    other name is left to the scope.

    Args:
        cfg: a dict with ``type``, or a part that is built already (returned as it is).
        registry: one of the registries above.

    Returns:
        the built part.
    """
    if not isinstance(cfg, dict):
        return cfg
    registry.import_from_location()
    if isinstance(cfg.get('type'), str) and cfg['type'] in registry.module_dict:
        cfg = {**cfg, 'type': f'{SCOPE}.{cfg["type"]}'}
    return registry.build(cfg)
