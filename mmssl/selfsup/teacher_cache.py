"""Features of frozen teachers on disk, so that an image is encoded once and not in every epoch."""

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.layers.module_state import ModuleState, bytes_of, fingerprint, has_hooks
from mmssl.ops.precision import autocast_dtype


class TeacherCache:
    """Features of a frozen network by the content of the image.

    A file holds the features of one image. Its name is a digest of the pixels, of the network's weights and
    settings, and of the precision, so that another crop, network or precision has other files. Only views
    that come again are found: a pipeline with random crops fills the disk and finds nothing. On a GPU every
    batch is copied to the CPU, where it is digested.

    Args:
        folder: Folder of the files, which is made. Several processes may share it.
        network: The frozen network. A copy of its weights is held and compared. With hooks, which may do
            anything, it is run each time.
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
        self._known: tuple[ModuleState, str] | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor | None, ...]:
        """Return the features of images (B, C, H, W), of which only those without a file are encoded."""
        if has_hooks(self.network):
            return tuple(self.encode(self.network, images))
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

    def _paths(self, images: Tensor) -> list[Path]:
        known = self._known
        if known is None or not known[0].matches(self.network):
            self._known = known = ModuleState(self.network), fingerprint(self.network)
        dtype = autocast_dtype(images.device.type) or images.dtype
        setting = f'{tuple(images.shape[1:])} {images.dtype} {dtype} {known[1]}'.encode()
        names = [
            hashlib.blake2b(bytes_of(image) + setting, digest_size=20).hexdigest() for image in images.cpu()
        ]
        return [self.folder / name[:2] / f'{name}.pth' for name in names]

    def _read(self, path: Path, device: torch.device) -> tuple[Tensor | None, ...] | None:
        try:
            return tuple(torch.load(path, map_location=device, weights_only=True))
        except Exception:  # missing, truncated or overwritten: whatever the reason, it is computed again
            return None

    def _write(self, path: Path, row: tuple[Tensor | None, ...]) -> None:
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f'.{uuid.uuid4().hex}')
        torch.save(row, unfinished)
        os.replace(unfinished, path)  # whole files only, whoever is killed
