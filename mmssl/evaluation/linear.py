"""Linear probing on cached features: many classifiers at once, the best one chosen on a part of the training set.

The protocol is MAE's (He et al., arXiv:2111.06377, appendix A.1): features are normalised by a batch norm
without parameters, and a linear classifier is trained by SGD with momentum and a cosine schedule, without
augmentation. The features are computed once, so that a grid of learning rates and weight decays costs one
matrix product a step.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmssl.evaluation.knn import accuracy, check_classes, check_features

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-2)
EPS = 1e-6  # of MAE's batch norm


def stratified_split(labels: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split indices so that every class gives the same share to the second part.

    Args:
        labels: (N,) integers.
        share: of every class that goes to the second part, rounded; at least one image of a class stays in
            the first part, and at least one goes to the second where the class has two or more.
        seed: of the draw.

    Returns:
        two sorted index tensors, which are disjoint and together all of 0 to N - 1.
    """
    if not 0 < share < 1:
        raise ValueError(f'share={share!r} must be between 0 and 1, both excluded')
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    first, second = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        second.append(members[:count])
        first.append(members[count:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def fit_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    epochs: int = 100,
    batch_size: int | None = None,
    momentum: float = 0.9,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Train one softmax regression for each pair (learning rate, weight decay), all on the same batches.

    Args:
        features: (N, D), normalised.
        labels: (N,) in [0, num_classes).
        learning_rates, weight_decays: one of each for each of the H heads; the rates are the peaks of half a
            cosine.
        epochs: passes over the features.
        batch_size: N / 64 within [256, 16384] when None.
        momentum: of SGD. Weight decay is added to the gradient of the weights, not of the biases.
        seed: of the order of the batches; the weights start at zero.

    Returns:
        weights (H, D, K) and biases (H, K).
    """
    (samples, width), heads = features.shape, len(learning_rates)
    batch_size = min(batch_size or min(max(samples // 64, 256), 16384), samples)
    rates = features.new_tensor(learning_rates).view(heads, 1)
    decays = features.new_tensor(weight_decays).view(heads, 1)
    # (D, H, K), so that the logits of all heads are one matrix product
    weight, bias = features.new_zeros(width, heads, num_classes), features.new_zeros(heads, num_classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    generator = torch.Generator().manual_seed(seed)
    steps_per_epoch = math.ceil(samples / batch_size)
    for step in range(epochs * steps_per_epoch):
        if step % steps_per_epoch == 0:
            order = torch.randperm(samples, generator=generator).to(features.device)
        start = step % steps_per_epoch * batch_size
        chosen = order[start : start + batch_size]
        batch, truth = features[chosen], labels[chosen]
        logits = (batch @ weight.flatten(1)).view(len(batch), heads, num_classes) + bias
        # gradient of the mean cross-entropy with respect to the logits: softmax - one-hot
        error = logits.softmax(dim=-1)
        error.scatter_add_(
            2, truth.view(-1, 1, 1).expand(-1, heads, 1), error.new_full((len(batch), heads, 1), -1.0)
        )
        error /= len(batch)
        weight_velocity.mul_(momentum).add_((batch.T @ error.flatten(1)).view_as(weight)).addcmul_(
            weight, decays
        )
        bias_velocity.mul_(momentum).add_(error.sum(dim=0))
        rate = rates * (0.5 + 0.5 * math.cos(math.pi * step / (epochs * steps_per_epoch)))
        weight.addcmul_(weight_velocity, rate, value=-1)
        bias.addcmul_(bias_velocity, rate, value=-1)
    return weight.permute(1, 0, 2), bias


def _standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """All by the mean and (biased) variance of the first, as BatchNorm1d(affine=False) with population statistics."""
    variance, mean = torch.var_mean(train, dim=0, correction=0)
    scale = (variance + EPS).rsqrt()
    return [(part - mean) * scale for part in (train, *others)]


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    epochs: int = 100,
    batch_size: int | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    num_classes: int | None = None,
    device: str | torch.device | None = None,
) -> dict:
    """Accuracy of a linear classifier on frozen features.

    All pairs of learning rate and weight decay are trained on a part of the training set and compared on the
    rest of it; the best one (accuracy, then cross-entropy) is trained anew on the whole training set. The
    validation set takes no part in the choice.

    Args:
        train_features, train_labels: (N, D) and (N,).
        features, labels: (M, D) and (M,), the validation set.
        learning_rates, weight_decays: the grid.
        epochs, batch_size: as in :func:`fit_heads`.
        holdout: share of every class of the training set that the choice is made on.
        seed: of the split and of the order of the batches; the result is the same for the same seed.
        num_classes: the largest training label plus one when None.
        device: where to train; where the features are when None.

    Returns:
        ``top1``, ``top5`` (percent, validation), ``lr``, ``weight_decay`` (chosen), ``holdout_top1``,
        ``num_classes``, ``epochs`` and ``sweep``, a list of ``dict(lr, weight_decay, holdout_top1)``.

    Raises:
        ValueError: NaN features, shapes or labels that do not agree, one class only, an empty or impossible
            grid, too few images.
    """
    check_features(train_features, train_labels, 'training')
    check_features(features, labels, 'validation')
    if train_features.shape[1] != features.shape[1]:
        raise ValueError(
            f'training features have {train_features.shape[1]} dimensions, validation features {features.shape[1]}'
        )
    if len(train_labels.unique()) < 2:
        raise ValueError(
            f'all {len(train_labels)} training labels are {int(train_labels[0])}; a classifier needs at least two classes'
        )
    num_classes = num_classes or int(train_labels.max()) + 1
    check_classes(train_labels, num_classes, 'training')
    check_classes(labels, num_classes, 'validation')
    grid = [(float(rate), float(decay)) for rate in learning_rates for decay in weight_decays]
    if not grid or any(not rate > 0 or not decay >= 0 for rate, decay in grid):
        raise ValueError(
            f'learning_rates={tuple(learning_rates)} must be above 0, weight_decays={tuple(weight_decays)} at least 0'
        )
    if epochs < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f'epochs={epochs} and batch_size={batch_size} must be at least 1')
    fitting, held = stratified_split(train_labels, holdout, seed)
    if not len(held):
        raise ValueError(
            f'no class of the training set has two images, so that none of the {len(train_labels)} can be held out'
        )

    device = torch.device(device) if device is not None else train_features.device
    train_features, features = train_features.to(device, torch.float32), features.to(device, torch.float32)
    train_labels, labels = train_labels.to(device, torch.long), labels.to(device, torch.long)
    fitting, held = fitting.to(device), held.to(device)

    fit_part, held_part = _standardise(train_features[fitting], train_features[held])
    rates, decays = zip(*grid, strict=True)
    weight, bias = fit_heads(
        fit_part,
        train_labels[fitting],
        num_classes,
        rates,
        decays,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    sweep, ranks = [], []
    for (rate, decay), head_weight, head_bias in zip(grid, weight, bias, strict=True):
        logits = held_part @ head_weight + head_bias
        loss = torch.nn.functional.cross_entropy(logits, train_labels[held]).item()
        top1 = accuracy(logits, train_labels[held])['top1'] if math.isfinite(loss) else 0.0
        sweep.append(dict(lr=rate, weight_decay=decay, holdout_top1=top1))
        ranks.append((top1, -loss) if math.isfinite(loss) else (-1.0, 0.0))
    best = max(range(len(grid)), key=ranks.__getitem__)
    if ranks[best][0] < 0:
        raise ValueError(f'every learning rate of {tuple(learning_rates)} diverged; give smaller ones')

    train_part, val_part = _standardise(train_features, features)
    weight, bias = fit_heads(
        train_part,
        train_labels,
        num_classes,
        [grid[best][0]],
        [grid[best][1]],
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    scores = val_part @ weight[0] + bias[0]
    if not torch.isfinite(scores).all():
        raise ValueError(
            f'learning rate {grid[best][0]} diverged on the whole training set; give smaller learning_rates'
        )
    return dict(
        **accuracy(scores, labels),
        lr=grid[best][0],
        weight_decay=grid[best][1],
        holdout_top1=sweep[best]['holdout_top1'],
        num_classes=num_classes,
        epochs=epochs,
        sweep=sweep,
    )
