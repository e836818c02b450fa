"""Weighted k-nearest-neighbour classification (Wu et al., arXiv:1805.01978, section 3.4; arXiv:2104.14294).

The k training features with the largest cosine similarity s vote for their classes with weight
exp(s / temperature).
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

# similarities computed at a time: 256 MiB in float32
MAX_ENTRIES = 1 << 26


def check_features(features: Tensor, labels: Tensor | None, name: str) -> None:
    """Check features and labels that would otherwise give a wrong accuracy silently.

    Args:
        features: (N, D), floating point and finite, with N and D at least 1.
        labels: (N,) integers, at least 0; None to check the features only.
        name: Name of the set in messages.

    Raises:
        TypeError: Features are not floating point, or labels are not integers.
        ValueError: A shape is wrong, a feature is NaN or infinite, or a label is negative.
    """
    if not features.is_floating_point():
        raise TypeError(f'{name} features are {features.dtype}; they must be floating point')
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f'{name} features have shape {tuple(features.shape)}; they must be (N, D) with N and D above 0'
        )
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ValueError(
            f'{bad} of {len(features)} {name} features contain NaN or infinity; check the weights and the '
            'images'
        )
    if labels is None:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f'{name} labels are {labels.dtype}; they must be integers')
    if labels.shape != (len(features),):
        raise ValueError(f'{name}: {len(features)} features, but labels have shape {tuple(labels.shape)}')
    if int(labels.min()) < 0:
        raise ValueError(f'{name} labels contain {int(labels.min())}; labels start at 0')


def check_classes(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError if a label is not below ``num_classes``."""
    if int(labels.max()) >= num_classes:
        raise ValueError(
            f'{name} labels go up to {int(labels.max())}, but there are {num_classes} classes '
            f'(0 to {num_classes - 1})'
        )


def knn_scores(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
    max_entries: int = MAX_ENTRIES,
) -> Tensor:
    """Fraction of the votes that each class gets.

    Args:
        train_features: (N, D), not necessarily normalised.
        train_labels: (N,) integers in [0, num_classes).
        features: (M, D) to classify, on the device of ``train_features``.
        k: Number of neighbours that vote; if there are fewer training features, all of them vote, with a
            warning.
        temperature: Temperature of the votes; the smaller, the more the nearest neighbour decides.
        num_classes: Number of classes; the largest training label plus 1 if None.
        max_entries: Number of similarities to compute at a time, which bounds the memory.

    Returns:
        (M, num_classes) whose rows sum to 1, in the wider of the two data types, at least float32.

    Raises:
        ValueError: Shapes do not agree, a feature is NaN, a label is out of range, k < 1 or temperature <= 0.
    """
    check_features(train_features, train_labels, 'training')
    check_features(features, None, 'validation')
    if train_features.shape[1] != features.shape[1]:
        raise ValueError(
            f'training features have {train_features.shape[1]} dimensions, validation features '
            f'{features.shape[1]}'
        )
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1
    check_classes(train_labels, num_classes, 'training')
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f'k={k!r} must be a whole number of neighbours, at least 1')
    if not temperature > 0:
        raise ValueError(f'temperature={temperature!r} must be above 0, such as 0.07')
    if k > len(train_features):
        warnings.warn(
            f'k={k} exceeds the {len(train_features)} training features; all of them vote', stacklevel=2
        )
        k = len(train_features)

    dtype = torch.promote_types(torch.promote_types(train_features.dtype, features.dtype), torch.float32)
    bank = F.normalize(train_features.to(dtype), dim=1)
    labels = train_labels.to(bank.device, torch.long)
    rows = max(1, max_entries // len(bank))
    scores = []
    for chunk in features.split(rows):
        similarities, neighbours = (F.normalize(chunk.to(dtype), dim=1) @ bank.T).topk(k, dim=1)
        # softmax is exp(s / T) divided by the sum of the votes, without overflow at small temperatures
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
    """Predict labels (M,) by the vote; ties go to the smaller label.

    Args:
        train_features: As in :func:`knn_scores`.
        train_labels: As in :func:`knn_scores`.
        features: As in :func:`knn_scores`.
        k: As in :func:`knn_scores`.
        temperature: As in :func:`knn_scores`.
        num_classes: As in :func:`knn_scores`.
    """
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
        train_features: (N, D), not necessarily normalised.
        train_labels: (N,) integers in [0, num_classes).
        features: (M, D) to classify.
        labels: (M,) integers, the true labels of ``features``.
        k: Number of neighbours that vote.
        temperature: Temperature of the votes.
        num_classes: Number of classes; the largest training label plus 1 if None.

    Returns:
        ``top1`` and ``top5`` in percent. A class without any vote is no hit of top5, so that few neighbours
        or classes do not make it 100.

    Raises:
        ValueError: As in :func:`knn_scores`, or a label that no training feature can have.
    """
    check_features(features, labels, 'validation')
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1 if len(train_labels) else 0
    scores = knn_scores(train_features, train_labels, features, k, temperature, num_classes)
    check_classes(labels, num_classes, 'validation')
    return accuracy(scores, labels, voted=True)


def accuracy(scores: Tensor, labels: Tensor, voted: bool = False) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent.

    Args:
        scores: (M, K).
        labels: (M,) true labels.
        voted: Scores are votes: a class with score 0 is no hit.

    Returns:
        ``top1`` and ``top5``.
    """
    labels = labels.to(scores.device, torch.long)
    best, order = scores.topk(min(5, scores.shape[1]), dim=1)
    hits = order == labels[:, None]
    if voted:
        hits &= best > 0
    top1 = scores.argmax(dim=1) == labels  # not order[:, 0]: the tie rule of knn_classify
    return dict(top1=100 * top1.double().mean().item(), top5=100 * hits.any(dim=1).double().mean().item())
