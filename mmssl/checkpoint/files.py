"""Checkpoint files: read without executing code, written whole or not at all, matched to a model with a report.

Formats: PyTorch's zip archives and its older streams, and safetensors. No model family is known here; key
    maps live in ``mmssl.convert``.
"""

import argparse
import contextlib
import errno
import os
import pickle
import re
import secrets
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmssl.errors import CheckpointError, UnsafeCheckpointError

TEMPORARY_SUFFIX = '.mmssl-tmp'
_trust = False


@contextlib.contextmanager
def trusted(enabled: bool = True) -> Iterator[None]:
    """Allow pickled code in the checkpoints read inside this context: the command line's ``--trust-checkpoint`` and nothing else."""
    global _trust
    before, _trust = _trust, enabled
    try:
        yield
    finally:
        _trust = before


def _history_statistic(owner, name: str):
    """Stand in for ``builtins.getattr``, which the pickle of a HistoryBuffer names for its four statistics; anything else is refused."""
    from mmengine.logging import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return HistoryBuffer.__dict__[name]
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr({owner!r}, {name!r})')


def _allowed_globals() -> list:
    """What the hosts' own checkpoints hold besides tensors and plain types, each harmless when called with any argument."""
    numpy_core: Any = np._core if hasattr(np, '_core') else np.core
    multiarray = numpy_core.multiarray
    allowed: list = [
        np.ndarray,
        np.dtype,
        slice,
        argparse.Namespace,
        (_history_statistic, 'builtins.getattr'),
    ]
    for name in ('_reconstruct', 'scalar'):
        allowed += [
            (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
        ]
    allowed += [type(np.dtype(code)) for code in '?bhilqBHILQefdFDSU']
    try:
        from mmengine.logging import HistoryBuffer

        allowed.append(HistoryBuffer)
    except ImportError:
        pass
    return allowed


@contextlib.contextmanager
def safe_loading(source) -> Iterator[None]:
    """Allow what a checkpoint may hold, and turn what ``torch.load`` raises inside into an error naming ``source`` and the cure."""
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            yield
    except (
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        text = str(error)
        refused = (
            re.search(r'GLOBAL (\S+(?:\(.*\))?)', text)
            or re.search(r'unrecognized function (.+)', text)
            or re.search(r'object of type (.+)', text)
            or re.search(r'instantiate (?:class|object) (.+)', text)
        )
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise UnsafeCheckpointError(
                f'{source} holds {refused.group(1).strip()}, which loading would execute; nothing was run. If you know who made the file, '
                f'pass --trust-checkpoint (in Python trust=True); otherwise ask for a file of tensors only, such as .safetensors'
            ) from None
        broken = (
            'PytorchStreamReader',
            'unexpected EOF',
            'might be corrupted',
            'central directory',
            'Invalid magic number',
        )
        if isinstance(error, RuntimeError) and not any(sign in text for sign in broken):
            raise  # such as no memory, or a device that is not there: the file is not to blame
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # EINVAL: a seek before the start, in a cut archive
            raise
        size = _size(source)
        state = (
            'not a whole checkpoint'
            if size is None
            else 'empty (0 bytes)'
            if size == 0
            else f'not a whole checkpoint ({size:,} bytes)'
        )
        reason = re.split(r'[.] |\n', text)[0][:160]
        raise CheckpointError(
            f'{source} is {state}: {type(error).__name__} {reason}; '
            'copy or download it again, or name an older one'
        ) from None


def _size(source) -> int | None:
    try:
        return os.path.getsize(source)
    except (OSError, TypeError):
        return None


def load_file(path, map_location='cpu', trust: bool = False, mmap: bool = False):
    """Read a checkpoint without executing anything that is in it.

    Args:
        path: a file, or an open binary file. A name that ends in ``.safetensors`` is read as such.
        map_location: as for ``torch.load``; None means the devices that were saved.
        trust: unpickle whatever the file holds, code included.
        mmap: map the tensors instead of reading them (zip archives only), for a look at the rest.

    Returns:
        what was saved, most often a dict.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file holds more than data, and ``trust`` is off.
        CheckpointError: truncated, empty or not a checkpoint.
    """
    is_name = isinstance(path, (str, os.PathLike))
    if is_name:
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f'no checkpoint {path}' + (': it is a directory' if path.is_dir() else '; check the path')
            )
        if path.suffix == '.safetensors':
            return _load_safetensors(path, map_location)
    source = path if is_name else getattr(path, 'name', 'the checkpoint')
    with safe_loading(source):
        return torch.load(
            path,
            map_location=map_location,
            weights_only=not (trust or _trust),
            mmap=(mmap and is_name and zipfile.is_zipfile(path)) or None,
        )


def _load_safetensors(path: Path, map_location) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors
    except ImportError:
        raise ImportError(f'{path} needs the package safetensors: pip install safetensors') from None
    try:
        return load_safetensors(path, device=str(map_location or 'cpu'))
    except SafetensorError as error:
        raise CheckpointError(
            f'{path} is not a whole safetensors file ({_size(path):,} bytes): {error}; '
            'copy or download it again'
        ) from None


class Metered:
    """A binary file that tells how many bytes go through it, for a progress bar.

    Args:
        file: what is read or written.
        tell: called with the number of bytes of every piece.
    """

    def __init__(self, file, tell: Callable[[int], object]):
        self._file, self._tell = file, tell

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def read(self, *args) -> bytes:
        """As of the file."""
        piece = self._file.read(*args)
        self._tell(len(piece))
        return piece

    def readinto(self, buffer) -> int:
        """As of the file."""
        count = self._file.readinto(buffer)
        self._tell(count or 0)
        return count

    def write(self, piece) -> int:
        """As of the file."""
        count = self._file.write(piece)
        self._tell(count or 0)
        return count


def save_file(obj, path, tell: Callable[[int], object] | None = None) -> None:
    """Write a checkpoint so that ``path`` holds either the old file or the whole new one, whatever happens meanwhile.

    The tensors are streamed to a temporary file beside ``path``, which is flushed to the disk and then
    renamed.

    Args:
        obj: what ``torch.save`` takes.
        path: the file; missing directories are made, a symbolic link is followed.
        tell: called with the number of bytes of every piece that is written.

    Raises:
        OSError: the disk is full, the directory cannot be written, ...; ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f'.{target.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'xb') as file:
            torch.save(obj, file if tell is None else Metered(file, tell))
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
    text = f'cannot save the checkpoint {target}: {error.strerror or error}; about {_tensor_bytes(obj):,} bytes are needed'
    existing = next(parent for parent in target.parents if parent.exists())
    with contextlib.suppress(OSError):
        text += f', {shutil.disk_usage(existing).free:,} are free'
    return (
        text
        + '. What was there before is untouched: make room, or choose another --work-dir, and go on with --resume'
    )


def _sync_directory(directory: Path) -> None:
    if os.name != 'posix':
        return  # elsewhere a directory cannot be opened
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tensor_bytes(obj) -> int:
    """Bytes of the distinct storages in nested dicts, lists and tuples."""
    storages, stack = {}, [obj]
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


def find_resume_checkpoint(work_dir, quiet: bool = False) -> Path | str | None:
    """The checkpoint to go on from: the one that ``last_checkpoint`` names, or else the newest one that can be read.

    A named path is looked for inside ``work_dir`` first, so that a directory that was moved or copied finds
    its own files.

    Args:
        work_dir: directory of a run.
        quiet: say nothing where it is not the one that ``last_checkpoint`` names.

    Returns:
        the file (a directory for sharded checkpoints, a string for another storage backend's), or None when
        there is nothing to resume.
    """
    from mmengine.logging import print_log

    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    named = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    if '://' in named:
        return named  # kept by another storage backend, which alone can look at it
    trouble: str | None = (
        'last_checkpoint is missing' if not named else f'{named}, named by last_checkpoint, is not there'
    )
    if named:
        # Windows and POSIX names alike
        for candidate in (work_dir / named, work_dir / re.split(r'[\\/]', named)[-1]):
            if candidate.is_dir() and any(candidate.iterdir()):
                return candidate
            if candidate.exists():
                trouble = _trouble(candidate)
                if trouble is None:
                    return candidate
    found = sorted(
        (path for path in work_dir.glob('*.pth') if path.is_file()),
        key=lambda path: path.stat().st_mtime_ns,
        reverse=True,
    )
    for path in found:
        if _trouble(path, ('meta', 'optimizer')) is None:
            if not quiet:
                print_log(
                    f'{trouble}; going on from {path.name}, the newest checkpoint in {work_dir} that can be resumed',
                    logger='current',
                    level=30,
                )
            return path
    if (named or found) and not quiet:
        print_log(
            f'{trouble}; no other checkpoint in {work_dir} can be resumed: starting from the beginning',
            logger='current',
            level=30,
        )
    return None


def _trouble(path: Path, needed: tuple[str, ...] = ('meta',)) -> str | None:
    """Why a file cannot be resumed from, or None. The tensors of a zip archive are not read."""
    try:
        checkpoint = load_file(path, mmap=True)
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    if (
        not isinstance(checkpoint, dict)
        or any(key not in checkpoint for key in needed)
        or 'iter' not in checkpoint['meta']
    ):
        return f'{path} holds weights only'
    return None


def seed_from_checkpoint(path) -> int | None:
    """The seed of the run that wrote ``path``; samplers must be built with it for an exact resume. None when it was not kept."""
    path = Path(path)
    if path.is_dir():
        path = next(iter(sorted(path.glob('*.pth'))), path)
    checkpoint = load_file(path, mmap=True)
    return checkpoint.get('meta', {}).get('seed') if isinstance(checkpoint, dict) else None


def weights_of(checkpoint, source='the checkpoint') -> Mapping[str, torch.Tensor]:
    """The weights in a checkpoint: under ``state_dict`` (the hosts), under ``model`` (many papers' code), or the file itself."""
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'{source} holds a {type(checkpoint).__name__}, not weights by name; save model.state_dict()'
        )
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key]
    return checkpoint


def strip_prefix(state_dict: Mapping, prefix: str) -> OrderedDict:
    """The entries under ``prefix`` without it; the versions that modules keep in ``_metadata`` come along."""
    kept: Any = OrderedDict(
        (key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix)
    )
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        kept._metadata = {
            key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)
        }
        kept._metadata.setdefault('', metadata.get(prefix[:-1], {}))
    return kept


def strip_module(state_dict: Mapping) -> Mapping:
    """Take off the ``module.`` that saving a wrapped model leaves in front of every key; a mere ``modules.`` or ``module1.`` stays."""
    if not state_dict or not all(isinstance(key, str) and key.startswith('module.') for key in state_dict):
        return state_dict
    return strip_prefix(state_dict, 'module.')


def load_weights(
    model: nn.Module,
    source,
    prefix: str | None = None,
    strict: bool = False,
    map_location='cpu',
    trust: bool = False,
    logger='current',
):
    """Copy weights into ``model`` and say what matched.

    Args:
        model: the receiver; its own hooks (resizing of position tables, ...) take part.
        source: a file, or a dict of weights, bare or under ``state_dict`` or ``model``.
        prefix: take only the keys under this prefix, without it: ``'backbone.'`` of an algorithm's file fits
            a bare backbone.
        strict: anything missing, unexpected or of another shape is an error.
        map_location: as for ``load_file``.
        trust: as for ``load_file``.
        logger: where the report goes, as for mmengine's ``print_log``; None prints.

    Returns:
        MatchReport.

    Raises:
        ValueError: nothing matched, or not everything did and ``strict`` is set.
    """
    from mmssl.checkpoint.matching import load_matching, select_prefix

    is_name = isinstance(source, (str, os.PathLike))
    name = str(source) if is_name else 'the given weights'
    weights = weights_of(load_file(source, map_location, trust) if is_name else source, name)
    weights = strip_module(weights)
    if prefix:
        weights = select_prefix(weights, prefix, name)
    return load_matching(model, weights, strict=strict, source=name, logger=logger)
