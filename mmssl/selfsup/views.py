"""Views of images on their way through a backbone."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def image_features(output: Tensor | Sequence[Tensor]) -> Tensor:
    """Return one vector per image from a backbone's last output.

    Args:
        output: (B, C), or (B, C, h, w), which is averaged, or (B, N, C), of which the first token is taken;
            or a tuple that ends in one of these.

    Returns:
        (B, C).
    """
    last = output if isinstance(output, Tensor) else output[-1]
    if last.ndim == 4:
        return last.mean(dim=(2, 3))
    return last[:, 0] if last.ndim == 3 else last


def concatenate_by_size(views: Sequence[Tensor]) -> list[Tensor]:
    """Join consecutive views (B, 3, H, W) of equal size to batches (n * B, 3, H, W), in order."""
    return [torch.cat(list(group)) for _, group in groupby(views, key=lambda view: view.shape[-2:])]


def has_batch_norm(module: nn.Module) -> bool:
    """Whether the output for an image depends on the other images of the batch."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def project_views(encoder: nn.Sequential, views: Sequence[Tensor], together: bool) -> list[Tensor]:
    """Project each view by backbone and projector.

    Args:
        encoder: ``nn.Sequential(backbone, projector)``.
        views: Two views (B, 3, H, W).
        together: Pass views of equal size through the backbone in one batch; see :func:`has_batch_norm`.

    Returns:
        (B, D) for each view.
    """
    backbone, projector = encoder
    if together and views[0].shape == views[1].shape:
        features = image_features(backbone(torch.cat(list(views)))).chunk(len(views))
    else:
        features = [image_features(backbone(view)) for view in views]
    return [projector(feature) for feature in features]
