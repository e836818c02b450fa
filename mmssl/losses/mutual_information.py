"""Estimators of mutual information from scores of pairs (Deep InfoMax, Hjelm et al., arXiv:1808.06670).

Each loss is minus a lower bound. Positive pairs are a feature and a vector of the same image, negative pairs
of two different images.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import renamed_arguments
from mmssl.layers.distributed import gather_with_gradient, world
from mmssl.ops.precision import no_autocast

LOG_2 = math.log(2)


def softplus(v: Tensor) -> Tensor:
    """log(1 + exp(v)); torch's softplus is the identity above 20."""
    return -F.logsigmoid(-v)


# f-GAN (arXiv:1606.00709), tables 2 and 6, T being the output activation of a score v and f* the conjugate:
# T(v), whose mean is taken over positive pairs, and f*(T(v)), over negative pairs. Both are increasing near
# the optimum; their difference bounds the divergence.
DIVERGENCES = {
    'GAN': (F.logsigmoid, softplus),
    'JSD': (lambda v: LOG_2 + F.logsigmoid(v), lambda v: softplus(v) - LOG_2),
    'KL': (lambda v: v, lambda v: (v - 1).exp()),
    'RKL': (lambda v: -(-v).exp(), lambda v: v - 1),
    'X2': (lambda v: v, lambda v: v.square() / 4 + v),
    'H2': (lambda v: -torch.expm1(-v), torch.expm1),
    'W1': (lambda v: v, lambda v: v),  # no f-divergence: the scores must be Lipschitz
}


class PairScores(NamedTuple):
    """Dot products of every feature with every vector.

    Attributes:
        scores: (N, V, K, L), float32 or wider, of vector n and the features of image k.
        same_image: (N, 1, K, 1), True where vector and feature are of the same image.
        positives: (V, L, N), the scores of the same image.
    """

    scores: Tensor
    same_image: Tensor
    positives: Tensor


@renamed_arguments(l='features', m='vectors')
def pair_scores(features: Tensor, vectors: Tensor, gather: bool = False) -> PairScores:
    """Score all pairs of a feature and a vector.

    Args:
        features: (N, units, L), L features of each image.
        vectors: (N, units, V), V vectors of each image.
        gather: Use the features of all processes: K is then N times the world size, otherwise N.

    Raises:
        ValueError: The shapes do not match, or there is only one image, which has no negatives.
    """
    if features.ndim != 3 or vectors.ndim != 3 or features.shape[:2] != vectors.shape[:2]:
        raise ValueError(
            f'features have shape {tuple(features.shape)} and vectors {tuple(vectors.shape)}; give '
            '(N, units, features) and (N, units, vectors)'
        )
    batch, units, num_vectors = vectors.shape
    num_features = features.shape[2]
    features = features.transpose(1, 2)
    if gather:
        features = gather_with_gradient(features)
    if len(features) < 2:
        raise ValueError('a batch of 1 image has no negatives; mutual information needs at least 2 images')
    first = world()[0] * batch if gather else 0
    with no_autocast(vectors):
        rows = [
            x.reshape(-1, units).to(torch.promote_types(x.dtype, torch.float32))
            for x in (vectors.transpose(1, 2), features)
        ]
        scores = F.linear(*rows).view(batch, num_vectors, -1, num_features)
    return pairs_of_scores(scores, first)


def pairs_of_scores(scores: Tensor, first: int = 0) -> PairScores:
    """Return the pairs that scores (N, V, K, L) are of; image ``first`` of the K is the first of the N."""
    batch = len(scores)
    images = torch.arange(scores.shape[2], device=scores.device)
    own_images = images[first : first + batch]
    same_image = (images == own_images[:, None])[:, None, :, None]
    return PairScores(scores, same_image, scores[:, :, first : first + batch].diagonal(dim1=0, dim2=2))


@renamed_arguments(l='features', m='vectors')
def fenchel_dual_loss(
    features: Tensor, vectors: Tensor, measure: str = 'JSD', gather: bool = False
) -> Tensor:
    """Minus a lower bound of the f-divergence of positive and negative pairs (equation 4 for 'JSD').

    Args:
        features: (N, units, L).
        vectors: (N, units, V).
        measure: 'JSD', 'GAN', 'KL', 'RKL', 'X2', 'H2' or 'W1'.
        gather: Negatives from all processes too.

    Returns:
        scalar: The mean over negative pairs minus the mean over positive pairs.
    """
    if measure not in DIVERGENCES:
        hint = 'call donsker_varadhan_loss' if measure == 'DV' else f'one of {", ".join(DIVERGENCES)}'
        raise ValueError(f'measure={measure!r} is no divergence of fenchel_dual_loss; {hint}')
    return fenchel_dual_of_scores(pair_scores(features, vectors, gather), measure)


def fenchel_dual_of_scores(pairs: PairScores, measure: str = 'JSD', gather: bool = False) -> Tensor:
    """As :func:`fenchel_dual_loss`, from scores; ``gather`` has no effect."""
    positive, negative = DIVERGENCES[measure]
    scores, same_image, positives = pairs
    # positive pairs are masked before the exponential too, where they may be infinite
    negatives = negative(scores.masked_fill(same_image, 0)).mean(dim=(1, 3), keepdim=True)
    num_pairs = len(scores) * (scores.shape[2] - 1)
    return negatives.masked_fill(same_image, 0).sum() / num_pairs - positive(positives).mean()


@renamed_arguments(l='features', m='vectors')
def infonce_loss(features: Tensor, vectors: Tensor, gather: bool = False) -> Tensor:
    """Cross entropy of finding a feature of the same image among those of all other images (equation 5).

    The released code gives the other features of the same image the score -10 instead of leaving them out.

    Args:
        features: (N, units, L).
        vectors: (N, units, V).
        gather: Negatives from all processes too.

    Returns:
        scalar: The mean over all positive pairs.
    """
    return infonce_of_scores(pair_scores(features, vectors, gather))


def infonce_of_scores(pairs: PairScores, gather: bool = False) -> Tensor:
    """As :func:`infonce_loss`, from scores; ``gather`` has no effect."""
    scores, same_image, positives = pairs
    negatives = scores.masked_fill(same_image, -math.inf).logsumexp(dim=(2, 3))
    return softplus(negatives.T.unsqueeze(1) - positives).mean()


@renamed_arguments(l='features', m='vectors')
def donsker_varadhan_loss(features: Tensor, vectors: Tensor, gather: bool = False) -> Tensor:
    """Minus the Donsker-Varadhan bound of the Kullback-Leibler divergence (section 3.1, equation 2).

    The released code counts positive pairs among the negatives, with the score -10.

    Args:
        features: (N, units, L).
        vectors: (N, units, V).
        gather: Negatives from all processes too.

    Returns:
        scalar: log mean exp(score) over negative pairs minus the mean score over positive pairs.
    """
    return donsker_varadhan_of_scores(pair_scores(features, vectors, gather), gather)


def donsker_varadhan_of_scores(pairs: PairScores, gather: bool = False) -> Tensor:
    """As :func:`donsker_varadhan_loss`, from scores; with ``gather`` over those of all processes."""
    scores, same_image, positives = pairs
    negatives = scores.masked_fill(same_image, -math.inf).logsumexp(dim=(0, 1, 2, 3))
    count = positives.numel() * (scores.shape[2] - 1)
    if gather:
        parts = gather_with_gradient(negatives.reshape(1))
        count *= len(parts)
        negatives = parts.logsumexp(dim=0)
    return negatives - math.log(count) - positives.mean()


class JSDLoss(nn.Module):
    """Minus the Jensen-Shannon estimator of mutual information; see :func:`fenchel_dual_loss`.

    Args:
        gather: Negatives from all processes too.
    """

    def __init__(self, gather: bool = False):
        super().__init__()
        self.gather = gather

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute the loss of features (N, units, L) and vectors (N, units, V)."""
        return fenchel_dual_loss(features, vectors, 'JSD', self.gather)


class DonskerVaradhanLoss(nn.Module):
    """Minus the Donsker-Varadhan estimator of mutual information; see :func:`donsker_varadhan_loss`.

    Args:
        gather: Negatives from all processes too.
    """

    def __init__(self, gather: bool = False):
        super().__init__()
        self.gather = gather

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute the loss of features (N, units, L) and vectors (N, units, V)."""
        return donsker_varadhan_loss(features, vectors, self.gather)
