"""Patches of how mmengine reads annotation, label and image files.

torch and mmengine are imported inside the functions only.
"""

import functools
import io
import os

from mmssl.hosts.patching import listed, replace


@listed(
    reason='annotations and proposals in pickles are loaded with their code executed',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='PickleHandler restricts what a file may name',
)
def read_pickles_safely() -> None:
    """Read pickles of data sets by :func:`mmssl.checkpoint.plain_pickles.load_plain_pickle`."""
    from mmengine.fileio.handlers.pickle_handler import PickleHandler

    def load_from_fileobj(self, file, **kwargs):
        from mmssl.checkpoint.plain_pickles import load_plain_pickle

        return load_plain_pickle(file, **kwargs)

    PickleHandler.load_from_fileobj = load_from_fileobj


@listed(
    reason='the error about a damaged JSON, YAML or pickle file does not name the file',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine.load names the file',
)
def name_damaged_files() -> None:
    """Name the file in the errors of ``mmengine.load``."""

    def make(original):
        def load(file, *args, **kwargs):
            import pickle

            import yaml

            from mmssl.errors import UserError

            try:
                return original(file, *args, **kwargs)
            except UserError as error:
                raise type(error)(f'{file}: {error}') from None
            except (ValueError, pickle.UnpicklingError, yaml.YAMLError) as error:
                reason = ' '.join(str(error).split())
                raise ValueError(f'{file} cannot be read: {reason}; repair or replace it') from None

        return load

    modules = ('mmengine.fileio.io', 'mmengine.fileio', 'mmengine', 'mmengine.dataset.base_dataset')
    replace('load', modules, make)


@listed(
    reason='the loaders of all toolboxes wait without end for a FIFO, and read a device without end',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='LocalBackend opens regular files only',
)
def read_regular_files_only() -> None:
    """Refuse FIFOs, sockets and devices by name where mmengine reads files of the local disk."""
    from mmengine.fileio import LocalBackend

    local_path = LocalBackend.get_local_path

    def get(self, filepath) -> bytes:
        from mmssl.checkpoint.regular_files import read_regular

        return read_regular(os.fspath(filepath))

    def get_text(self, filepath, encoding: str = 'utf-8') -> str:
        return io.TextIOWrapper(io.BytesIO(get(self, filepath)), encoding=encoding).read()

    @functools.wraps(local_path)
    def get_local_path(self, filepath):
        from mmssl.checkpoint.regular_files import refuse_special

        refuse_special(os.fspath(filepath))
        return local_path(self, filepath)

    LocalBackend.get = functools.wraps(LocalBackend.get)(get)
    LocalBackend.get_text = functools.wraps(LocalBackend.get_text)(get_text)
    LocalBackend.get_local_path = get_local_path
