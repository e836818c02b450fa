"""Classes of masks, learned from a handful of labelled masks on the features of Segment Anything."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import LabelError

if TYPE_CHECKING:
    from mmssl.data.pictures import PictureSettings
    from mmssl.promptable import SamPredictor

METHODS = ('knn', 'linear')
NEIGHBOURS = 5
TEMPERATURE = 0.07
# strength of the weight decay of the linear head, as 1 / C of scikit-learn's LogisticRegression
DECAY = 1.0


@dataclass
class MaskClasses:
    """A classifier of masks.

    The mean of the examples is subtracted from features, which are then scaled to length 1 (CL2N,
    arXiv:1911.04623): embeddings have much in common wherever they are taken.

    Args:
        names: Names of the classes.
        features: (N, C) of the examples.
        labels: (N,) int64, indices of their classes.
        method: 'knn', a vote of the 5 most similar examples (see :mod:`mmssl.evaluation.knn`), or 'linear',
            multinomial logistic regression.
        source: Digest of the examples, by which a run that goes on recognises them.

    Raises:
        ValueError: There is no such method, or no example.
    """

    names: list[str]
    features: Tensor
    labels: Tensor
    method: str = 'knn'
    source: str = ''

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f'method {self.method!r} does not exist; one of {", ".join(METHODS)}')
        if not len(self.features):
            raise ValueError('there is no example to learn classes of masks from')
        self._center = self.features.mean(0)
        self._weights = None
        if self.method == 'linear':
            self._weights = fit_logistic(self._normalized(self.features), self.labels, len(self.names))

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probabilities (M, K) of the classes of masks with features (M, C)."""
        if not len(features):
            return torch.zeros(0, len(self.names))
        if self._weights is not None:
            weight, bias = self._weights
            return (self._normalized(features) @ weight.T + bias).softmax(1)
        from mmssl.evaluation.knn import knn_scores

        count = min(NEIGHBOURS, len(self.features))
        examples, queries = self._normalized(self.features), self._normalized(features)
        return knn_scores(examples, self.labels, queries, count, TEMPERATURE, len(self.names))

    def _normalized(self, features: Tensor) -> Tensor:
        return F.normalize(features - self._center, dim=1)


def fit_logistic(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regression with weight decay, from zero weights.

    Minimises the sum of the cross entropies plus half the squared norm of the weights, without that of the
    bias.

    Args:
        features: (N, C).
        labels: (N,) int64.
        num_classes: Number of classes K.

    Returns:
        Weights (K, C) and bias (K,).
    """
    head = nn.Linear(features.shape[1], num_classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=500, tolerance_grad=1e-6, line_search_fn='strong_wolfe'
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), labels, reduction='sum')
        loss = loss + DECAY / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return head.weight.detach(), head.bias.detach()


def learn_classes(
    predictor: 'SamPredictor',
    examples: str | os.PathLike,
    method: str = 'knn',
    pictures: 'PictureSettings | None' = None,
) -> MaskClasses:
    """Learn the classes of masks from labelled images.

    Args:
        predictor: Encodes the images.
        examples: Folder or file of labels with masks, of any format.
        method: See :class:`MaskClasses`.
        pictures: How images that are not 8-bit RGB are read.

    Raises:
        FileNotFoundError: There is no such folder.
        LabelError: There is no mask, or an image cannot be read.
    """
    from mmssl.data.label_formats import read_labels
    from mmssl.data.label_formats.shapes import object_mask
    from mmssl.data.pictures import read_rgb

    labelled = read_labels(examples, 'instance')
    features, labels = [], []
    digest = hashlib.blake2b(digest_size=8)
    for image in labelled.images:
        objects = [each for each in image.objects if each.has_mask and not each.crowd]
        masks = [object_mask(each, image).astype(bool) for each in objects]
        visible = [index for index, mask in enumerate(masks) if mask.any()]
        if not visible or not image.path:
            continue
        predictor.set_image(read_rgb(image.path, pictures))
        features.append(features_of(predictor, [masks[index] for index in visible]))
        labels += [objects[index].label for index in visible]
        digest.update(repr((image.path, [objects[index] for index in visible])).encode())
    if not labels:
        raise LabelError('has no mask to learn classes from; give examples with outlines or masks', examples)
    return MaskClasses(
        labelled.classes, torch.cat(features), torch.tensor(labels), method, digest.hexdigest()
    )


def features_of(predictor: 'SamPredictor', masks: Sequence[np.ndarray]) -> Tensor:
    """Return the features (M, C) of masks (H, W) of the image that the predictor has encoded."""
    from mmssl.promptable.mask_features import mask_features

    input_size, _ = predictor.sizes()
    embedding = predictor.get_image_embedding()
    stacked = torch.from_numpy(np.stack(masks)).to(embedding.device)
    return mask_features(embedding, stacked, input_size, predictor.model.image_encoder.img_size).cpu()
