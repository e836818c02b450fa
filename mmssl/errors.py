"""Exceptions that a user can cause or cure, and the warning for names that have changed.

Imports nothing outside the standard library.
"""

import functools
import os
import re
import warnings
from collections.abc import Callable


class UserError(Exception):
    """Base class of errors whose message is meant for the user: it names the value, the reason and the cure.

    The command line prints the message of such an error without a traceback.
    """

    # whether the message refers to files in the work directory, which must then outlive the failed run
    keeps_work_dir = False


class CheckpointError(UserError, ValueError):
    """The file is not a complete checkpoint."""


class ChecksumError(UserError, OSError):
    """A downloaded file is not the one that was asked for."""


class UnsafeCheckpointError(UserError, ValueError):
    """Loading the file would call something that is not plain data."""


class MismatchError(UserError, ValueError, RuntimeError):
    """Weights and model do not fit.

    Also a RuntimeError, which is what callers of the loaders of torch and mmengine catch.
    """


class BadImageError(UserError, ValueError):
    """A file is not a readable image.

    Args:
        reason: What is wrong with it.
        path: The file.
    """

    def __init__(self, reason: str, path: str | None = None):
        super().__init__(f'{path}: {reason}' if path else reason)
        self.reason = reason


class LabelError(UserError, ValueError):
    """Labels cannot be read as they are, or mean more than one thing.

    Args:
        reason: What is wrong, and the cure.
        path: The file or folder.
    """

    def __init__(self, reason: str, path: str | os.PathLike | None = None):
        super().__init__(f'{path}: {reason}' if path else reason)


class RemoteError(UserError, ConnectionError):
    """A file behind a URL cannot be read, for a reason that is not the file's.

    Args:
        message: The URL, the reason and the cure.
    """

    def __init__(self, message: str):
        super().__init__(_own_message(message, 'RemoteError'))


class BadFilesError(UserError, RuntimeError):
    """More files than allowed cannot be decoded.

    Args:
        message: The count, the limit, where the list is and how to raise the limit.
    """

    keeps_work_dir = True

    def __init__(self, message: str):
        super().__init__(_own_message(message, 'BadFilesError'))


class SampleError(UserError, ValueError):
    """A sample of a dataset could not be produced.

    Args:
        message: Names the file and the reason.
    """

    def __init__(self, message: str):
        worker = re.match(r'Caught \w+ in DataLoader worker process (\d+)', message)
        text = _own_message(message, 'SampleError')
        super().__init__(f'{text} (in worker {worker.group(1)} of the data loader)' if worker else text)


class WorkerError(UserError, ChildProcessError):
    """A worker process of a data loader has died."""


class NonFiniteError(UserError, RuntimeError):
    """A loss or a gradient is NaN or infinite; the optimizer has not used it."""

    keeps_work_dir = True


class TrainingError(UserError, RuntimeError):
    """A run failed after its first step; its checkpoints and logs are kept."""


def _own_message(message: str, name: str) -> str:
    """Return the message itself; a data loader raises it again behind the worker's traceback."""
    return str(message).rpartition(f'{name}: ')[2].strip()


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Emit the DeprecationWarning of a public name that has changed.

    Args:
        old: The name that was used.
        new: The name to use instead.
        stacklevel: Frames between this function and the user's code, as in :func:`warnings.warn`.
    """
    warnings.warn(
        f'{old} is deprecated and will be removed in mmssl 0.4; use {new}', DeprecationWarning, stacklevel
    )


def renamed_arguments(**names: str) -> Callable[[Callable], Callable]:
    """Decorate a function so that it still takes the former names of its keyword arguments.

    Args:
        **names: ``old='new'``; the old one emits a DeprecationWarning.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            for old, new in names.items():
                if old in kwargs:
                    warn_renamed(f'{function.__name__}({old}=...)', f'{new}=...')
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
