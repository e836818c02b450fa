"""Checkpoint files: read without executing code, and written whole or not at all.

Formats: PyTorch's zip archives and its older streams, and safetensors. No model family is known here; key
maps are in :mod:`mmssl.convert`.
"""

import contextlib
import errno
import json
import os
import pickle
import re
import secrets
import shutil
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmssl.checkpoint.pickled_types import allowed_globals, resolved
from mmssl.checkpoint.regular_files import special_file
from mmssl.checkpoint.trust import is_trusted
from mmssl.errors import CheckpointError, UnsafeCheckpointError, warn_renamed

TEMPORARY_SUFFIX = '.mmssl-tmp'
# name of a state dict's _metadata in the header of a safetensors file
METADATA = 'state_dict_metadata'
# words in torch's RuntimeErrors while reading that are not about the file
_MACHINE = re.compile(r'cuda|device|memory|backend', re.IGNORECASE)
# patterns of torch's messages about what weights_only=True refuses
_REFUSED = (
    r'GLOBAL (\S+(?:\(.*\))?)',
    r'unrecognized function (.+)',
    r'object of type (.+)',
    r'instantiate (?:class|object) (.+)',
)


@contextlib.contextmanager
def safe_loading(source) -> Iterator[None]:
    """Allow the globals of the toolboxes' checkpoints in ``torch.load``, and reword what it raises.

    Args:
        source: Name of the file, for the errors.

    Raises:
        UnsafeCheckpointError: The file holds more than data.
        CheckpointError: The file is not a complete checkpoint.
    """
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            yield
    except (
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        RecursionError,
        MemoryError,
        NotImplementedError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        reworded = _reworded(error, source)
        if reworded is None:
            raise
        raise reworded from None


def _reworded(error: Exception, source) -> Exception | None:
    """Return the error of mmssl for one of torch's; None if the file is not to blame."""
    text = str(error)
    refused = next((match for pattern in _REFUSED if (match := re.search(pattern, text))), None)
    if isinstance(error, pickle.UnpicklingError) and refused:
        return UnsafeCheckpointError(
            f'{source} holds {refused.group(1).strip()}, which loading would execute; nothing was run. '
            'If you know who made the file, pass --trust-checkpoint (in Python trust=True); '
            'otherwise ask for a file of tensors only, such as .safetensors'
        )
    if isinstance(error, RuntimeError) and not _blames_file(text, source):
        return None  # such as no memory, or a missing device
    # EINVAL: a seek before the start, in a truncated archive
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return None
    reason = re.split(r'[.] |\n', text)[0][:160]
    return CheckpointError(
        f'{source} is {_state(source)}: {type(error).__name__} {reason}; '
        'copy or download it again, or name an older one'
    )


def _blames_file(text: str, source) -> bool:
    """Whether a RuntimeError of torch is about the file, and not about a missing device or memory."""
    num_bytes = re.search(r'tried to allocate (\d+) bytes', text)
    size = _size(source)
    if num_bytes is not None and size is not None and int(num_bytes[1]) > size:
        return True  # a tensor larger than the file that holds it
    return not _MACHINE.search(text)


def _state(source) -> str:
    size = _size(source)
    if size == 0:
        return 'empty (0 bytes)'
    return 'not a whole checkpoint' if size is None else f'not a whole checkpoint ({size:,} bytes)'


def _size(source) -> int | None:
    try:
        return os.path.getsize(source)
    except (OSError, TypeError):
        return None


def load_file(path, map_location='cpu', trust: bool = False, mmap: bool = False):
    """Read a checkpoint without executing anything in it.

    Args:
        path: Path of a file, or an open binary file. Names that end in ``.safetensors`` are read as such.
        map_location: As for ``torch.load``; None means the devices that were saved.
        trust: Unpickle whatever the file holds, code included.
        mmap: Map the tensors instead of reading them (zip archives only), if only the rest is needed.

    Returns:
        What was saved, most often a dict.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafeCheckpointError: The file holds more than data, and ``trust`` is off.
        CheckpointError: The file is truncated, empty or not a checkpoint.
    """
    is_name = isinstance(path, (str, os.PathLike))
    if is_name:
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'no checkpoint {path}{_not_a_file(path)}')
        if path.suffix == '.safetensors':
            return _load_safetensors(path, map_location)
    source = path if is_name else getattr(path, 'name', 'the checkpoint')
    with safe_loading(source):
        content = torch.load(
            path,
            map_location=map_location,
            weights_only=not (trust or is_trusted()),
            mmap=(mmap and is_name and zipfile.is_zipfile(path)) or None,
        )
        return resolved(content)


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return ': it is a directory'
    kind = special_file(path.stat().st_mode) if path.exists() else ''
    return f': it is {kind}, which is not read' if kind else '; check the path'


def _load_safetensors(path: Path, map_location) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file as load_safetensors
    except ImportError:
        raise ImportError(f'{path} needs the package safetensors: pip install safetensors') from None
    try:
        weights = load_safetensors(path, device=str(map_location or 'cpu'))
        with safe_open(path, 'pt') as file:
            text = (file.metadata() or {}).get(METADATA)
        return _with_metadata(weights, text)
    except SafetensorError as error:
        raise CheckpointError(
            f'{path} is not a whole safetensors file ({_size(path):,} bytes): {error}; '
            'copy or download it again'
        ) from None


def _with_metadata(weights: dict, text: str | None) -> dict:
    """Return weights with the ``_metadata`` of a state dict, which the format keeps as text."""
    with contextlib.suppress(ValueError, RecursionError):
        metadata = json.loads(text) if text else None
        if isinstance(metadata, dict) and all(isinstance(value, dict) for value in metadata.values()):
            described: Any = OrderedDict(weights)
            described._metadata = OrderedDict(metadata)
            return described
    return weights


class ProgressFile:
    """A binary file that reports the bytes read from it and written to it, for a progress bar.

    Args:
        file: The open file.
        progress: Called with the number of bytes of every piece.
    """

    def __init__(self, file, progress: Callable[[int], object]):
        self._file = file
        self._progress = progress

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def read(self, *args) -> bytes:
        """Read as the file does."""
        piece = self._file.read(*args)
        self._progress(len(piece))
        return piece

    def readinto(self, buffer) -> int:
        """Read as the file does."""
        count = self._file.readinto(buffer)
        self._progress(count or 0)
        return count

    def write(self, piece) -> int:
        """Write as the file does."""
        count = self._file.write(piece)
        self._progress(count or 0)
        return count


def save_file(
    obj,
    path,
    progress: Callable[[int], object] | None = None,
    *,
    tell: Callable[[int], object] | None = None,
) -> None:
    """Write a checkpoint so that ``path`` holds either the old file or the whole new one, whatever happens.

    The tensors are streamed to a temporary file beside ``path``, which is flushed to the disk and then
    renamed.

    Args:
        obj: Anything that ``torch.save`` takes.
        path: The file; missing directories are created, a symbolic link is followed.
        progress: Called with the number of bytes of every piece that is written.
        tell: Old name of ``progress``.

    Raises:
        OSError: The disk is full, the directory cannot be written, ...; ``path`` is unchanged.
    """
    if tell is not None:
        warn_renamed("save_file's argument tell", 'progress')
        progress = tell
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f'.{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'xb') as file:
            torch.save(obj, file if progress is None else ProgressFile(file, progress))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch's writer raises its own RuntimeError on top of the OSError of a failed write, or below it
        cause = next((e for e in (error, error.__context__, error.__cause__) if isinstance(e, OSError)), None)
        if cause is None:
            raise
        raise OSError(cause.errno or errno.EIO, _save_failure(cause, obj, target)) from None


def _save_failure(error: OSError, obj, target: Path) -> str:
    text = f'cannot save the checkpoint {target}: {error.strerror or error}; '
    text += f'about {_tensor_bytes(obj):,} bytes are needed'
    existing = next(parent for parent in target.parents if parent.exists())
    with contextlib.suppress(OSError):
        text += f', {shutil.disk_usage(existing).free:,} are free'
    return (
        f'{text}. What was there before is unchanged: '
        'make room, or choose another --work-dir, and go on with --resume'
    )


def _sync_directory(directory: Path) -> None:
    if os.name != 'posix':
        return  # directories cannot be opened on Windows
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tensor_bytes(obj) -> int:
    """Return the bytes of the distinct storages in nested dicts, lists and tuples."""
    storages = {}
    stack = [obj]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, Mapping):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    return sum(storages.values())


def write_text(path, text: str) -> None:
    """Write a small text file atomically."""
    target = Path(path)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}{TEMPORARY_SUFFIX}')
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path, content, indent: int | None = 2) -> None:
    """Write a JSON file atomically; its folder is created.

    Args:
        path: The file.
        content: What :func:`json.dumps` takes.
        indent: Spaces per level; None for the shortest form.
    """
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    separators = (',', ':') if indent is None else None
    write_text(path, json.dumps(content, indent=indent, separators=separators) + '\n')
