"""Embeddings of a frozen image encoder, kept on disk."""

import hashlib
import os
import uuid
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.layers.module_state import ModuleState, bytes_of, fingerprint, has_hooks
from mmssl.ops.precision import autocast_dtype


class EmbeddingCache:
    """Store embeddings in files named after all that they depend on, so that none can be stale.

    These are the pixels, normalised and padded, the weights, buffers and settings of the encoder, and
    autocast. A copy of the weights is held and compared, which is faster than to compute the name of the
    folder for each image. An encoder with hooks, which may do anything, is run each time.

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
        self._known: tuple[ModuleState, Path] | None = None

    def _path(self, folder: Path, image: Tensor) -> Path:
        autocast = autocast_dtype(image.device.type)
        about = f'{tuple(image.shape)} {image.dtype} {self.dtype} {autocast}'
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        digest.update(bytes_of(image.to(torch.float32)))
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
        known = self._known
        if known is None or not known[0].matches(encoder):
            known = ModuleState(encoder), self.folder / fingerprint(encoder)
            known[1].mkdir(parents=True, exist_ok=True)
            self._known = known
        return known[1]

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Return embeddings (B, C, h, w) of images (B, 3, H, W), encoding only those without a file."""
        if has_hooks(encoder):
            return encoder(images).to(images.dtype)
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
                partial = paths[index].with_suffix(f'.{uuid.uuid4().hex}.part')
                torch.save(embedding.clone(), partial)
                os.replace(partial, paths[index])
        return torch.stack(embeddings).to(images.device, images.dtype)
