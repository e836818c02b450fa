"""Embeddings of a frozen image encoder, kept on disk."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal digest of a module's weights; another training, another digest."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings by the pixels they are of, so that a flipped or otherwise changed image is another image and nothing can be stale.

    Two augmented forms of an image are two files: use few augmentations, or the folder grows with every epoch.

    Args:
        folder: made when needed; the files of each encoder lie in a folder named after its weights.
        dtype: kept as; float16 takes 2 MB for an embedding of 256 x 64 x 64.
    """

    def __init__(self, folder: str, dtype: torch.dtype = torch.float16):
        self.folder, self.dtype = Path(folder), dtype
        self._place: Path | None = None
        self.hits = self.misses = 0

    def _path(self, encoder: nn.Module, image: Tensor) -> Path:
        if self._place is None:
            self._place = self.folder / fingerprint(encoder)
            self._place.mkdir(parents=True, exist_ok=True)
        pixels = image.detach().to(torch.float32).cpu().contiguous().numpy().tobytes()
        return self._place / f'{hashlib.blake2b(pixels, digest_size=16).hexdigest()}.pt'

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """(B, C, h, w) embeddings of (B, 3, H, W) images, encoding those alone that are not there yet."""
        paths = [self._path(encoder, image) for image in images]
        missing = [number for number, path in enumerate(paths) if not path.is_file()]
        self.misses += len(missing)
        self.hits += len(paths) - len(missing)
        if missing:
            for number, made in zip(missing, encoder(images[missing]), strict=True):
                part = paths[number].with_suffix(f'.{os.getpid()}.part')
                torch.save(made.to('cpu', self.dtype), part)
                os.replace(part, paths[number])
        kept = [torch.load(path, map_location=images.device, weights_only=True) for path in paths]
        return torch.stack(kept).to(images.dtype)
