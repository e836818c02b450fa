"""Patches of the readers of data sets in mmdet, mmseg and mmpretrain that unpickle files by themselves.

They take effect when the toolbox's module is imported. What the toolboxes read through mmengine is patched in
:mod:`mmssl.hosts.file_patches`.
"""

import functools
import io
import pickle
from types import ModuleType
from typing import Any

from mmssl.hosts.patching import listed, when_imported

VERSIONS = 'mmdet 3.3 to 3.5.1, mmseg 1.2 to 1.4.2, mmpretrain 1.2 to 1.3.6 (OneDL)'
# modules that call pickle.load or pickle.loads on files: CIFAR, LoadBiomedical* of mmseg, tags of RAM
UNPICKLING_MODULES = ('mmpretrain.datasets.cifar', 'mmseg.utils.io', 'mmpretrain.models.multimodal.ram.ram')


class PlainPickle(ModuleType):
    """Module ``pickle`` whose ``load`` and ``loads`` read nothing but data."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)

    def load(self, file, **kwargs) -> Any:
        """Read an open file by :func:`mmssl.checkpoint.plain_pickles.load_plain_pickle`."""
        from mmssl.checkpoint.plain_pickles import load_plain_pickle

        return load_plain_pickle(file, **kwargs)

    def loads(self, content: bytes, **kwargs) -> Any:
        """Read the content of a file."""
        return self.load(io.BytesIO(content), **kwargs)


@listed(
    reason='CIFAR files, medical images with decode_backend="pickle" and tags of RAM are unpickled with '
    'their code executed',
    versions=VERSIONS,
    until='the toolboxes restrict what a file may name',
)
def read_pickled_data_sets_safely() -> None:
    """Read the pickles that the toolboxes open by themselves as plain data."""
    for name in UNPICKLING_MODULES:
        when_imported(name, _replace_pickle)
    when_imported('mmpretrain.datasets.cifar', _name_cifar_files)


@listed(
    reason='the hierarchy of OpenImagesChallengeDataset is read with allow_pickle=True, which executes code',
    versions=VERSIONS,
    until='mmdet reads the matrix with allow_pickle=False',
)
def read_hierarchies_safely() -> None:
    """Read the class hierarchy of Open Images as an array of numbers."""
    when_imported('mmdet.datasets.openimages', _replace_hierarchy_reader)


def _replace_pickle(module: ModuleType) -> None:
    module.pickle = PlainPickle('pickle', pickle.__doc__)  # type: ignore[attr-defined]


def _name_cifar_files(module: ModuleType) -> None:
    original = module.CIFAR10.load_data_list

    @functools.wraps(original)
    def load_data_list(self) -> list[dict]:
        from mmssl.errors import UserError

        folder = f'{self.data_prefix["root"]}/{self.base_folder}'
        try:
            return original(self)
        except UserError as error:
            raise type(error)(f'{folder}: {error}') from None
        except pickle.UnpicklingError as error:
            raise ValueError(f'{folder}: {error}; download the data set again') from None

    module.CIFAR10.load_data_list = load_data_list


def _replace_hierarchy_reader(module: ModuleType) -> None:
    def read(self, hierarchy_file: str):
        import numpy as np

        from mmssl.checkpoint.trust import is_trusted
        from mmssl.errors import UnsafeCheckpointError

        with module.get_local_path(hierarchy_file, backend_args=self.backend_args) as path:
            try:
                return np.load(path, allow_pickle=is_trusted())[1:, 1:]
            except ValueError as error:
                raise UnsafeCheckpointError(
                    f'{hierarchy_file} holds no array of numbers ({error}); nothing was run. If you know who '
                    'made the file, pass --trust-checkpoint; otherwise save the matrix by numpy.save'
                ) from None

    module.OpenImagesChallengeDataset._get_relation_matrix = read
