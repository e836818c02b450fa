"""Tokenizer of the user's own images: the nearest of K centroids of normalised patches."""

import torch
from torch import Tensor, nn

from mmssl.checkpoint import load_file
from mmssl.config import RANDOM
from mmssl.layers.patch import pair, patch_grid, patchify
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS
from mmssl.selfsup.small import Small, forward
from mmssl.selfsup.tokenizer_base import Tokenizer

MAX_SCORES = 2**26  # that are in memory at a time


@MODELS.register_module()
class KMeansTokenizer(Tokenizer):
    """Nearest of K centroids of normalised patches, fitted to your own images by ``mmssl tokenizer fit``.

    A patch is normalised to mean 0 and contrast 1, (x - mean) / sqrt(variance + eps), both over all pixels
    and channels of the patch, so that a token stands for a structure under any light (Coates, Lee and Ng,
    AISTATS 2011, section 3.2.1). Needs no download.

    Args:
        checkpoint: File that ``mmssl tokenizer fit`` wrote, or 'random' (centroids from N(0, 1)).
        num_tokens: K, as in the file.
        patch_size: Side of a patch in pixels, or (height, width), as in the file.
        in_channels: Channels of the images.
        eps: Added to the variance; keeps noise in flat patches small.

    Attributes:
        centroids: (K, p * q * C).
    """

    HOW = 'make it from your own images: mmssl tokenizer fit --data DIR --out FILE.pth'
    centroids: Tensor

    def __init__(
        self,
        checkpoint: str,
        num_tokens: int = 8192,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        eps: float = 1e-3,
    ):
        super().__init__(checkpoint, num_tokens)
        self.patch_size = pair(patch_size)
        self.eps = float(eps)
        patch_pixels = self.patch_size[0] * self.patch_size[1] * in_channels
        self.register_buffer('centroids', torch.zeros(num_tokens, patch_pixels))
        if self.checkpoint == RANDOM:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw centroids from N(0, 1): an arbitrary, fixed partition of the patches."""
        nn.init.normal_(self.centroids)

    def read(self, path: str) -> None:
        """Load the centroids from a file of ``mmssl tokenizer fit``."""
        content = load_file(path)
        if not isinstance(content, dict) or 'centroids' not in content:
            raise ValueError(f'{path} is no file of mmssl tokenizer fit; {self.HOW}')
        saved = dict(
            num_tokens=len(content['centroids']),
            patch_size=tuple(content['patch_size']),
            eps=content['eps'],
        )
        expected = dict(num_tokens=self.num_tokens, patch_size=self.patch_size, eps=self.eps)
        if saved != expected:
            different = [key for key in saved if saved[key] != expected[key]]
            raise ValueError(
                f'{path} has {_listed(saved, different)}, the config {_listed(expected, different)}; change '
                'the config, or fit again'
            )
        self.centroids.copy_(content['centroids'])

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the tokens of an image."""
        return patch_grid(height, width, self.patch_size)

    def normalize(self, patches: Tensor) -> Tensor:
        """Normalise (..., p * q * C) pixels in [0, 1] to mean 0 and contrast 1."""
        variance, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
        return (patches - mean) * (variance + self.eps).rsqrt()

    def scores(self, patches: Tensor) -> Tensor:
        """Score patches (T, p * q * C) by centroid, (T, K): (|patch|^2 - |patch - centroid|^2) / 2."""
        return torch.addmm(self.centroids.square().sum(dim=1).mul_(-0.5), patches, self.centroids.t())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to scores (B, K, rows, columns)."""
        grid = self.grid_of(*pixels.shape[-2:])
        scores = self.scores(self.normalize(patchify(pixels, self.patch_size)).flatten(0, 1))
        return scores.view(len(pixels), *grid, -1).permute(0, 3, 1, 2)

    @torch.no_grad()
    def nearest(self, patches: Tensor) -> Tensor:
        """Return the index (T,) of the centroid nearest to each normalised patch (T, p * q * C)."""
        chunk = max(1, MAX_SCORES // self.num_tokens)
        with no_autocast(patches):
            return torch.cat([self.scores(part).argmax(dim=1) for part in patches.split(chunk)])

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """As :meth:`Tokenizer.tokenize`; only the requested patches are compared with the centroids."""
        self.check_weights()
        patches = patchify(pixels, self.patch_size).flatten(0, 1)
        if rows is not None:
            patches = patches.index_select(0, rows)
        if not len(patches):
            return torch.empty(0, dtype=torch.int64, device=pixels.device)
        return self.nearest(self.normalize(patches))


def _listed(settings: dict, keys: list[str]) -> str:
    return ', '.join(f'{key}={settings[key]}' for key in keys)


SMALL = {
    'KMeansTokenizer': Small(dict(checkpoint='random', num_tokens=5, patch_size=8), forward, (2, 5, 4, 4))
}
