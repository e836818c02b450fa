"""Equal partition of samples among prototypes (SwAV, arXiv:2006.09882; Cuturi, NeurIPS 2013)."""

import torch
from torch import Tensor

from mmssl.layers.distributed import gather
from mmssl.ops.precision import no_autocast
from mmssl.ops.switch import always, fast_form


@torch.no_grad()
@fast_form('mmssl.losses.fast.sinkhorn:sinkhorn', when=always)
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes that share the samples of all processes equally among the prototypes (SwAV, equations 3 to 5).

    Sinkhorn-Knopp on exp(scores / epsilon), in logarithms so that nothing overflows: each iteration makes the
    masses of the prototypes equal, then those of the samples.

    Args:
        scores: (B, K) of B samples of this process and K prototypes, or (A, B, K) for A batches, each with
            codes of its own. B may differ between processes.
        epsilon: Weight of the entropy; larger values give softer codes.
        iterations: Number of Sinkhorn-Knopp iterations.

    Returns:
        Codes shaped as ``scores``, in float32 or wider; those of a sample sum to 1. Each process gets what a
        single process with all samples would get for them.
    """
    check_sinkhorn(scores, epsilon, iterations)
    with no_autocast(scores):
        log_codes = scores.detach().to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        lowest = torch.finfo(log_codes.dtype).min  # of a prototype without any mass
        largest = gather(log_codes.amax(dim=-2, keepdim=True)[None]).amax(dim=0).clamp(min=lowest)
        log_codes = log_codes - largest  # changes no code; large scores would lose digits below
        for _ in range(iterations):
            masses = gather(log_codes.logsumexp(dim=-2, keepdim=True)[None]).logsumexp(dim=0)
            log_codes = log_codes - masses.clamp(min=lowest)  # every prototype has the same mass
            log_codes = log_codes.log_softmax(dim=-1)  # every sample has mass 1
        return log_codes.exp()


def check_sinkhorn(scores: Tensor | None, epsilon: float, iterations: int) -> None:
    """Raise ValueError where :func:`sinkhorn` cannot work; ``scores=None`` checks the settings only."""
    if not epsilon > 0:
        raise ValueError(f'epsilon={epsilon} of Sinkhorn must be above 0; the paper uses 0.05')
    if iterations < 1:
        raise ValueError(f'{iterations} iterations of Sinkhorn; it needs at least 1, and the paper uses 3')
    if scores is not None and scores.ndim not in (2, 3):
        raise ValueError(f'scores of Sinkhorn have shape {tuple(scores.shape)}, not (samples, prototypes)')
