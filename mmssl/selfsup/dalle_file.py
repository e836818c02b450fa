"""Reading DALL-E's released ``encoder.pkl`` without running what is in it."""

import pickle
import types
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmssl.checkpoint import UnsafeCheckpointError, load_file, safe_loading, strip_module, weights_of


def read_dalle(path: str) -> dict[str, Tensor]:
    """Read the state dict of ``encoder.pkl``, a module of the package ``dall_e``, or of a file of tensors.

    Classes named in the pickle are replaced by empty ones: nothing in the file is executed, and ``dall_e``
    need not be installed.

    Raises:
        UnsafeCheckpointError: The file names something else than modules and tensors.
    """
    try:
        return dict(strip_module(weights_of(load_file(path), path)))
    except UnsafeCheckpointError:
        reader: Any = types.ModuleType('mmssl_module_reader')
        reader.Unpickler = _ModuleReader
        reader.load = lambda file, **kwargs: _ModuleReader(file, **kwargs).load()
        with safe_loading(path), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            module = torch.load(path, map_location='cpu', pickle_module=reader, weights_only=False)
    return module.parameters_by_name() if isinstance(module, _InertModule) else {}


class _InertModule:
    """Stand-in for any module of a pickle, with its parameters and submodules."""

    dump_patches = False  # older streams carry the source of a class, with which torch compares this one

    def parameters_by_name(self, prefix: str = '') -> dict[str, Tensor]:
        parameters = {
            prefix + name: value.detach()
            for name, value in vars(self).get('_parameters', {}).items()
            if value is not None
        }
        for name, module in vars(self).get('_modules', {}).items():
            if isinstance(module, _InertModule):
                parameters |= module.parameters_by_name(f'{prefix}{name}.')
        return parameters


class _ModuleReader(pickle.Unpickler):
    """Unpickler that builds tensors and empty modules, nothing else."""

    ALLOWED: ClassVar = {
        ('collections', 'OrderedDict'),
        ('torch._utils', '_rebuild_tensor_v2'),
        ('torch._utils', '_rebuild_parameter'),
        ('torch', 'device'),
        ('builtins', 'set'),
        ('__builtin__', 'set'),
    }

    def find_class(self, module: str, name: str):
        if module.split('.')[0] == 'dall_e' or module.startswith('torch.nn.modules.'):
            return _InertModule
        is_dtype = module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in self.ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
