"""Deep InfoMax's second discriminator, and its tasks of coordinates and occlusion (arXiv:1808.06670)."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.mlp import MLP


class ConcatNet(BaseModule):
    """Scores of a vector and each feature of a map: the concatenate-and-convolve network (appendix A.2).

    The vector is concatenated with the feature at every position, and three 1x1 convolutions with ReLU
    between give the score. The first of them is a sum of one for features and one for vectors, so that no
    pair is concatenated.

    Args:
        in_channels: Channels of the features.
        vector_channels: Channels of the vectors.
        hidden: Channels of the first two convolutions.
    """

    def __init__(self, in_channels: int, vector_channels: int, hidden: int = 512):
        super().__init__()
        self.of_features = nn.Linear(in_channels, hidden)
        self.of_vectors = nn.Linear(vector_channels, hidden, bias=False)
        self.middle = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Score all pairs of features (K, C, L) and vectors (N, D), (N, 1, K, L), float32 or wider."""
        features = self.of_features(features.transpose(1, 2))  # (K, L, hidden)
        hidden = F.relu(features + self.of_vectors(vectors)[:, None, None])
        scores = self.score(F.relu(self.middle(hidden)))[..., 0]
        return scores.to(torch.promote_types(scores.dtype, torch.float32))[:, None]


class CoordinateNet(BaseModule):
    """Loss of predicting the place of a feature from the feature and the vector (section 4.4).

    minus log p((i, j) | y, c_ij), with independent rows and columns, by a network with a hidden layer, of the
    mean over all positions.

    Args:
        in_channels: Channels of the features.
        vector_channels: Channels of the vectors.
        hidden: Channels of the hidden layer.
        sides: Largest height and width of the map.
    """

    def __init__(
        self, in_channels: int, vector_channels: int, hidden: int = 512, sides: tuple[int, int] = (64, 64)
    ):
        super().__init__()
        self.sides = sides
        self.net = MLP((in_channels + vector_channels, hidden, sum(sides)), bias=True)

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute a scalar from features (B, C, h, w) and vectors (B, D)."""
        batch, _, height, width = features.shape
        if height > self.sides[0] or width > self.sides[1]:
            raise ValueError(
                f'a map of {height}x{width} positions, and coordinates are predicted up to '
                f'{self.sides[0]}x{self.sides[1]}'
            )
        tokens = features.flatten(2).transpose(1, 2)
        joined = torch.cat([tokens, vectors[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)
        logits = self.net((joined.flatten(0, 1),))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rows, columns = logits.split(self.sides, dim=1)
        position = torch.arange(height * width, device=features.device).repeat(batch)
        # logits of places that the map does not have are left out
        of_rows = F.cross_entropy(rows[:, :height], position // width)
        return of_rows + F.cross_entropy(columns[:, :width], position % width)


def occlude(images: Tensor, side: int, corners: Tensor | None = None) -> Tensor:
    """Set a square of each image to 0, the mean of normalised images (section 4.4).

    Args:
        images: (B, C, H, W).
        side: Side of the square in pixels, less than those of the image.
        corners: (B, 2) in [0, 1), the draw: top and left border as a fraction of what is free.

    Raises:
        ValueError: The square is not smaller than the image.
    """
    height, width = images.shape[2:]
    if not 1 <= side < min(height, width):
        raise ValueError(
            f'occlusion={side} of images of {height}x{width} pixels; give 1 to {min(height, width) - 1}'
        )
    if corners is None:
        corners = torch.rand(len(images), 2, device=images.device)
    free = torch.tensor([height - side + 1, width - side + 1], device=images.device)
    top, left = (corners * free).long().unbind(1)
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None]
    return images.masked_fill(inside[:, None], 0)
