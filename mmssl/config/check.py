"""Checks of a config's structure that mmengine makes late, unclearly or not at all."""

import difflib
from collections.abc import Mapping
from typing import Any

from mmssl.config.values import check_values, refuse_text_switches
from mmssl.hints import nearest

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# the top-level settings that mmengine's runner or mmssl reads; a config may define names of its own as well
SETTINGS = (
    'model',
    *LOADERS,
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'auto_scale_lr',
    'optim_wrapper',
    'param_scheduler',
    'val_evaluator',
    'test_evaluator',
    'default_hooks',
    'custom_hooks',
    'data_preprocessor',
    'load_from',
    'resume',
    'launcher',
    'env_cfg',
    'log_processor',
    'log_level',
    'visualizer',
    'vis_backends',
    'default_scope',
    'randomness',
    'experiment_name',
    'runner_type',
    'work_dir',
    'strategy',
    'tta_model',
    'custom_imports',
    'sync_bn',
    'model_wrapper_cfg',
    'compile',
    'cfg',
)
_DICTS = ('model', *LOADERS, 'default_hooks', 'env_cfg', 'optim_wrapper', 'auto_scale_lr', 'randomness')


def check_settings(cfg: Any) -> None:
    """Check the top-level settings of a config; mmengine silently ignores misspelt ones.

    Args:
        cfg: An mmengine ``Config``.

    Raises:
        ValueError: A name is nearly that of a setting which is missing, there is no model, or a number or a
            switch has another type or is out of range.
        TypeError: A setting that must be a dict is not.
    """
    for key in cfg:
        close = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.85)
        if key not in SETTINGS and close and close[0] not in cfg:
            raise ValueError(f'{cfg.filename}: nothing reads {key!r}; did you mean {close[0]!r}?')
    if 'model' not in cfg:
        raise ValueError(f"{cfg.filename} has no 'model'{nearest('model', cfg)}")
    for key in _DICTS:
        value = cfg.get(key)
        _check_dict(value, key, cfg.filename)
        if key in LOADERS and value:
            _check_dict(value.get('dataset', {}), f'{key}.dataset', cfg.filename)
    hooks = cfg.get('custom_hooks')
    if hooks and not (isinstance(hooks, (list, tuple)) and all(isinstance(hook, dict) for hook in hooks)):
        raise TypeError(f'{cfg.filename}: custom_hooks = {hooks!r} has to be a list of dicts')
    check_values(cfg)
    for key in SETTINGS:
        refuse_text_switches(cfg.get(key), key)


def check_nested_settings(cfg: Any) -> None:
    """Check the settings inside hooks, environment and datasets.

    Args:
        cfg: A config, or a dict with the same keys.

    Raises:
        TypeError: A setting that must be a dict is not; the message names it.
    """
    name = getattr(cfg, 'filename', None) or 'the config'
    for key, value in _items(cfg.get('default_hooks')):
        _check_dict(value, f'default_hooks.{key}', name)
    for key, value in _items(cfg.get('env_cfg')):
        if key in ('dist_cfg', 'mp_cfg'):
            _check_dict(value, f'env_cfg.{key}', name)
    for loader in LOADERS:
        settings = cfg.get(loader)
        if isinstance(settings, dict) and isinstance(settings.get('dataset'), dict):
            _check_dataset(settings['dataset'], f'{loader}.dataset', name)


def _items(settings: Any) -> list[tuple[str, Any]]:
    return list(settings.items()) if isinstance(settings, Mapping) else []


def _check_dict(value: Any, path: str, name: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise TypeError(f'{name}: {path} = {value!r} has to be a dict')


def _check_dataset(dataset: Any, path: str, name: str) -> None:
    if not isinstance(dataset, dict):
        raise TypeError(f'{name}: {path} = {dataset!r} has to be a dict')
    if dataset.get('dataset') is not None:
        _check_dataset(dataset['dataset'], f'{path}.dataset', name)
    parts = dataset.get('datasets') or ()
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f'{name}: {path}.datasets = {parts!r} has to be a list of dicts')
    for index, part in enumerate(parts):
        _check_dataset(part, f'{path}.datasets[{index}]', name)
