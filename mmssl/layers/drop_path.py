"""Stochastic depth (arXiv:1603.09382): residual branches that are dropped for whole samples."""

import torch
import torch.fx
from torch import Tensor, nn

torch.fx.wrap('drop_path')  # a node of a graph of torch.fx: its steps depend on shapes and devices


def drop_path(branch: Tensor, rate: float | Tensor, training: bool) -> Tensor:
    """Drop a residual branch for whole samples.

    Args:
        branch: (B, ...), the branch before it is added.
        rate: Probability of dropping the branch of a sample, in [0, 1); a scalar tensor is an input of a
            compiled graph, where a number is a constant that makes another graph for each value.
        training: Whether anything is dropped.

    Returns:
        (B, ...), with the remaining samples scaled by 1 / (1 - rate).
    """
    if not training or (not isinstance(rate, Tensor) and rate == 0):
        return branch
    survivors = draw_survivors(branch.shape[0], rate, branch)
    return branch * survivors.view((-1,) + (1,) * (branch.ndim - 1))


def draw_survivors(batch: int, rate: float | Tensor, like: Tensor) -> Tensor:
    """Draw which samples keep a branch: (batch,), 1 / (1 - rate) for those that do, 0 for the others.

    Args:
        batch: Number of samples.
        rate: As in :func:`drop_path`.
        like: A tensor of the data type and on the device of the result.
    """
    survives = torch.rand(batch, device=like.device) >= rate
    return survives.to(like.dtype) / (1 - rate)


class DropPath(nn.Module):
    """:func:`drop_path` with a rate of its own, which adds nothing to the state dict.

    Args:
        drop_prob: Probability of dropping the branch of a sample, in [0, 1).

    Attributes:
        drop_prob: The rate, under the name of mmcv's and timm's DropPath.
        rate: The same as a scalar tensor.
    """

    rate: Tensor

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.register_buffer('rate', torch.tensor(0.0), persistent=False)
        self.drop_prob = drop_prob

    @property
    def drop_prob(self) -> float:
        """Probability of dropping the branch of a sample."""
        return self._drop_prob

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        self._drop_prob = float(value)
        self._drops = value > 0
        self.rate.fill_(value)

    @property
    def active(self) -> bool:
        """Whether anything is dropped."""
        return self.training and self._drops

    def forward(self, branch: Tensor) -> Tensor:
        """Drop a branch (B, ...) for some samples in training mode."""
        return drop_path(branch, self.rate, True) if self.active else branch

    def extra_repr(self) -> str:
        """Show the rate."""
        return f'drop_prob={self._drop_prob:.3g}'


def drop_path_rows(branch: Tensor, module: DropPath, images: int, image: Tensor) -> Tensor:
    """Drop a branch (T, C) of rows of several images: all rows of an image, or none.

    Args:
        branch: (T, C).
        module: Stochastic depth of the branch.
        images: Number of images.
        image: (T,), image of each row.
    """
    if not module.active:
        return branch
    return branch * draw_survivors(images, module.rate, branch).index_select(0, image).unsqueeze(1)
