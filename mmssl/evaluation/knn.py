"""Weighted k-nearest-neighbour classification of features (Wu et al., CVPR 2018, arXiv:1805.01978, section 3.4; DINO, arXiv:2104.14294).

The k training features of largest cosine similarity s vote for their classes with weight exp(s /
temperature).
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

# entries of one block of similarities: 256 MiB in float32
MAX_ENTRIES = 1 << 26


def check_features(features: Tensor, labels: Tensor | None, name: str) -> None:
    """Refuse what would give a silent wrong number.

    Args:
        features: (N, D), floating point, finite, N and D at least 1.
        labels: (N,) integers, at least 0; None where there are none.
        name: what the message calls them.

    Raises:
        TypeError: features are not floating point, or labels not integers.
        ValueError: wrong shapes, NaN or infinity, or a negative label.
    """
    if not features.is_floating_point():
        raise TypeError(f'{name} features are {features.dtype}; they must be floating point')
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f'{name} features have shape {tuple(features.shape)}; they must be (N, D), neither of them 0'
        )
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ValueError(
            f'{bad} of {len(features)} {name} features hold NaN or infinity; the weights or the images are broken'
        )
    if labels is None:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f'{name} labels are {labels.dtype}; they must be integers')
    if labels.shape != (len(features),):
        raise ValueError(f'{name}: {len(features)} features, but labels have shape {tuple(labels.shape)}')
    if int(labels.min()) < 0:
        raise ValueError(f'{name} labels hold {int(labels.min())}; labels count from 0')


def check_classes(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError when a label is not below ``num_classes``."""
    if int(labels.max()) >= num_classes:
        raise ValueError(
            f'{name} labels go up to {int(labels.max())}, but there are {num_classes} classes (0 to {num_classes - 1})'
        )


def knn_scores(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> Tensor:
    """Share of the votes that each class gets.

    Args:
        train_features: (N, D), the bank; it need not be normalised.
        train_labels: (N,) integers in [0, num_classes).
        features: (M, D), what to classify, on the device of the bank.
        k: neighbours that vote; with fewer than k in the bank all of them vote, with a warning.
        temperature: of the votes; a small one lets the nearest decide.
        num_classes: the largest training label plus one when None.

    Returns:
        (M, num_classes), in the wider of the two dtypes (float32 at least), rows sum to 1.

    Raises:
        ValueError: shapes that do not agree, NaN, labels out of range, k < 1 or temperature <= 0.
    """
    check_features(train_features, train_labels, 'training')
    check_features(features, None, 'validation')
    if train_features.shape[1] != features.shape[1]:
        raise ValueError(
            f'training features have {train_features.shape[1]} dimensions, validation features {features.shape[1]}'
        )
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1
    check_classes(train_labels, num_classes, 'training')
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f'k={k!r} must be a whole number of neighbours, at least 1')
    if not temperature > 0:
        raise ValueError(f'temperature={temperature!r} must be above 0, as 0.07')
    if k > len(train_features):
        warnings.warn(
            f'k={k} exceeds the {len(train_features)} training features; all of them vote', stacklevel=2
        )
        k = len(train_features)

    dtype = torch.promote_types(torch.promote_types(train_features.dtype, features.dtype), torch.float32)
    bank = F.normalize(train_features.to(dtype), dim=1)
    labels = train_labels.to(bank.device, torch.long)
    rows = max(1, MAX_ENTRIES // len(bank))
    scores = []
    for chunk in features.split(rows):
        similarities, neighbours = (F.normalize(chunk.to(dtype), dim=1) @ bank.T).topk(k, dim=1)
        # softmax is exp(s / T) over the sum of the votes, without overflow at small temperatures
        votes = (similarities / temperature).softmax(dim=1)
        scores.append(votes.new_zeros(len(chunk), num_classes).scatter_add_(1, labels[neighbours], votes))
    return torch.cat(scores)


def knn_classify(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> Tensor:
    """(M,) predicted labels; arguments and errors as in :func:`knn_scores`. Equal votes go to the smaller label."""
    return knn_scores(train_features, train_labels, features, k, temperature, num_classes).argmax(dim=1)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> dict[str, float]:
    """Accuracy of the vote.

    Args:
        labels: (M,) integers, the truth for ``features``.
        others: as in :func:`knn_scores`.

    Returns:
        ``dict(top1, top5)`` in percent. A class without a vote is no hit of top5, so with few neighbours or
        classes it is not 100 for free.

    Raises:
        ValueError: as in :func:`knn_scores`; also a label that no training feature could have.
    """
    check_features(features, labels, 'validation')
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1 if len(train_labels) else 0
    scores = knn_scores(train_features, train_labels, features, k, temperature, num_classes)
    check_classes(labels, num_classes, 'validation')
    return accuracy(scores, labels, voted=True)


def accuracy(scores: Tensor, labels: Tensor, voted: bool = False) -> dict[str, float]:
    """``dict(top1, top5)`` in percent of (M, K) scores; ``voted`` counts a hit only where the score is above 0."""
    labels = labels.to(scores.device, torch.long)
    best, order = scores.topk(min(5, scores.shape[1]), dim=1)
    hits = order == labels[:, None]
    if voted:
        hits &= best > 0
    top1 = scores.argmax(dim=1) == labels  # argmax, not order[:, 0]: the same tie rule as knn_classify
    return dict(top1=100 * top1.double().mean().item(), top5=100 * hits.any(dim=1).double().mean().item())
