"""Weights in a checkpoint and the prefixes of their names."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from mmssl.errors import CheckpointError, MismatchError

# keys of the weights in files of the toolboxes, of many papers' code and of micro-sam
_WEIGHTS = ('state_dict', 'model', 'model_state', 'model_state_dict')
# prefix of a compiled module, which may also be a part of the model
COMPILED = '_orig_mod.'
# prefixes of whole models inside compiled, distributed, Lightning's, MedSAM's and other modules
WRAPPERS = (COMPILED, 'module.', 'model.', 'sam.')


def weights_of(checkpoint, source='the checkpoint') -> Mapping[str, torch.Tensor]:
    """Return the weights in a checkpoint: those under ``state_dict``, ``model``, ..., or the whole.

    Args:
        checkpoint: Content of a checkpoint file.
        source: Name of the file, for the error.

    Raises:
        CheckpointError: The checkpoint is not a mapping.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'{source} holds a {type(checkpoint).__name__}, not weights by name; save model.state_dict()'
        )
    for key in _WEIGHTS:
        if isinstance(checkpoint.get(key), Mapping):
            return weights_of(checkpoint[key], source)
    return checkpoint


def only_part(checkpoint: Mapping, source='the checkpoint', logger='current') -> Mapping:
    """Return the weights under the only key that has some, such as ``teacher``; a dict of weights as it is.

    Args:
        checkpoint: Weights by name, or parts by name that are such dicts.
        source: Name of the file, for messages.
        logger: As for mmengine's ``print_log``.

    Raises:
        MismatchError: Several parts have weights.
    """
    from mmengine.logging import print_log

    if any(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return checkpoint
    parts = [key for key, value in checkpoint.items() if isinstance(value, Mapping) and _has_tensors(value)]
    if not parts:
        return checkpoint
    if len(parts) > 1:
        names = ', '.join(map(repr, parts))
        raise MismatchError(f'{source} has weights under {names}; save one of these as a file of its own')
    print_log(f'{source}: the weights under {parts[0]!r} are taken', logger)
    return checkpoint[parts[0]]


def _has_tensors(part: Mapping) -> bool:
    return any(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in part.items())


def strip_prefix(state_dict: Mapping, prefix: str) -> OrderedDict:
    """Return the entries under a prefix, without it, together with the ``_metadata`` of their modules."""
    stripped: Any = OrderedDict(
        (key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix)
    )
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        stripped._metadata = {
            key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)
        }
        stripped._metadata.setdefault('', metadata.get(prefix[:-1], {}))
    return stripped


def add_prefix(state_dict: Mapping, prefix: str) -> OrderedDict:
    """Return the entries under names that begin with a prefix, with the ``_metadata`` of their modules."""
    return _renamed(state_dict, lambda key: prefix + key)


def strip_module(state_dict: Mapping) -> Mapping:
    """Remove the ``module.`` that saving a wrapped model leaves in front of every key, and ``_orig_mod.``.

    Other prefixes, such as ``modules.`` or ``module1.``, stay.
    """
    if state_dict and all(isinstance(key, str) for key in state_dict):
        if any(_has_compiled(key) for key in state_dict):
            state_dict = _renamed(state_dict, _without_compiled)
        if all(key.startswith('module.') for key in state_dict):
            return strip_prefix(state_dict, 'module.')
    return state_dict


def strip_wrappers(
    state_dict: Mapping, model_keys: Iterable[str], source: str = 'the checkpoint', logger='current'
) -> Mapping:
    """Remove the prefixes of modules around the model, each with a log line.

    Args:
        state_dict: Weights by name.
        model_keys: Names of the weights of the model.
        source: Name of the file, for the log.
        logger: As for mmengine's ``print_log``.

    Raises:
        MismatchError: A key is not a name.
    """
    from mmengine.logging import print_log

    keys = set(model_keys)
    other = next((key for key in state_dict if not isinstance(key, str)), None)
    if other is not None:
        raise MismatchError(f'{source}: {other!r:.40} is no name of a weight; save model.state_dict()')
    removed = []
    if any(map(_has_compiled, state_dict)) and not any(map(_has_compiled, keys)):
        state_dict = _renamed(state_dict, _without_compiled)
        removed.append(COMPILED)
    while state_dict and not keys.intersection(state_dict):
        prefix = next((each for each in (*WRAPPERS, 'backbone.') if _wraps(each, state_dict, keys)), None)
        if prefix is None:
            break
        state_dict = _renamed(state_dict, functools.partial(_without_prefix, prefix))
        removed.append(prefix)
    if removed:
        print_log(f'{source}: {", ".join(removed)} removed from the names of the weights', logger)
    return state_dict


def _wraps(prefix: str, state_dict: Iterable[str], model_keys: set[str], depth: int = 2) -> bool:
    """Whether names without a prefix, or without further ones behind it, are those of the model."""
    names = list(state_dict)
    inner = [key.removeprefix(prefix) for key in names if key.startswith(prefix)]
    if not inner or (prefix == 'backbone.' and len(inner) < len(names)):
        return False  # a model with a head is not its backbone
    if model_keys.intersection(inner):
        return True
    return depth > 0 and any(_wraps(each, inner, model_keys, depth - 1) for each in (*WRAPPERS, 'backbone.'))


def _has_compiled(key: str) -> bool:
    return key.startswith(COMPILED) or f'.{COMPILED}' in key


def _without_compiled(key: str) -> str:
    return key.removeprefix(COMPILED).replace(f'.{COMPILED}', '.')


def _without_prefix(prefix: str, key: str) -> str:
    return key.removeprefix(prefix)


def _renamed(state_dict: Mapping, rename: Callable[[str], str]) -> OrderedDict:
    """Rename the weights and the modules of ``_metadata``."""
    renamed: Any = OrderedDict((rename(key), value) for key, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        renamed._metadata = OrderedDict(
            (rename(f'{key}.').removesuffix('.'), value) for key, value in metadata.items()
        )
    return renamed


def select_prefix(state_dict: Mapping, prefix: str, source: str = 'the checkpoint') -> OrderedDict:
    """Return the entries under a prefix, without it; a final dot is added.

    Args:
        state_dict: Weights by name.
        prefix: Prefix of the keys.
        source: Name of the file, for the error.

    Raises:
        MismatchError: No key has the prefix.
    """
    prefix = prefix if prefix.endswith('.') else prefix + '.'
    selected = strip_prefix(state_dict, prefix)
    for wrapper in WRAPPERS:
        selected = selected or strip_prefix(state_dict, wrapper + prefix)
    if not selected:
        heads = sorted({key.partition('.')[0] + '.' for key in state_dict})
        raise MismatchError(
            f'{source} has no key under prefix={prefix!r}; it has {shortened(state_dict)}, '
            f'under {shortened(heads)}: name one of these, or leave the prefix out'
        )
    return selected


def shortened(keys: Iterable, count: int = 4) -> str:
    """Return the first keys, separated by commas, and the number of all of them if there are more."""
    keys = [str(key) for key in keys]
    if not keys:
        return 'nothing'
    return ', '.join(keys[:count]) + (f', ... ({len(keys)})' if len(keys) > count else '')
