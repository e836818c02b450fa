"""Features of masks: the image embedding, averaged over the pixels of each mask."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# masks that are reduced at a time, at the size of the encoder's input
CHUNK = 16


def mask_features(embedding: Tensor, masks: Tensor, input_size: Sequence[int], img_size: int) -> Tensor:
    """Average an image embedding over masks.

    Each position of the embedding counts by the fraction of its cell that the mask covers.

    Args:
        embedding: (1, C, h, w) of the square that the image is padded to.
        masks: (M, H, W) bool at the size of the image, none of them empty.
        input_size: (height, width) of the resized image inside the square.
        img_size: Side of the square in pixels.

    Returns:
        (M, C) float32.

    Raises:
        ValueError: A mask is empty.
    """
    side = embedding.shape[-1]
    height, width = input_size
    features = []
    for chunk in masks.split(CHUNK):
        resized = F.interpolate(chunk[:, None].float(), (height, width), mode='area')
        padded = F.pad(resized, (0, img_size - width, 0, img_size - height))
        weights = F.adaptive_avg_pool2d(padded, side).flatten(1)
        total = weights.sum(1, keepdim=True)
        if not bool((total > 0).all()):
            raise ValueError('a mask without a pixel has no feature; leave empty masks out')
        features.append(weights / total @ embedding[0].float().flatten(1).T)
    return torch.cat(features) if features else embedding.new_zeros(0, embedding.shape[1]).float()
