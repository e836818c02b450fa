"""Kozachenko-Leonenko entropy of features (Sablayrolles et al., ICLR 2019, arXiv:1806.03198)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.ops.precision import no_autocast


class KoLeoLoss(nn.Module):
    """Spread features over the sphere: minus the mean logarithm of the distance to the nearest other one.

    Equation 3 of the paper, as DINOv2 uses it (arXiv:2304.07193, section 4): only the features of this
    process are compared.

    Args:
        eps: Added to distances and norms.
    """

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: (B, C), B at least 2; they are normalised.

        Returns:
            scalar, in float32 or wider.

        Raises:
            ValueError: There are fewer than two features.
        """
        if len(features) < 2:
            raise ValueError(f'KoLeo compares features with others, and the batch has {len(features)}')
        with no_autocast(features):
            x = features.to(torch.promote_types(features.dtype, torch.float32))
            x = F.normalize(x, dim=-1, eps=self.eps)
            with torch.no_grad():
                nearest = (x @ x.T).fill_diagonal_(-2).argmax(dim=1)
            distances = F.pairwise_distance(x, x[nearest], 2, self.eps)
            return -(distances + self.eps).log().mean()
