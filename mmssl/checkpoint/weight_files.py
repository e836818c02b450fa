"""Write weights by name, in PyTorch's format or as safetensors."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping

from mmssl.checkpoint.files import METADATA


def write_weights(
    weights: Mapping, path: str, wrapper: str | None = None, progress: Callable[[int], object] | None = None
) -> None:
    """Write weights atomically, in the format that the file's suffix names.

    Args:
        weights: Tensors by name.
        path: File to write: .safetensors for that format, which holds the bare weights; anything else for
            PyTorch's.
        wrapper: Key that holds the weights in PyTorch's format; None for bare weights.
        progress: Called with the number of bytes of every piece written in PyTorch's format.

    Raises:
        ImportError: The package safetensors is missing.
        OSError: The file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    if path.endswith('.safetensors'):
        _write_safetensors(weights, path, folder)
        return
    from mmssl.checkpoint.files import save_file

    save_file({wrapper: weights} if wrapper else weights, path, progress)


def _write_safetensors(weights: Mapping, path: str, folder: str) -> None:
    import torch

    try:
        from safetensors.torch import save_file
    except ImportError:
        raise ImportError(f'{path} needs the package safetensors: pip install safetensors') from None
    storages: set[int] = set()
    separate = {}
    for key, value in weights.items():  # the format does not allow two names for one memory
        storage = value.untyped_storage().data_ptr()
        if storage in storages:
            separate[key] = value.detach().clone(memory_format=torch.contiguous_format)
        else:
            separate[key] = value.detach().contiguous()
        storages.add(storage)
    # written beside the target and renamed, so that no reader sees half a file
    with tempfile.TemporaryDirectory(dir=folder, prefix='.convert-') as temporary:
        partial = os.path.join(temporary, 'part.safetensors')
        save_file(separate, partial, metadata={'format': 'pt', **_texts_of_metadata(weights)})
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def _texts_of_metadata(weights: Mapping) -> dict[str, str]:
    """Return what a state dict says about its modules as text, which is all that the format takes."""
    metadata = getattr(weights, '_metadata', None)
    if not metadata:
        return {}
    try:
        return {METADATA: json.dumps(metadata)}
    except (TypeError, ValueError):
        return {}  # of a module with objects of its own
