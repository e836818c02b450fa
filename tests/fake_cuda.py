"""Tensors on a GPU that is not there, which count how often the host would wait for it.

Inside :func:`fake_cuda` a tensor that is created on or copied to ``cuda`` is a :class:`CudaTensor`, which
computes on the CPU and claims to be on ``cuda:0``. An operation that mixes it with a CPU tensor fails, as on
CUDA. What makes the host wait for the device is counted with the line that asked for it: reading a value
(``item``, ``bool``, ``tolist``), shapes that depend on values (``nonzero``, masks as indices), and blocking
copies (a list as an index, a literal that becomes a tensor). Values are computed, so that control flow is
that of a real run. Neither CUDA nor a compiler is needed. Autocast on CUDA, streams, memory and Triton are
not simulated.
"""

import collections
import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

CUDA = torch.device('cuda:0')
# operators whose CUDA form reads a value of a tensor
READING = {
    '_local_scalar_dense',
    '_unique2',
    'bincount',
    'equal',
    'histc',
    'masked_select',
    'multinomial',
    'nms',
    'nonzero',
    'unique_consecutive',
    'unique_dim',
}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index'}
FACTORIES = (
    *(
        'arange',
        'empty',
        'empty_strided',
        'eye',
        'full',
        'linspace',
        'logspace',
        'ones',
        'scalar_tensor',
        'zeros',
    ),
    *('rand', 'randint', 'randn', 'randperm', 'normal', 'tril_indices', 'triu_indices'),
    *('empty_like', 'full_like', 'ones_like', 'zeros_like', 'rand_like', 'randint_like', 'randn_like'),
)
NEW = ('new_empty', 'new_empty_strided', 'new_full', 'new_ones', 'new_zeros')
TOOLBOXES = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}

_counters: list['Syncs'] = []


class CudaTensor(torch.Tensor):
    """A tensor on the fake GPU.

    Attributes:
        data_on_cpu: The CPU tensor with its values.
    """

    data_on_cpu: torch.Tensor
    device = CUDA
    is_cuda = True
    is_cpu = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> 'CudaTensor':
        """Wrap a CPU tensor, which is not copied."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), values.stride(), values.storage_offset(), dtype=values.dtype, device='cpu'
        )
        tensor.data_on_cpu = values
        return tensor

    def __repr__(self) -> str:
        return f'CudaTensor(shape={tuple(self.shape)}, dtype={self.dtype})'

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        _check_devices(name, args, kwargs)
        _count_syncs(name, args, kwargs)
        cpu_args, cpu_kwargs = on_cpu((args, kwargs))
        result = func(*cpu_args, **cpu_kwargs)
        if name == 'copy_' and not isinstance(args[0], CudaTensor):
            return args[0]
        return return_and_correct_aliasing(
            func, args, kwargs, tree_map_only(torch.Tensor, CudaTensor, result)
        )


class Syncs(collections.Counter):
    """Number of host syncs by (reason, line of code).

    Attributes:
        in_backward: A backward pass is running, in which autograd itself creates plain tensors of zeros.
    """

    in_backward = False

    def wait(self, reason: str) -> None:
        """Count a sync at the line that is running."""
        self[reason, caller()] += 1

    def own(self) -> int:
        """Number of syncs that lines of the package asked for, and not a toolbox."""
        return sum(count for (_, line), count in self.items() if line.startswith('mmssl/'))


def _check_devices(name: str, args, kwargs) -> None:
    """Raise RuntimeError on what CUDA refuses: CPU tensors with dimensions, and generators of the CPU."""
    checked = [args[0], *args[2:], kwargs] if name in INDEXING else [args, kwargs]
    tensors = [value for value in tree_iter(checked) if isinstance(value, torch.Tensor)]
    on_device = any(isinstance(tensor, CudaTensor) for tensor in tensors)
    mixed = any(not isinstance(tensor, CudaTensor) and tensor.dim() for tensor in tensors)
    if name in ('copy_', '_to_copy') or _counters[-1].in_backward:
        mixed = False
    elif name in INDEXING:  # a CPU index is copied, a CPU tensor takes no index from the device
        mixed = mixed or not isinstance(args[0], CudaTensor)
    if mixed:
        raise RuntimeError(f'{name}: tensors on cpu and {CUDA}, {caller()}')
    if on_device:
        _check_generator(name, kwargs)


def _check_generator(name: str, kwargs) -> None:
    if isinstance(kwargs.get('generator'), torch.Generator):
        raise RuntimeError(f'{name}: a generator of the CPU draws on {CUDA}, {caller()}')


def _count_syncs(name: str, args, kwargs) -> None:
    wait = _counters[-1].wait
    if name in READING or (name == 'repeat_interleave' and kwargs.get('output_size') is None):
        wait(name)
    elif name == 'copy_':
        to_device, from_device = (isinstance(tensor, CudaTensor) for tensor in args[:2])
        if to_device != from_device:
            wait('copy to the device' if to_device else 'copy to the host')
    elif name in INDEXING:
        masks = [index is None or index.dtype == torch.bool for index in args[1]]
        assigns = name not in ('index', '_unsafe_index') and not _counters[-1].in_backward
        by_number = assigns and not isinstance(args[2], CudaTensor)
        if by_number and all(masks):
            return  # masked_fill
        if by_number:
            wait('number assigned to an index')
        for index in args[1]:
            if isinstance(index, CudaTensor) and index.dtype in (torch.bool, torch.uint8):
                wait('mask as an index')
            elif isinstance(index, torch.Tensor) and not isinstance(index, CudaTensor):
                wait('list or CPU tensor as an index')


@contextlib.contextmanager
def fake_cuda() -> Iterator[Syncs]:
    """Context in which ``cuda`` is a device; it gives the counter of host syncs."""
    syncs = Syncs()
    _counters.append(syncs)
    replaced = [
        *((torch, name, _factory(getattr(torch, name))) for name in FACTORIES),
        *((torch, name, _from_data(getattr(torch, name))) for name in ('tensor', 'as_tensor', 'asarray')),
        *((torch.Tensor, name, _factory(getattr(torch.Tensor, name))) for name in NEW),
        *((torch.Tensor, name, _METHODS[name](getattr(torch.Tensor, name))) for name in _METHODS),
        (torch.nn.functional, 'one_hot', _one_hot(torch.nn.functional.one_hot)),
        (torch.autograd, 'backward', _backward(torch.autograd.backward)),
        *(
            (module, 'ext_module', CompiledOperators(module.ext_module))
            for name, module in list(sys.modules.items())
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module')
        ),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replaced:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        try:
            yield syncs
        finally:
            _counters.pop()


def _factory(original: Callable) -> Callable:
    """A function that creates tensors; on the device nothing is copied."""

    @functools.wraps(original)
    def create(*args, device=None, requires_grad=False, **kwargs):
        if device is None:
            result = original(*args, **kwargs)
        elif torch.device(device).type == 'cuda':
            _check_generator(original.__name__, kwargs)
            result = on_cuda(original(*args, device='cpu', **kwargs))
        else:
            result = on_cpu(original(*args, device=device, **kwargs))
        return result.requires_grad_() if requires_grad else result

    return create


def _from_data(original: Callable) -> Callable:
    """A function that makes a tensor of numbers, which are copied to the device."""

    @functools.wraps(original)
    def create(data, *args, device=None, **kwargs):
        if device is None or isinstance(data, torch.Tensor):
            result = original(data, *args, **kwargs)
            return result if device is None else result.to(device)
        to_device = torch.device(device).type == 'cuda'
        result = original(data, *args, device='cpu' if to_device else device, **kwargs)
        return _move(result, device) if to_device else result

    return create


def _new_tensor(original: Callable) -> Callable:
    def new_tensor(self, data, *, dtype=None, device=None, **kwargs):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **kwargs)

    return new_tensor


def _to(original: Callable) -> Callable:
    def to(self, *args, copy=False, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        moved = self if device is None else _move(self, device, non_blocking)
        return original(moved, dtype=dtype or moved.dtype, copy=copy, memory_format=memory_format)

    return to


def _numpy(original: Callable) -> Callable:
    def numpy(self, *args, **kwargs):
        if isinstance(self, CudaTensor):
            raise TypeError(f'a tensor on {CUDA} as a NumPy array, {caller()}')
        return original(self, *args, **kwargs)

    return numpy


_METHODS: dict[str, Callable] = {
    'new_tensor': _new_tensor,
    'to': _to,
    'type_as': lambda original: lambda self, other: self.to(other.device, other.dtype),
    'cpu': lambda original: lambda self, **kwargs: _move(self, 'cpu'),
    'cuda': lambda original: lambda self, device=CUDA, non_blocking=False: _move(self, device, non_blocking),
    'tolist': lambda original: lambda self: original(_move(self.detach(), 'cpu')),
    'numpy': _numpy,
    '__array__': _numpy,
    'pin_memory': lambda original: lambda self, *args: self,
}


def _one_hot(original: Callable) -> Callable:
    """``one_hot``, whose CPU form reads values that the CUDA form does not read."""

    def one_hot(tensor, num_classes=-1):
        if isinstance(tensor, CudaTensor) and num_classes < 0:
            _counters[-1].wait('one_hot without num_classes')
        result = original(on_cpu(tensor), num_classes)
        return on_cuda(result) if isinstance(tensor, CudaTensor) else result

    return one_hot


def _backward(original: Callable) -> Callable:
    def backward(*args, **kwargs):
        syncs = _counters[-1]
        syncs.in_backward = True
        try:
            return original(*args, **kwargs)
        finally:
            syncs.in_backward = False

    return backward


class CompiledOperators:
    """The compiled operators of mmcv, which take no subclasses of tensors.

    Args:
        extension: ``mmcv._ext``.
    """

    def __init__(self, extension):
        self.extension = extension

    def __getattr__(self, name: str):
        def call(*args, **kwargs):
            _check_devices(name, args, kwargs)
            if name in READING:
                _counters[-1].wait(name)
            args, kwargs = on_cpu((args, kwargs))
            return tree_map_only(torch.Tensor, CudaTensor, getattr(self.extension, name)(*args, **kwargs))

        return call


def _move(tensor: torch.Tensor, device, non_blocking: bool = False) -> torch.Tensor:
    """Copy a tensor to another device; itself where it is there already."""
    to_device = torch.device(device).type == 'cuda'
    if to_device == isinstance(tensor, CudaTensor):
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f'a copy to {device} through which a gradient flows, {caller()}')
    if not (to_device and non_blocking):
        _counters[-1].wait('copy to the device' if to_device else 'copy to the host')
    return CudaTensor(tensor.detach()) if to_device else tensor.data_on_cpu.detach()


def on_cpu(tree):
    """The tensors of a nested structure with their values on the CPU, without counting."""
    return tree_map_only(CudaTensor, lambda tensor: tensor.data_on_cpu, tree)


def on_cuda(value):
    """A module (in place), or the tensors of lists, dicts and data samples, on the fake GPU."""
    if isinstance(value, torch.nn.Module):
        return _module_on_cuda(value)
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, CudaTensor) else CudaTensor(value.detach())
    if isinstance(value, dict):
        return {name: on_cuda(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_cuda(part) for part in value)
    if hasattr(value, 'all_items'):  # a data element of mmengine
        moved = value.new()
        for name, part in value.items():
            moved.set_field(on_cuda(part), name, field_type='data')
        return moved
    return value


def _module_on_cuda(model: torch.nn.Module) -> torch.nn.Module:
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in moved:
                values = CudaTensor(parameter.detach())
                moved[id(parameter)] = torch.nn.Parameter(values, parameter.requires_grad)
            module._parameters[name] = None if parameter is None else moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved.setdefault(id(buffer), on_cuda(buffer))
        if hasattr(module, '_device'):  # a data preprocessor of mmengine
            module._device = CUDA
    return model


def caller() -> str:
    """File and line of the package or of a toolbox that is running."""
    for frame in reversed(traceback.extract_stack()):
        parts = Path(frame.filename).parts
        for name in TOOLBOXES & set(parts[:-1]):
            return f'{"/".join(parts[parts.index(name) :])}:{frame.lineno}'
        if 'mmssl' in parts:
            index = len(parts) - 1 - parts[::-1].index('mmssl')
            return f'{"/".join(parts[index:])}:{frame.lineno}'
    return 'neither the package nor a toolbox'
