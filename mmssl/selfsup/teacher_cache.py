"""Features of frozen teachers on disk, so that an image is encoded once and not in every epoch."""

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.ops.precision import autocast_dtype

# types of attributes that change what a network computes, such as its out_indices
_SETTINGS = (bool, int, float, str, tuple, list)


class TeacherCache:
    """Features of a frozen network by the content of the image.

    A file holds the features of one image. Its name is a digest of the pixels, of the network's weights and
    settings, and of the precision, so that another crop, network or precision has other files. Only views
    that come again are found: a pipeline with random crops fills the disk and finds nothing. On a GPU every
    batch is copied to the CPU, where it is digested.

    Args:
        folder: Folder of the files, which is made. Several processes may share it.
        network: The frozen network. Its weights and settings are digested at the first use, and again after
            ``load_state_dict``; they must not be changed otherwise.
        encode: Function of the network and images (B, C, H, W) that returns a tuple of tensors (B, ...) or
            None.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        network: nn.Module,
        encode: Callable[[nn.Module, Tensor], tuple[Tensor | None, ...]],
    ):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'teacher_cache={str(folder)!r} cannot be made: {error.strerror}') from error
        self.network = network
        self.encode = encode
        self._digest: bytes | None = None
        network.register_load_state_dict_post_hook(self._forget)

    def __call__(self, images: Tensor) -> tuple[Tensor | None, ...]:
        """Return the features of images (B, C, H, W), of which only those without a file are encoded."""
        paths = self._paths(images)
        rows = [self._read(path, images.device) for path in paths]
        missing = [index for index, row in enumerate(rows) if row is None]
        if missing:
            encoded = self.encode(self.network, images[missing])
            for number, index in enumerate(missing):
                row = tuple(None if part is None else part[number].clone() for part in encoded)
                self._write(paths[index], row)
                rows[index] = row
        features = [row for row in rows if row is not None]
        return tuple(
            None if parts[0] is None else torch.stack(parts) for parts in zip(*features, strict=True)
        )

    def _forget(self, network: nn.Module, keys: object) -> None:
        self._digest = None

    def _paths(self, images: Tensor) -> list[Path]:
        if self._digest is None:
            self._digest = digest_of(self.network)
        dtype = autocast_dtype(images.device.type) or images.dtype
        setting = f'{tuple(images.shape[1:])} {images.dtype} {dtype}'.encode() + self._digest
        names = [
            hashlib.blake2b(_bytes(image) + setting, digest_size=20).hexdigest() for image in images.cpu()
        ]
        return [self.folder / name[:2] / f'{name}.pth' for name in names]

    def _read(self, path: Path, device: torch.device) -> tuple[Tensor | None, ...] | None:
        try:
            return tuple(torch.load(path, map_location=device, weights_only=True))
        except FileNotFoundError:
            return None

    def _write(self, path: Path, row: tuple[Tensor | None, ...]) -> None:
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f'.{uuid.uuid4().hex}')
        torch.save(row, unfinished)
        os.replace(unfinished, path)  # whole files only, whoever is killed


def digest_of(network: nn.Module) -> bytes:
    """Return a digest of all parameters, buffers and plain settings, each with its name."""
    digest = hashlib.blake2b(digest_size=20)
    for name, value in network.state_dict().items():
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(_bytes(value.cpu()))
    for name, module in network.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, _SETTINGS)}
        digest.update(f'{name} {type(module).__name__} {sorted(settings.items())}'.encode())
    return digest.digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
