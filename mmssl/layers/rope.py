"""Rotary position embedding on the two axes of a grid of patches.

Queries and keys are rotated by angles that grow with their position, so that their product depends on the
distance of two patches (RoFormer, arXiv:2104.09864). The axial form with normalised coordinates, and its
random changes in training, are those of DINOv3 (arXiv:2508.10104, section 3.2).
"""

import math

import torch
from torch import Tensor, nn


class AxialRoPE(nn.Module):
    """Sines and cosines of the angles of a grid of patches.

    Centres of patches have coordinates from -1 to 1 along either axis, whatever the size of the image. A
    quarter of the channels of a head has one angle each for the rows, another quarter for the columns; the
    second half of the channels repeats them.

    Args:
        head_dims: Channels of an attention head, divisible by 4.
        base: The periods are ``base ** (i / (head_dims / 4))``, in units of the coordinates.
        shift: Largest shift of the coordinates along either axis, drawn at every step of training.
        jitter: Largest factor by which either axis is stretched or shrunk by itself, at least 1.
        rescale: Largest factor by which both axes are stretched or shrunk together, at least 1.
    """

    def __init__(
        self,
        head_dims: int,
        base: float = 100.0,
        shift: float = 0.0,
        jitter: float = 1.0,
        rescale: float = 1.0,
    ):
        super().__init__()
        if head_dims % 4:
            raise ValueError(f'head_dims {head_dims} must be divisible by 4 for angles along two axes')
        if shift < 0 or jitter < 1 or rescale < 1:
            raise ValueError(
                f'shift={shift}, jitter={jitter}, rescale={rescale}: shift must be at least 0, the factors '
                'jitter and rescale at least 1'
            )
        self.head_dims = head_dims
        self.base = base
        self.shift = shift
        self.jitter = jitter
        self.rescale = rescale

    def forward(self, grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """Return sines and cosines, (2, rows * columns, head_dims) float32."""
        axes = [(torch.arange(size, device=device) + 0.5) * (2 / size) - 1 for size in grid]
        coordinates = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, 1)
        if self.training:
            coordinates = self._augment(coordinates)
        count = self.head_dims // 4
        periods = self.base ** (torch.arange(count, device=device) / count)
        angles = (2 * math.pi * coordinates.unsqueeze(2) / periods).flatten(1).repeat(1, 2)
        return torch.stack((angles.sin(), angles.cos()))

    def _augment(self, coordinates: Tensor) -> Tensor:
        """Shift, stretch and rescale coordinates (N, 2) at random."""

        def uniform(limit: float, count: int) -> Tensor:
            return (2 * torch.rand(count, device=coordinates.device) - 1) * limit

        if self.shift:
            coordinates = coordinates + uniform(self.shift, 2)
        if self.jitter > 1:
            coordinates = coordinates * uniform(math.log(self.jitter), 2).exp()
        if self.rescale > 1:
            coordinates = coordinates * uniform(math.log(self.rescale), 1).exp()
        return coordinates

    def extra_repr(self) -> str:
        """Settings."""
        return (
            f'head_dims={self.head_dims}, base={self.base}, shift={self.shift}, jitter={self.jitter}, '
            f'rescale={self.rescale}'
        )


def rotate(tokens: Tensor, rope: Tensor) -> Tensor:
    """Rotate queries or keys by their positions.

    Args:
        tokens: (B, heads, L, C). The last N tokens are patches; those before them, which have no position,
            stay as they are.
        rope: (2, N, C), sines and cosines from :class:`AxialRoPE`.

    Returns:
        (B, heads, L, C) in the data type of ``tokens``; computed in that of ``rope`` or a wider one.
    """
    sin, cos = rope
    leading, patches = tokens.tensor_split([tokens.shape[2] - sin.shape[0]], dim=2)
    first, second = patches.chunk(2, dim=-1)
    rotated = patches * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((leading, rotated.to(tokens.dtype)), dim=2)
