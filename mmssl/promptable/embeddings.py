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


def versions(*modules: nn.Module) -> tuple:
    """Where the weights lie and how often torch has written there: another tuple when they may have changed, without reading them."""
    tensors = (value for module in modules for value in module.state_dict().values())
    return tuple((value.data_ptr(), 0 if value.is_inference() else value._version) for value in tensors)


class EmbeddingCache:
    """Embeddings by the pixels they are of, so that a flipped or otherwise changed image is another image and nothing can be stale.

    Two augmented forms of an image are two files: use few augmentations, or the folder grows with every
        epoch. A file that cannot be read
    is written anew.

    Args:
        folder: made when needed; the files of each encoder lie in a folder named after its weights.
        dtype: kept as; float16 takes 2 MB for an embedding of 256 x 64 x 64, float32 loses nothing.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float16):
        self.folder, self.dtype = Path(folder), dtype
        self._place: Path | None = None
        self._versions: tuple = ()
        self.hits = self.misses = 0

    def _path(self, place: Path, image: Tensor) -> Path:
        digest = hashlib.blake2b(f'{tuple(image.shape)} {self.dtype}'.encode(), digest_size=16)
        digest.update(image.detach().to(torch.float32).cpu().contiguous().numpy().tobytes())
        return place / f'{digest.hexdigest()}.pt'

    def _read(self, path: Path) -> Tensor | None:
        if not path.is_file():
            return None
        try:
            kept = torch.load(path, map_location='cpu', weights_only=True)
        except Exception:  # cut off or overwritten: whatever reading it raises, it is made again
            return None
        return kept if isinstance(kept, Tensor) and kept.ndim == 3 and kept.dtype == self.dtype else None

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """(B, C, h, w) embeddings of (B, 3, H, W) images, encoding those alone that are not there yet."""
        now = versions(encoder)
        place = self._place
        if place is None or now != self._versions:
            self._place = place = self.folder / fingerprint(encoder)
            self._versions = now
            place.mkdir(parents=True, exist_ok=True)
        paths = [self._path(place, image) for image in images]
        kept = [self._read(path) for path in paths]
        missing = [number for number, one in enumerate(kept) if one is None]
        self.misses += len(missing)
        self.hits += len(paths) - len(missing)
        if missing:
            for number, made in zip(missing, encoder(images[missing]), strict=True):
                kept[number] = one = made.to('cpu', self.dtype)
                part = paths[number].with_suffix(f'.{os.getpid()}.part')
                torch.save(one.clone(), part)
                os.replace(part, paths[number])
        return torch.stack(kept).to(images.device, images.dtype)
