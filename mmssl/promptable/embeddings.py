"""Embeddings of a frozen image encoder, kept on disk."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.layers.module_state import Snapshot, settings_of
from mmssl.ops.precision import autocast_dtype


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal digest of what the results of a module depend on, see :mod:`mmssl.layers.module_state`."""
    digest = hashlib.blake2b(settings_of(module).encode(), digest_size=8)
    for name, value in sorted(_tensors(module).items()):
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, also those that are in no state dict."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class EmbeddingCache:
    """Store embeddings in files named after all that they depend on, so that none can be stale.

    These are the pixels, normalised and padded, the weights, buffers, settings and names of hooks of the
    encoder, and autocast. A copy of the weights is held and compared, which is faster than to compute the
    name of the folder for each image.

    Each augmented form of an image has its own file: use few augmentations, or the folder grows with every
    epoch. A file that cannot be read is rewritten.

    Args:
        folder: Created when needed; the files of each encoder are in a folder named after its weights.
        dtype: Data type of the files; float16 takes 2 MB for an embedding of 256 x 64 x 64, float32 is exact.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float16):
        self.folder = Path(folder)
        self.dtype = dtype
        self.hits = 0
        self.misses = 0
        self._encoder_folder: Path | None = None
        self._settings = ''
        self._weights = Snapshot([])

    def _path(self, folder: Path, image: Tensor) -> Path:
        autocast = autocast_dtype(image.device.type)
        about = f'{tuple(image.shape)} {image.dtype} {self.dtype} {autocast}'
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        digest.update(image.detach().to(torch.float32).cpu().contiguous().numpy().tobytes())
        return folder / f'{digest.hexdigest()}.pt'

    def _read(self, path: Path) -> Tensor | None:
        if not path.is_file():
            return None
        try:
            value = torch.load(path, map_location='cpu', weights_only=True)
        except Exception:  # truncated or overwritten: whatever the reason, it is computed again
            return None
        return value if isinstance(value, Tensor) and value.ndim == 3 and value.dtype == self.dtype else None

    def _folder_of(self, encoder: nn.Module) -> Path:
        settings, weights = settings_of(encoder), list(_tensors(encoder).values())
        known = settings == self._settings and self._weights.matches(weights)
        if self._encoder_folder is None or not known:
            self._encoder_folder = self.folder / fingerprint(encoder)
            self._settings = settings
            self._weights = Snapshot(weights)
            self._encoder_folder.mkdir(parents=True, exist_ok=True)
        return self._encoder_folder

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Return embeddings (B, C, h, w) of images (B, 3, H, W), encoding only those without a file."""
        folder = self._folder_of(encoder)
        paths = [self._path(folder, image) for image in images]
        embeddings = [self._read(path) for path in paths]
        missing = [index for index, embedding in enumerate(embeddings) if embedding is None]
        self.misses += len(missing)
        self.hits += len(paths) - len(missing)
        if missing:
            for index, encoded in zip(missing, encoder(images[missing]), strict=True):
                embedding = encoded.to('cpu', self.dtype)
                embeddings[index] = embedding
                partial = paths[index].with_suffix(f'.{os.getpid()}.part')
                torch.save(embedding.clone(), partial)
                os.replace(partial, paths[index])
        return torch.stack(embeddings).to(images.device, images.dtype)
