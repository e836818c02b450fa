"""Embeddings of a frozen image encoder, kept on disk."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal digest of all weights and buffers of a module."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_state(module: nn.Module) -> tuple:
    """A value that changes when a weight changes, computed much faster than :func:`fingerprint`.

    Versions count the writes that torch sees; sums of the bits show those through ``.data``.
    """
    values = list(module.state_dict().values())
    versions = tuple((value.data_ptr(), 0 if value.is_inference() else value._version) for value in values)
    sums = [_sum_of_bits(value.detach()) for value in values]
    return versions, tuple(torch.stack(sums).tolist()) if sums else ()


def _sum_of_bits(value: Tensor) -> Tensor:
    """Sum of the memory of a tensor as int64 numbers, with overflow."""
    value = value.clone() if value.storage_offset() else value.contiguous()
    memory = value.flatten().view(torch.uint8)
    whole = memory.numel() // 8 * 8
    return memory[:whole].view(torch.int64).sum() + memory[whole:].sum()


class EmbeddingCache:
    """Store embeddings in files named after the pixels and the weights, so that none can be stale.

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
        self._weights_state: tuple = ()

    def _path(self, folder: Path, image: Tensor) -> Path:
        digest = hashlib.blake2b(f'{tuple(image.shape)} {self.dtype}'.encode(), digest_size=16)
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
        state = weights_state(encoder)
        if self._encoder_folder is None or state != self._weights_state:
            self._encoder_folder = self.folder / fingerprint(encoder)
            self._weights_state = state
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
