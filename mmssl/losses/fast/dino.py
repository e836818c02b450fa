"""Fast form of :func:`mmssl.losses.dino.cross_entropy_of_pairs`: three products instead of one per pair."""

from torch import Tensor

from mmssl.losses.dino import GLOBAL_CROPS


def cross_entropy_of_pairs(log_probs: Tensor, targets: Tensor, ncrops: int) -> Tensor:
    """Match global crops to the other global crop, and the sum of local crops to the sum of both targets."""
    log_probs = log_probs.unflatten(0, (ncrops, -1))
    targets = targets.unflatten(0, (GLOBAL_CROPS, -1))
    total = (targets.flip(0) * log_probs[:GLOBAL_CROPS]).sum()
    if ncrops > GLOBAL_CROPS:
        total = total + (targets.sum(dim=0) * log_probs[GLOBAL_CROPS:].sum(dim=0)).sum()
    return -total / (log_probs.shape[1] * GLOBAL_CROPS * (ncrops - 1))
