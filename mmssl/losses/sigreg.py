"""Sketched isotropic Gaussian regularisation of LeJEPA (Balestriero, LeCun, 2025, arXiv:2511.08544)."""

import torch
from torch import Tensor, distributed, nn

from mmssl.layers.distributed import gather_with_gradient, world
from mmssl.ops.precision import no_autocast


class SIGRegLoss(nn.Module):
    """Distance of features from an isotropic Gaussian, along random directions (Epps-Pulley statistic).

    For features z and a unit vector a, the statistic is N times the integral over t of
    |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), with phi(t) the mean of exp(i t a.z) over the N features of all
    processes. The loss is its mean over the directions.

    Args:
        num_directions: Number of random directions, drawn at every call.
        num_points: Points of the trapezoidal rule.
        limit: The integral runs from -limit to limit.
    """

    def __init__(self, num_directions: int = 256, num_points: int = 17, limit: float = 5.0):
        super().__init__()
        if num_directions < 1 or num_points < 2 or not limit > 0:
            raise ValueError(
                f'num_directions={num_directions}, num_points={num_points}, limit={limit} of SIGReg: at '
                'least 1 direction and 2 points, and a limit above 0'
            )
        self.num_directions = num_directions
        self.num_points = num_points
        self.limit = limit

    def draw_directions(self, features: Tensor) -> Tensor:
        """Draw unit vectors (C, num_directions), the same on all processes."""
        directions = torch.randn(
            features.shape[1], self.num_directions, dtype=features.dtype, device=features.device
        )
        if world()[1] > 1:
            distributed.broadcast(directions, 0)
        return directions / directions.norm(dim=0)

    def forward(self, features: Tensor, directions: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            features: (B, C) of this process.
            directions: (C, A), unit vectors, the same on all processes; drawn if None.

        Returns:
            scalar, in float32 or wider.
        """
        with no_autocast(features):
            z = features.to(torch.promote_types(features.dtype, torch.float32))
            directions = self.draw_directions(z) if directions is None else directions.to(z)
            projections = gather_with_gradient(z @ directions)
            t = torch.linspace(-self.limit, self.limit, self.num_points, dtype=z.dtype, device=z.device)
            angles = projections.unsqueeze(2) * t
            cosine, sine = angles.cos().mean(dim=0), angles.sin().mean(dim=0)
            gaussian = (-t.square() / 2).exp()
            error = ((cosine - gaussian).square() + sine.square()) * gaussian
            return torch.trapezoid(error, t, dim=1).mean() * len(projections)
