"""Losses of two views without negatives: VICReg and Barlow Twins, on statistics of the whole batch.

With several processes the statistics are those of the batches of all of them, as in the released code. Every
process then returns the loss of one process with all images, and gradients reach the views of every process.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.distributed import gather_with_gradient
from mmssl.losses.dino import promote_to_float32
from mmssl.ops.precision import no_autocast


class VICRegTerms(NamedTuple):
    """Terms of VICReg before they are weighted, scalars.

    Attributes:
        invariance: Mean squared difference of the two views.
        variance: How far the standard deviations of the dimensions are below 1, on average.
        covariance: Sum of the squared covariances of different dimensions, divided by D, of both views.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


class VICRegLoss(nn.Module):
    """Variance-invariance-covariance regularisation (Bardes et al., ICLR 2022, arXiv:2105.04906, section 4).

    Equations 1 to 6 with two normalisations of the released code: the invariance is averaged over the
    dimensions too, and the variance over the two views.

    Args:
        invariance_weight: Lambda of equation 6.
        variance_weight: Mu of equation 6.
        covariance_weight: Nu of equation 6.
        eps: Added to the variances before the root.
        gather: Take the statistics over the batches of all processes; each must have the same batch size.
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        eps: float = 1e-4,
        gather: bool = True,
    ):
        super().__init__()
        self.invariance_weight = _check_weight('invariance_weight', invariance_weight)
        self.variance_weight = _check_weight('variance_weight', variance_weight)
        self.covariance_weight = _check_weight('covariance_weight', covariance_weight)
        self.eps = eps
        self.gather = gather

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            first: (B, D) embeddings of one view.
            second: (B, D) embeddings of the other view.

        Returns:
            scalar, in float32 or wider.

        Raises:
            ValueError: There are fewer than two images.
        """
        return self.weighted(self.terms(first, second))

    def terms(self, first: Tensor, second: Tensor) -> VICRegTerms:
        """Compute the three terms; arguments as for :meth:`forward`."""
        with no_autocast(first):
            views = _whole_batch('VICReg', first, second, self.gather)
            batch, dimensions = views[0].shape
            variance = covariance = views[0].new_zeros(())
            for view in views:
                centred = view - view.mean(dim=0)
                deviation = (centred.square().sum(dim=0) / (batch - 1) + self.eps).sqrt()
                variance = variance + F.relu(1 - deviation).mean() / 2
                matrix = centred.T @ centred / (batch - 1)
                covariance = covariance + off_diagonal(matrix).square().sum() / dimensions
            return VICRegTerms(F.mse_loss(*views), variance, covariance)

    def weighted(self, terms: VICRegTerms) -> Tensor:
        """Return the weighted sum of the terms, a scalar."""
        return (
            self.invariance_weight * terms.invariance
            + self.variance_weight * terms.variance
            + self.covariance_weight * terms.covariance
        )


class BarlowTwinsLoss(nn.Module):
    """Distance of a cross-correlation matrix from the identity (Zbontar et al., arXiv:2103.03230, eq. 1, 2).

    The matrix is that of the dimensions of one view with those of the other, each standardised over the
    batch as a batch norm without scale and shift does it.

    Args:
        off_diagonal_weight: Lambda of equation 1.
        eps: Added to the variances before the root.
        gather: Take the statistics over the batches of all processes; each must have the same batch size.
    """

    def __init__(self, off_diagonal_weight: float = 0.0051, eps: float = 1e-5, gather: bool = True):
        super().__init__()
        self.off_diagonal_weight = _check_weight('off_diagonal_weight', off_diagonal_weight)
        self.eps = eps
        self.gather = gather

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            first: (B, D) projections of one view.
            second: (B, D) projections of the other view.

        Returns:
            scalar, in float32 or wider.

        Raises:
            ValueError: There are fewer than two images.
        """
        with no_autocast(first):
            first, second = (
                F.batch_norm(view, None, None, training=True, eps=self.eps)
                for view in _whole_batch('Barlow Twins', first, second, self.gather)
            )
            correlation = first.T @ second / len(first)
            on_diagonal = (correlation.diagonal() - 1).square().sum()
            return on_diagonal + self.off_diagonal_weight * off_diagonal(correlation).square().sum()


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the entries (D - 1, D) of a matrix (D, D) that are not on its diagonal, row by row."""
    size = len(matrix)
    # without the last entry, every row of D + 1 entries starts with one of the diagonal
    return matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:]


def _whole_batch(name: str, first: Tensor, second: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Return both views, (B, D) each, of all processes in float32 or wider."""
    first, second = promote_to_float32(first), promote_to_float32(second)
    if gather:
        # one exchange for both
        first, second = gather_with_gradient(torch.stack([first, second], dim=1)).unbind(dim=1)
    if len(first) < 2:
        raise ValueError(f'{name} needs the statistics of at least 2 images, and the batch has {len(first)}')
    return first, second


def _check_weight(name: str, weight: float) -> float:
    if not weight >= 0:
        raise ValueError(f'{name}={weight!r} must be 0 or more')
    return weight
