"""Fast form of :func:`mmssl.losses.sinkhorn.sinkhorn`: one exponential, then matrix-vector products."""

import torch
from torch import Tensor
from torch import distributed as dist

from mmssl.layers.distributed import sum_over_ranks, world
from mmssl.losses.sinkhorn import check_sinkhorn
from mmssl.ops.precision import no_autocast


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Compute codes as Q = diag(u) exp(scores / epsilon) diag(v); only the vectors u and v change.

    Before the exponential the largest score of every prototype among the samples of all processes is
    subtracted, then the largest of every sample. u and v absorb that, and since every row and every column
    then has an entry of 1, a prototype far from all samples still gets its share and nothing overflows.

    Every process makes ``iterations + 1`` all-reduces, whatever its scores are.
    """
    check_sinkhorn(scores, epsilon, iterations)
    if scores.ndim == 2:
        return sinkhorn(scores[None], epsilon, iterations)[0]
    with no_autocast(scores):
        plan = scores.detach().to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        limits = torch.finfo(plan.dtype)
        highest = plan.amax(1, keepdim=True)
        if world()[1] > 1:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        plan -= highest.clamp_(min=limits.min)
        offset = plan.amax(2, keepdim=True)
        plan.sub_(offset).exp_()
        samples = offset.exp_()
        for _ in range(iterations):
            masses = sum_over_ranks(_products(plan.mT, samples)).clamp_(min=limits.tiny**0.5)
            prototypes = masses.mean(1, keepdim=True) / masses  # the mean keeps both scalings from drifting
            samples = _products(plan, prototypes).reciprocal_()
        return plan.mul_(prototypes.mT).mul_(samples)


def _products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(A, N, M) times (A, M, 1), one by one: a batched product is ten times slower on the CPU."""
    return torch.stack([matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)])
