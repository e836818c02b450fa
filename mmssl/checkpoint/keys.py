"""Weights in a checkpoint and the prefixes of their names."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmssl.errors import CheckpointError, MismatchError


def weights_of(checkpoint, source='the checkpoint') -> Mapping[str, torch.Tensor]:
    """Return the weights in a checkpoint: those under ``state_dict`` or ``model``, or the checkpoint itself.

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
    for key in ('state_dict', 'model'):  # of the toolboxes, and of many papers' code
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key]
    return checkpoint


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


def strip_module(state_dict: Mapping) -> Mapping:
    """Remove the ``module.`` that saving a wrapped model leaves in front of every key.

    Other prefixes, such as ``modules.`` or ``module1.``, stay.
    """
    if not state_dict or not all(isinstance(key, str) and key.startswith('module.') for key in state_dict):
        return state_dict
    return strip_prefix(state_dict, 'module.')


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
