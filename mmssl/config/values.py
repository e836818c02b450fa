"""Checks of the numbers and switches of a config, before a run writes anything."""

import math
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from mmssl.config.length import schedulers_of


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, Integral) or float(value).is_integer())


# switches as text, of which Python takes every one for True
_SWITCH_TEXTS = ('true', 'false', 'yes', 'no', 'on', 'off')
# settings whose values are names that a user chooses
_NAMES = ('metainfo', 'label_map', 'classes', 'vis_backends', 'visualizer')
# (what the value must be, test)
_Rule = tuple[str, Callable[[Any], bool]]
_SWITCH: _Rule = ('True or False', lambda value: isinstance(value, bool))
_NUMBER: _Rule = ('a number', _is_number)
_NOT_NEGATIVE: _Rule = ('a number of at least 0', lambda value: _is_number(value) and value >= 0)
_POSITIVE: _Rule = ('a number above 0', lambda value: _is_number(value) and value > 0)
_COUNT: _Rule = ('a whole number of at least 1', lambda value: _is_whole(value) and value >= 1)
_COUNT_FROM_0: _Rule = ('a whole number of at least 0', lambda value: _is_whole(value) and value >= 0)
_TEXT: _Rule = ('a text', lambda value: isinstance(value, str))
_WHOLE: _Rule = ('a whole number', _is_whole)
_NUMBERS: _Rule = (
    'a list of numbers',
    lambda value: isinstance(value, (list, tuple)) and all(map(_is_number, value)),
)

_WORKERS: _Rule = (
    'a whole number from 0 to 1024',
    lambda value: _is_whole(value) and 0 <= value <= 1024,
)
# mmdet's numbers of boxes; a smaller one leaves out the last boxes instead
_COUNT_OR_ALL: _Rule = (
    'a whole number of at least 1, or -1 for all',
    lambda value: _is_whole(value) and (value >= 1 or value == -1),
)
_FRACTION: _Rule = ('a number from 0 to 1', lambda value: not _is_number(value) or 0 <= value <= 1)
# negative numbers of blocks would leave out all of them
_BLOCKS: _Rule = ('a number of at least 0', lambda value: not _is_number(value) or value >= 0)
_FINITE: _Rule = (
    'a finite number of at least 0',
    lambda value: _is_number(value) and 0 <= value < math.inf,
)
_BATCH: _Rule = (
    'a whole number from 1 to 1,000,000',
    lambda value: _is_whole(value) and 1 <= value <= 1_000_000,
)
_MODEL: dict[str, _Rule] = dict(
    max_per_img=_COUNT_OR_ALL,
    nms_pre=_COUNT_OR_ALL,
    iou_threshold=_FRACTION,
    pos_iou_thr=_FRACTION,
    min_pos_iou=_FRACTION,
    depth=_BLOCKS,
    decoder_depth=_BLOCKS,
    num_layers=_BLOCKS,
)
# pixels have at most 16 bits
_NORMALISATION: dict[str, _Rule] = dict(
    mean=(
        'a list of numbers from 0 to 65535',
        lambda value: _NUMBERS[1](value) and all(0 <= item <= 65535 for item in value),
    ),
    std=(
        'a list of numbers above 0, and at most 65535',
        lambda value: _NUMBERS[1](value) and all(0 < item <= 65535 for item in value),
    ),
)
_TRAINING: dict[str, _Rule] = dict(
    max_epochs=_COUNT, max_iters=_COUNT, val_interval=_COUNT, val_begin=_COUNT_FROM_0, by_epoch=_SWITCH
)
_SCHEDULE: dict[str, _Rule] = dict(
    by_epoch=_SWITCH,
    convert_to_iter_based=_SWITCH,
    verbose=_SWITCH,
    begin=_COUNT_FROM_0,
    end=_POSITIVE,
    warmup=_NOT_NEGATIVE,
    T_max=_POSITIVE,
    total_steps=_COUNT,
    step_size=_COUNT,
    eta_min=_NUMBER,
    eta_max=_NUMBER,
    eta_min_ratio=_NUMBER,
    start_factor=_NUMBER,
    end_factor=_NUMBER,
    factor=_NUMBER,
    gamma=_NUMBER,
    power=_NUMBER,
    final=_NOT_NEGATIVE,
    milestones=_NUMBERS,
    periods=_NUMBERS,
    restart_weights=_NUMBERS,
)
_OPTIMIZER: dict[str, _Rule] = dict(
    lr=_FINITE, weight_decay=_FINITE, momentum=_FRACTION, eps=_NUMBER, betas=_NUMBERS
)
_LOADER: dict[str, _Rule] = dict(
    batch_size=_BATCH,
    num_workers=_WORKERS,
    prefetch_factor=_COUNT,
    drop_last=_SWITCH,
    pin_memory=_SWITCH,
    persistent_workers=_SWITCH,
)
_HOOK: dict[str, _Rule] = dict(
    interval=_WHOLE, by_epoch=_SWITCH, max_keep_ckpts=_WHOLE, save_last=_SWITCH, begin=_NUMBER, end=_NUMBER
)
_TOP_LEVEL: dict[str, _Rule] = dict(
    resume=_SWITCH,
    load_from=_TEXT,
    work_dir=_TEXT,
    default_scope=_TEXT,
    experiment_name=_TEXT,
    launcher=_TEXT,
)
_SECTIONS: dict[str, dict[str, _Rule]] = dict(
    train_cfg=_TRAINING,
    train_dataloader=_LOADER,
    val_dataloader=_LOADER,
    test_dataloader=_LOADER,
    auto_scale_lr=dict(base_batch_size=_COUNT, enable=_SWITCH),
    randomness=dict(seed=_WHOLE, deterministic=_SWITCH, diff_rank_seed=_SWITCH),
    log_processor=dict(window_size=_COUNT, by_epoch=_SWITCH),
)


def check_values(cfg: Any) -> None:
    """Check the numbers and switches of training, schedules, optimizer, loaders and hooks.

    Args:
        cfg: A config, or a dict with the same keys.

    Raises:
        ValueError: A value is of another type or out of range; the message names the setting and the value.
    """
    _check(cfg, '', _TOP_LEVEL)
    for key in ('model', 'data_preprocessor'):
        _check_model(cfg.get(key), key)
    for section, rules in _SECTIONS.items():
        _check(cfg.get(section), section, rules)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        _check_classes(cfg.get(loader), loader)
    for scheduler in schedulers_of(cfg):
        _check(scheduler, f'param_scheduler {scheduler["type"]}', _SCHEDULE)
    _check_wrapper(cfg.get('optim_wrapper'), 'optim_wrapper')
    hooks = cfg.get('default_hooks')
    for name, hook in hooks.items() if isinstance(hooks, Mapping) else ():
        _check(hook, f'default_hooks.{name}', _HOOK)
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        _check(hook, f'custom_hooks[{index}]', _HOOK)


def _check_model(settings: Any, path: str) -> None:
    """Check the numbers of boxes and the normalisation anywhere in the settings of a model."""
    if isinstance(settings, (list, tuple)):
        for index, item in enumerate(settings):
            _check_model(item, f'{path}.{index}')
    if not isinstance(settings, Mapping):
        return
    _check(settings, path, _MODEL)
    if 'mean' in settings:  # of a data preprocessor; others have an std too, as initialisers
        _check_normalisation(settings, path)
    for key, item in settings.items():
        _check_model(item, f'{path}.{key}')


def _check_normalisation(settings: Mapping, path: str) -> None:
    mean, std = settings.get('mean'), settings.get('std')
    if not isinstance(mean, (list, tuple)) or not isinstance(std, (list, tuple)):
        return
    _check(settings, path, _NORMALISATION)
    if mean and std and len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise ValueError(f'{path}.mean = {list(mean)} and std = {list(std)} must be of the same length')
    if mean and std and 0 < max(mean) <= 1 and max(std) <= 1:
        raise ValueError(
            f'{path}.mean = {list(mean)} and std = {list(std)} must be those of values from 0 to 255; these '
            'are of values from 0 to 1: multiply them by 255'
        )


def _check_classes(settings: Any, path: str) -> None:
    """Check the names of classes anywhere in the settings of a data loader."""
    if isinstance(settings, (list, tuple)):
        for index, item in enumerate(settings):
            _check_classes(item, f'{path}.{index}')
    if not isinstance(settings, Mapping):
        return
    metainfo = settings.get('metainfo')
    classes = metainfo.get('classes') if isinstance(metainfo, Mapping) else None
    name = f'{path}.metainfo.classes'
    if isinstance(classes, str) and not os.path.splitext(classes)[1]:  # mmengine reads names from a file
        raise ValueError(
            f'{name} = {classes!r} must be a list of names; a single one needs a comma: ({classes!r},)'
        )
    if isinstance(classes, (list, tuple)):
        repeated = next((each for each in classes if classes.count(each) > 1), None)
        if repeated is not None:
            raise ValueError(f'{name} has {repeated!r} twice; every name must be unique')
    for key, item in settings.items():
        _check_classes(item, f'{path}.{key}')


def _check_wrapper(wrapper: Any, path: str) -> None:
    if not isinstance(wrapper, Mapping):
        return
    _check(wrapper, path, dict(accumulative_counts=_COUNT))
    _check(wrapper.get('optimizer'), f'{path}.optimizer', _OPTIMIZER)
    _check(wrapper.get('clip_grad'), f'{path}.clip_grad', dict(max_norm=_POSITIVE, clip_value=_POSITIVE))
    for key, value in wrapper.items():  # several optimizers
        if isinstance(value, Mapping) and 'optimizer' in value:
            _check_wrapper(value, f'{path}.{key}')


def _check(settings: Any, path: str, rules: dict[str, _Rule]) -> None:
    if not hasattr(settings, 'get'):  # a config, or a dict in it
        return
    for key, (meaning, fits) in rules.items():
        value = settings.get(key)
        if value is not None and not fits(value):
            raise ValueError(f'{path}.{key} = {value!r} must be {meaning}'.removeprefix('.'))


def refuse_text_switches(value: Any, path: str) -> None:
    """Refuse switches that are written as text, wherever they are in a setting.

    Args:
        value: The setting.
        path: Its name.

    Raises:
        ValueError: There is one; the message names it.
    """
    if path.rpartition('.')[2] in _NAMES:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_text_switches(item, f'{path}.{key}')
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if not isinstance(item, str):  # lists of text are names
                refuse_text_switches(item, f'{path}.{index}')
    elif isinstance(value, str) and value.lower() in _SWITCH_TEXTS:
        raise ValueError(f'{path} = {value!r} is a text, which counts as True; write True or False')
