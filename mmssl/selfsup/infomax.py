"""Deep InfoMax (Hjelm et al., ICLR 2019, arXiv:1808.06670).

An encoder maps an image to a vector. It is trained so that the vector has high mutual information with every
position of a feature map of the same image (local objective), with the whole map (global objective), and so
that the vectors of all images are distributed like noise of a given kind (prior matching).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.distributed import gather_with_gradient, world
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.losses.mutual_information import (
    DIVERGENCES,
    donsker_varadhan_loss,
    donsker_varadhan_of_scores,
    fenchel_dual_loss,
    fenchel_dual_of_scores,
    infonce_loss,
    infonce_of_scores,
    pair_scores,
    pairs_of_scores,
    softplus,
)
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.infomax_nets import InfoMaxEncoder, InfoMaxNet, PriorDiscriminator
from mmssl.selfsup.infomax_tasks import ConcatNet, CoordinateNet, occlude
from mmssl.selfsup.small import Small

__all__ = [
    'DIVERGENCES',
    'DeepInfoMax',
    'InfoMaxEncoder',
    'InfoMaxNet',
    'MutualInformation',
    'PriorDiscriminator',
    'donsker_varadhan_loss',
    'fenchel_dual_loss',
    'infonce_loss',
    'pair_scores',
]


def estimator_loss(name: str) -> Callable[..., Tensor]:
    """Return the loss of an estimator of mutual information, a function of (pairs, gather=...).

    Raises:
        ValueError: The name is unknown.
    """
    losses = {'InfoNCE': infonce_of_scores, 'DV': donsker_varadhan_of_scores}
    losses.update({measure: partial(fenchel_dual_of_scores, measure=measure) for measure in DIVERGENCES})
    if name not in losses:
        raise ValueError(f'estimator={name!r} is unknown; one of {", ".join(map(repr, losses))}')
    return losses[name]


class MutualInformation(BaseModule):
    """Minus the estimated mutual information of features and vectors.

    Args:
        feature_net: Embedding of the features, :class:`InfoMaxNet`.
        vector_net: Embedding of the vectors, :class:`InfoMaxNet`.
        estimator: 'InfoNCE', 'DV', or a measure of :func:`~mmssl.losses.fenchel_dual_loss`.
        gather: Negatives from all processes too.
    """

    def __init__(self, feature_net: nn.Module, vector_net: nn.Module, estimator: str, gather: bool):
        super().__init__()
        self.feature_net = feature_net
        self.vector_net = vector_net
        self.estimator = estimator
        self.gather = gather

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute a scalar from features (B, C, h, w) or (B, C) and vectors (B, D)."""
        pairs = pair_scores(self.feature_net(features), self.vector_net(vectors), self.gather)
        return estimator_loss(self.estimator)(pairs, gather=self.gather)


class ConcatMutualInformation(BaseModule):
    """As :class:`MutualInformation`, with the concatenate-and-convolve discriminator.

    Args:
        net: Scores of pairs, :class:`~mmssl.selfsup.infomax_tasks.ConcatNet`.
        estimator: As in :class:`MutualInformation`.
        gather: As in :class:`MutualInformation`.
    """

    def __init__(self, net: nn.Module, estimator: str, gather: bool):
        super().__init__()
        self.net = net
        self.estimator = estimator
        self.gather = gather

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Compute a scalar from features (B, C, h, w) and vectors (B, D)."""
        features = features.flatten(2)
        if self.gather:
            features = gather_with_gradient(features)
        first = world()[0] * len(vectors) if self.gather else 0
        pairs = pairs_of_scores(self.net(features, vectors), first)
        return estimator_loss(self.estimator)(pairs, gather=self.gather)


@MODELS.register_module()
class DeepInfoMax(SelfSupervisor):
    """Deep InfoMax (equation 8): ``DeepInfoMax(backbone=mmssl.InfoMaxEncoder or a ResNet, neck=mmssl.MLP)``.

    DIM(G) of the paper is alpha=1, beta=0, gamma=1; DIM(L) is alpha=0, beta=1, gamma=0.1.

    Args:
        backbone: Returns a tuple of features, of which the last one goes to the neck.
        neck: mmssl.MLP, the last layers of the encoder, up to the vector.
        alpha: Weight of the global term; a term of weight 0 is left out.
        beta: Weight of the local term.
        gamma: Weight of the prior term for the encoder. The discriminator learns from its own, unweighted
            term.
        estimator: 'JSD', 'InfoNCE', 'DV', or another measure of :func:`~mmssl.losses.fenchel_dual_loss`.
        discriminator: Scores of the local term: 'dot', of embeddings, or 'concat', a network of 1x1
            convolutions on features and vectors that are concatenated (appendix A.2), whose memory grows
            with the square of the batch.
        occlusion: Side of a square that is set to the mean where the vector is computed, in pixels; the
            features are those of the whole image (section 4.4). None for no occlusion.
        coordinates: Weight of a term that predicts the place of a feature from it and the vector (section
            4.4), see :class:`~mmssl.selfsup.infomax_tasks.CoordinateNet`; 0 for none.
        local_index: Which output of the backbone is the map of the local objective.
        local_channels: Channels of that map.
        global_index: Which output of the backbone is the map of the global objective.
        global_channels: Channels times height times width of that map, which is flattened.
        units: Channels of the embeddings in which features and vectors are compared.
        prior: Arguments of :class:`PriorDiscriminator`.
        prior_loss: Prior term of the encoder: 'non-saturating', -log D, as in the released code, or
            'minimax', log(1 - D), as in equation 7.
        gather: Take negatives from all processes; the loss is then that of one process with the joined batch.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.
    """

    def __init__(  # noqa: PLR0913 - set in configs
        self,
        backbone: dict,
        neck: dict,
        alpha: float = 0.0,
        beta: float = 1.0,
        gamma: float = 0.1,
        estimator: str = 'JSD',
        discriminator: str = 'dot',
        occlusion: int | None = None,
        coordinates: float = 0.0,
        local_index: int = 1,
        local_channels: int = 128,
        global_index: int = 2,
        global_channels: int = 4096,
        units: int = 2048,
        prior: dict | None = None,
        prior_loss: str = 'non-saturating',
        gather: bool = False,
        **kwargs,
    ):
        refuse_unused('DeepInfoMax', kwargs, {'head': None}, 'its networks are set by its own arguments')
        super().__init__(backbone, neck, **kwargs)
        if min(alpha, beta, gamma) < 0 or not alpha + beta:
            raise ValueError(
                f'alpha={alpha}, beta={beta}, gamma={gamma}: none may be negative, and alpha or beta must be '
                'above 0'
            )
        if prior_loss not in ('non-saturating', 'minimax'):
            raise ValueError(f"prior_loss={prior_loss!r} is not one of 'non-saturating', 'minimax'")
        if discriminator not in ('dot', 'concat'):
            raise ValueError(f"discriminator={discriminator!r} is not one of 'dot', 'concat'")
        if coordinates < 0:
            raise ValueError(f'coordinates={coordinates} must not be negative')
        estimator_loss(estimator)  # refuses an unknown name
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.prior_loss = prior_loss
        self.local_index = local_index
        self.global_index = global_index
        width = self.neck.dims[-1]

        def mutual_information(channels: int, layer_norm: bool) -> MutualInformation:
            feature_net = InfoMaxNet(channels, units, layer_norm)
            vector_net = InfoMaxNet(width, units, layer_norm)
            return MutualInformation(feature_net, vector_net, estimator, gather)

        if beta and discriminator == 'concat':
            net = ConcatNet(local_channels, width)
            self.local_mi: nn.Module | None = ConcatMutualInformation(net, estimator, gather)
        else:
            self.local_mi = mutual_information(local_channels, layer_norm=True) if beta else None
        self.coordinates = coordinates
        self.coordinate_net = CoordinateNet(local_channels, width) if coordinates else None
        self.occlusion = occlusion
        self.global_mi = mutual_information(global_channels, layer_norm=False) if alpha else None
        settings = {'type': 'mmssl.PriorDiscriminator', 'in_channels': width, **(prior or {})}
        self.prior = build(settings, MODELS) if gamma else None

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list | None = None, prior: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised, or a list with that one view.
            data_samples: Ignored.
            prior: (B, D) in [0, 1), the draw of the prior.

        Returns:
            ``dict(loss=scalar)``.
        """
        (image,) = self.views([inputs] if isinstance(inputs, Tensor) else inputs, 1)
        features = self.backbone(image)
        occluded = features if self.occlusion is None else self.backbone(occlude(image, self.occlusion))
        vectors = self.neck(occluded[-1])
        loss = 0.0
        if self.coordinate_net is not None:
            loss = loss + self.coordinates * self.coordinate_net(features[self.local_index], vectors)
        if self.local_mi is not None:
            loss = loss + self.beta * self.local_mi(features[self.local_index], vectors)
        if self.global_mi is not None:
            loss = loss + self.alpha * self.global_mi(features[self.global_index].flatten(1), vectors)
        if self.prior is not None:
            discriminator_loss, encoder_loss = self.match_prior(vectors, prior)
            loss = loss + discriminator_loss + self.gamma * encoder_loss
        return dict(loss=loss)

    def match_prior(self, vectors: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Match the vectors, brought to (0, 1) by a sigmoid, to uniform noise (section 3.3, equation 7).

        Args:
            vectors: (B, D).
            prior: (B, D) in [0, 1), the draw.

        Returns:
            Two scalars: the loss of the discriminator, whose gradient goes to the discriminator only, and the
            loss of the encoder, whose gradient goes to the encoder only.
        """
        assert self.prior is not None
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        vectors = vectors.to(dtype).sigmoid()
        prior = torch.rand_like(vectors) if prior is None else prior.to(vectors)
        scores = self.prior(torch.cat([prior, vectors.detach()])).to(dtype)
        real, fake = scores.split([len(prior), len(vectors)])
        discriminator_loss = softplus(-real).mean() + softplus(fake).mean()
        score = self.prior(vectors, frozen=True).to(dtype)
        if self.prior_loss == 'non-saturating':
            return discriminator_loss, softplus(-score).mean()
        return discriminator_loss, F.logsigmoid(-score).mean()


SMALL = {
    'DeepInfoMax': Small(
        dict(
            backbone=dict(type='mmssl.InfoMaxEncoder', channels=(4, 6, 8), hidden=12),
            neck=dict(type='mmssl.MLP', dims=(12, 5), bias=True),
            alpha=1.0,
            local_channels=6,
            global_channels=128,
            units=16,
            prior=dict(hidden=(8, 4)),
        ),
        lambda model, images: model.loss(
            images, prior=torch.linspace(0, 0.9, 10, device=images.device).view(2, 5)
        )['loss'],
    ),
}
