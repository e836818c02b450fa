"""NCCL without a GPU: the default process group refuses CPU tensors, and gloo carries those of the fake GPU.

A gloo group that the program makes for the CPU takes CPU tensors, and no others.
"""

import collections
import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from fake_cuda import CudaTensor, caller, fake_cuda, on_cpu
from torch import distributed
from torch.utils._pytree import tree_iter

# those that send tensors; collectives of objects copy them to the device of their group themselves
COLLECTIVES = (
    'all_gather',
    'all_gather_into_tensor',
    'all_reduce',
    'all_to_all',
    'all_to_all_single',
    'broadcast',
    'gather',
    'reduce',
    'reduce_scatter',
    'reduce_scatter_tensor',
    'scatter',
)


@contextlib.contextmanager
def nccl_stand_in() -> Iterator[collections.Counter]:
    """Context in a process of a gloo group; it counts collectives by their name and 'device' or 'host'."""
    calls: collections.Counter = collections.Counter()
    get_backend = distributed.get_backend

    def backend(group=None):
        return 'nccl' if _is_default(group) else get_backend(group)

    with contextlib.ExitStack() as stack:
        stack.enter_context(fake_cuda())
        replaced = {name: _checked(getattr(distributed, name), calls) for name in COLLECTIVES}
        stack.enter_context(mock.patch.multiple(distributed, get_backend=backend, **replaced))
        stack.enter_context(mock.patch.object(torch.cuda, 'current_device', lambda: 0))
        yield calls


def _is_default(group) -> bool:
    return group is None or group is distributed.group.WORLD


def _checked(original: Callable, calls: collections.Counter) -> Callable:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(*args, **kwargs):
        default = _is_default(signature.bind(*args, **kwargs).arguments.get('group'))
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and isinstance(tensor, CudaTensor) != default:
                where, group = ('cpu', 'nccl') if default else ('cuda', 'gloo')
                raise RuntimeError(
                    f'{original.__name__}: a tensor on {where} in a group of {group}, {caller()}'
                )
        calls[original.__name__, 'device' if default else 'host'] += 1
        args, kwargs = on_cpu((args, kwargs))
        return original(*args, **kwargs)

    return call
