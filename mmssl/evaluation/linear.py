"""Linear probing on cached features, with a grid search over learning rates and weight decays.

The protocol is MAE's (He et al., arXiv:2111.06377, appendix A.1): features are normalised by a batch norm
without parameters, and a linear classifier is trained by SGD with momentum and a cosine schedule. There is no
augmentation, so the features are computed once, and a step of all classifiers of the grid is one matrix
product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.evaluation.knn import accuracy, check_classes, check_features

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-2)
EPS = 1e-6  # of MAE's batch norm


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of a linear probe.

    Args:
        learning_rates: Peak learning rates of the grid.
        weight_decays: Weight decays of the grid, applied to the weights but not to the biases.
        epochs: Passes over the features.
        batch_size: Features per step; N / 64 within [256, 16384] if None.
        momentum: Momentum of SGD.
        holdout: Fraction of each class of the training set on which the grid is compared.
        seed: Seed of the split and of the order of the batches; the same seed gives the same result.
        num_classes: Number of classes; the largest training label plus 1 if None.
        device: Device to train on; that of the features if None.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    weight_decays: Sequence[float] = WEIGHT_DECAYS
    epochs: int = 100
    batch_size: int | None = None
    momentum: float = 0.9
    holdout: float = 0.2
    seed: int = 0
    num_classes: int | None = None
    device: str | torch.device | None = None

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Pairs (learning rate, weight decay) to compare."""
        return [(float(rate), float(decay)) for rate in self.learning_rates for decay in self.weight_decays]

    def check(self) -> None:
        """Raise ValueError if a value is out of range."""
        if not self.grid or any(not rate > 0 or not decay >= 0 for rate, decay in self.grid):
            raise ValueError(
                f'learning_rates={tuple(self.learning_rates)} must be above 0, '
                f'weight_decays={tuple(self.weight_decays)} at least 0'
            )
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError(f'epochs={self.epochs} and batch_size={self.batch_size} must be at least 1')


def stratified_split(labels: Tensor, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split indices into two parts with the same proportion of each class.

    Args:
        labels: (N,) integers.
        fraction: Fraction of each class that goes to the second part, rounded. At least one image of a class
            stays in the first part, and at least one goes to the second if the class has two or more.
        seed: Seed of the draw.

    Returns:
        Two sorted index tensors, disjoint and together all of 0 to N - 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'fraction={fraction!r} must be between 0 and 1, both excluded')
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    first, second = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        second.append(members[:count])
        first.append(members[count:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def fit_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    grid: Sequence[tuple[float, float]],
    settings: ProbeSettings,
) -> tuple[Tensor, Tensor]:
    """Train a softmax regression for each pair (learning rate, weight decay), all on the same batches.

    The weights start at zero; the learning rate falls from its peak to zero along half a cosine.

    Args:
        features: (N, D), normalised.
        labels: (N,) in [0, num_classes).
        num_classes: K.
        grid: H pairs (peak learning rate, weight decay).
        settings: ``epochs``, ``batch_size``, ``momentum`` and ``seed``.

    Returns:
        Weights (H, D, K) and biases (H, K).
    """
    (samples, width), heads = features.shape, len(grid)
    batch_size = min(settings.batch_size or min(max(samples // 64, 256), 16384), samples)
    rates, decays = features.new_tensor(grid).T.unsqueeze(-1)  # (H, 1) each
    # (D, H, K), so that the logits of all heads are one matrix product
    weight = features.new_zeros(width, heads, num_classes)
    bias = features.new_zeros(heads, num_classes)
    weight_velocity = torch.zeros_like(weight)
    bias_velocity = torch.zeros_like(bias)
    generator = torch.Generator().manual_seed(settings.seed)
    steps_per_epoch = math.ceil(samples / batch_size)
    steps = settings.epochs * steps_per_epoch
    for step in range(steps):
        if step % steps_per_epoch == 0:
            order = torch.randperm(samples, generator=generator).to(features.device)
        start = step % steps_per_epoch * batch_size
        indices = order[start : start + batch_size]
        batch = features[indices]
        logits = (batch @ weight.flatten(1)).view(len(batch), heads, num_classes) + bias
        error = _cross_entropy_gradient(logits, labels[indices])
        weight_gradient = (batch.T @ error.flatten(1)).view_as(weight)
        weight_velocity.mul_(settings.momentum).add_(weight_gradient).addcmul_(weight, decays)
        bias_velocity.mul_(settings.momentum).add_(error.sum(dim=0))
        rate = rates * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        weight.addcmul_(weight_velocity, rate, value=-1)
        bias.addcmul_(bias_velocity, rate, value=-1)
    return weight.permute(1, 0, 2), bias


def _cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy with respect to logits (B, H, K): (softmax - one-hot) / B."""
    count, heads, _ = logits.shape
    gradient = logits.softmax(dim=-1)
    index = labels.view(-1, 1, 1).expand(-1, heads, 1)
    gradient.scatter_add_(2, index, gradient.new_full((count, heads, 1), -1.0))
    return gradient.div_(count)


def _standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Normalise by the mean and biased variance of the first, as BatchNorm1d(affine=False) does."""
    variance, mean = torch.var_mean(train, dim=0, correction=0)
    scale = (variance + EPS).rsqrt()
    return [(part - mean) * scale for part in (train, *others)]


def linear_probe(
    train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor, **settings
) -> dict:
    """Measure the accuracy of a linear classifier on frozen features.

    All pairs of learning rate and weight decay are trained on a part of the training set and compared on the
    rest. The best pair by accuracy, then by cross-entropy, is trained again on the whole training set. The
    validation set has no influence on the choice.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        features: (M, D) of the validation set.
        labels: (M,) of the validation set.
        **settings: Fields of :class:`ProbeSettings`.

    Returns:
        ``top1`` and ``top5`` of the validation set in percent; the chosen ``lr`` and ``weight_decay`` with
        their ``holdout_top1``; ``num_classes``, ``epochs`` and ``sweep``, a list of ``dict(lr, weight_decay,
        holdout_top1)``.

    Raises:
        ValueError: Features are NaN, shapes or labels do not agree, there is a single class, the grid is
            empty or out of range, or there are too few images.
    """
    probe = ProbeSettings(**settings)
    _check_data(train_features, train_labels, features, labels)
    num_classes = probe.num_classes or int(train_labels.max()) + 1
    check_classes(train_labels, num_classes, 'training')
    check_classes(labels, num_classes, 'validation')
    probe.check()

    device = torch.device(probe.device) if probe.device is not None else train_features.device
    train_features = train_features.to(device, torch.float32)
    train_labels = train_labels.to(device, torch.long)
    features = features.to(device, torch.float32)
    labels = labels.to(device, torch.long)

    sweep, best = _search(train_features, train_labels, num_classes, probe)
    chosen = probe.grid[best]
    train_part, val_part = _standardise(train_features, features)
    weight, bias = fit_heads(train_part, train_labels, num_classes, [chosen], probe)
    scores = val_part @ weight[0] + bias[0]
    if not torch.isfinite(scores).all():
        raise ValueError(
            f'learning rate {chosen[0]} diverged on the whole training set; give smaller learning_rates'
        )
    return dict(
        **accuracy(scores, labels),
        **sweep[best],
        num_classes=num_classes,
        epochs=probe.epochs,
        sweep=sweep,
    )


def _check_data(train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor) -> None:
    check_features(train_features, train_labels, 'training')
    check_features(features, labels, 'validation')
    if train_features.shape[1] != features.shape[1]:
        raise ValueError(
            f'training features have {train_features.shape[1]} dimensions, validation features '
            f'{features.shape[1]}'
        )
    if len(train_labels.unique()) < 2:
        raise ValueError(
            f'all {len(train_labels)} training labels are {int(train_labels[0])}; a classifier needs at '
            'least '
            'two classes'
        )


def _search(
    features: Tensor, labels: Tensor, num_classes: int, settings: ProbeSettings
) -> tuple[list[dict], int]:
    """Compare the grid on a held-out part of the training set; return all results and the best index."""
    fit, held_out = (
        part.to(features.device) for part in stratified_split(labels, settings.holdout, settings.seed)
    )
    if not len(held_out):
        raise ValueError(
            f'no class of the training set has two images, so that none of the {len(labels)} can be held out'
        )
    fit_features, held_out_features = _standardise(features[fit], features[held_out])
    weight, bias = fit_heads(fit_features, labels[fit], num_classes, settings.grid, settings)
    sweep, ranks = [], []
    for (rate, decay), head_weight, head_bias in zip(settings.grid, weight, bias, strict=True):
        logits = held_out_features @ head_weight + head_bias
        loss = F.cross_entropy(logits, labels[held_out]).item()
        diverged = not math.isfinite(loss)
        top1 = 0.0 if diverged else accuracy(logits, labels[held_out])['top1']
        sweep.append(dict(lr=rate, weight_decay=decay, holdout_top1=top1))
        ranks.append((-1.0, 0.0) if diverged else (top1, -loss))
    best = max(range(len(ranks)), key=ranks.__getitem__)
    if ranks[best][0] < 0:
        raise ValueError(
            f'every learning rate of {tuple(settings.learning_rates)} diverged; give smaller ones'
        )
    return sweep, best
