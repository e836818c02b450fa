"""MoBY (Xie et al., arXiv:2105.04553): MoCo v2's queues and contrastive loss, BYOL's predictor, augmentations and momentum schedule.

Two encoders, each a backbone and a projector. The online one has a predictor on top and stochastic depth, and
learns; the target one has neither, and follows it. Predictions from one view are compared with the keys of
the other view and with the keys of earlier batches, which wait in a queue for each view.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.queue import FeatureQueue
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor


@MODELS.register_module()
class MoBY(ScheduledSupervisor):
    """``MoBY(backbone=..., neck=mmssl.MLP, head=mmssl.MLP)``: the neck is the projector, the head the predictor.

    The online encoder's stochastic depth is the ``drop_path_rate`` of the backbone; the target encoder has
    none (section 3, 'asymmetric drop path rates').

    Args:
        backbone: config or built; gives a vector (B, C), a map (B, C, H, W), or a tuple that ends in one of
            them.
        neck, head: MLPs, as ``dict(type='mmssl.MLP', dims=(C, 4096, 256), bias=True)`` and ``dims=(256, 4096,
            256)``.
        queue_len: keys in each of the two queues.
        temperature: of the contrastive loss.
        momentum: of the target encoder at the first step; it rises to ``final_momentum`` along half a cosine
            over the training.
        final_momentum: see above; None keeps ``momentum``.
        others: as for :class:`~mmssl.selfsup.base.SelfSupervisor`.

    Raises:
        ValueError: widths of backbone, neck and head that do not fit, or a temperature that is not above 0.
    """

    def __init__(
        self,
        backbone,
        neck,
        head,
        queue_len: int = 4096,
        temperature: float = 0.2,
        momentum: float = 0.99,
        final_momentum: float | None = 1.0,
        data_preprocessor=None,
        **kwargs,
    ):
        if not temperature > 0:
            raise ValueError(f'temperature={temperature} must be above 0; the paper has 0.2')
        backbone, neck, head = (build(part, MODELS) for part in (backbone, neck, head))
        _check_widths(backbone, neck, head)
        super().__init__(backbone, neck, head, data_preprocessor, **kwargs)
        self.temperature = temperature
        self.momentum_encoder = MomentumEncoder(self._encoder(), momentum, final_momentum)
        self.queue1 = FeatureQueue(neck.dims[-1], queue_len)
        self.queue2 = FeatureQueue(neck.dims[-1], queue_len)
        # views share a forward pass, except through batch norm, whose statistics are those of one view
        self.joint = not any(isinstance(module, _BatchNorm) for module in self.backbone.modules())

    def _encoder(self) -> nn.Sequential:
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """The target encoder and the online encoder without its predictor."""
        return [(self.momentum_encoder, self._encoder())]

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone."""
        return self.backbone(inputs)

    def _projections(self, encoder: nn.Sequential, views: list[Tensor]) -> list[Tensor]:
        backbone, projector = encoder
        if self.joint and views[0].shape == views[1].shape:
            features = _last(backbone(torch.cat(views))).chunk(2)
        else:
            features = [_last(backbone(view)) for view in views]
        return [projector(feature) for feature in features]

    def contrast(self, prediction: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Contrastive loss of one direction (equation 1).

        Args:
            prediction: (B, D), of one view, before normalisation.
            key: (B, D), unit vectors, of the other view of the same images.
            queue: (D, K), a unit vector a column: earlier keys of the other view.

        Returns:
            scalar: mean over B of -log softmax([q.k, q.queue] / temperature)[0].
        """
        with torch.autocast(key.device.type, enabled=False):
            query = nn.functional.normalize(prediction.to(key.dtype), dim=1)
            logits = (
                torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue], dim=1) / self.temperature
            )
            return nn.functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """One training step's loss; the target encoder and the queues move on with it in training mode.

        Args:
            inputs: two views (B, 3, H, W), normalised.
            data_samples: ignored.

        Returns:
            ``dict(loss=scalar)``, the sum of both directions.
        """
        self.begin_forward()
        views = self.views(inputs, 2)
        predictions = [self.head(projection) for projection in self._projections(self._encoder(), views)]
        if self.training:
            self.update_teachers()
        with torch.no_grad():
            dtype = self.queue1.queue.dtype
            keys = [
                nn.functional.normalize(key.to(dtype), dim=1)
                for key in self._projections(self.momentum_encoder.module, views)
            ]
        loss = self.contrast(predictions[0], keys[1], self.queue2.negatives()) + self.contrast(
            predictions[1], keys[0], self.queue1.negatives()
        )
        if self.training:
            self.queue1.enqueue(keys[0])
            self.queue2.enqueue(keys[1])
        return dict(loss=loss)


def _last(outputs) -> Tensor:
    return outputs[-1] if isinstance(outputs, (tuple, list)) else outputs


def _check_widths(backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
    """Compare the width of the backbone, where it tells it, and those of projector and predictor."""
    for name, part in (('neck', neck), ('head', head)):
        if not hasattr(part, 'dims'):
            raise ValueError(
                f"the {name} is a {type(part).__name__}; give dict(type='mmssl.MLP', dims=(..., 4096, 256), bias=True)"
            )
    told = getattr(
        backbone, 'num_features', getattr(backbone, 'embed_dims', getattr(backbone, 'feat_dim', None))
    )
    if isinstance(told, (list, tuple)):  # of the stages
        told = told[max(getattr(backbone, 'out_indices', (-1,)))]
    if isinstance(told, int) and told != neck.dims[0]:
        raise ValueError(
            f'the backbone is {told} wide and the neck takes {neck.dims[0]}; give dims=({told}, ...)'
        )
    if head.dims[0] != neck.dims[-1] or head.dims[-1] != neck.dims[-1]:
        raise ValueError(
            f'the neck gives {neck.dims[-1]} channels and the head goes from {head.dims[0]} to {head.dims[-1]}; predictions '
            f'are compared with projections: give dims=({neck.dims[-1]}, ..., {neck.dims[-1]})'
        )
