"""MoBY: self-supervised learning with Swin transformers (Xie et al., arXiv:2105.04553).

MoCo v2's queues and contrastive loss with BYOL's predictor, augmentations and momentum schedule. Predictions
of the online encoder from one view are compared with the target encoder's keys of the other view, and with
the keys of earlier batches, for which each view has a queue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.queue import FeatureQueue
from mmssl.losses.contrastive import check_temperature, info_nce
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import ARCH, Small
from mmssl.selfsup.views import has_batch_norm, project_views


@MODELS.register_module()
class MoBY(ScheduledSupervisor):
    """MoBY: ``MoBY(backbone=..., neck=mmssl.MLP, head=mmssl.MLP)``, the projector and the predictor.

    The online encoder's stochastic depth is the ``drop_path_rate`` of the backbone; the target encoder has
    none (section 3, 'asymmetric drop path rates').

    Args:
        backbone: Config, or built; returns (B, C), (B, C, H, W), or a tuple that ends in one of them.
        neck: Projector, such as ``dict(type='mmssl.MLP', dims=(C, 4096, 256), bias=True)``.
        head: Predictor, such as ``dict(type='mmssl.MLP', dims=(256, 4096, 256), bias=True)``.
        queue_len: Keys in each of the two queues.
        temperature: Temperature of the contrastive loss.
        momentum: Momentum of the target encoder at the first step.
        final_momentum: Momentum at the last step, reached on a cosine; None keeps ``momentum``.
        data_preprocessor: Config, or built.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.

    Raises:
        ValueError: The widths of backbone, neck and head do not match, or the temperature is not above 0.
    """

    def __init__(  # noqa: PLR0913 - set in configs
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        head: dict | nn.Module,
        queue_len: int = 4096,
        temperature: float = 0.2,
        momentum: float = 0.99,
        final_momentum: float | None = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs,
    ):
        check_temperature(temperature)
        backbone, neck, head = (build(part, MODELS) for part in (backbone, neck, head))
        _check_widths(backbone, neck, head)
        super().__init__(backbone, neck, head, data_preprocessor, **kwargs)
        self.temperature = temperature
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum, final_momentum)
        self.queue1 = FeatureQueue(neck.dims[-1], queue_len)
        self.queue2 = FeatureQueue(neck.dims[-1], queue_len)
        # batch norm takes its statistics from one view at a time
        self.views_together = not has_batch_norm(self.backbone)

    @property
    def encoder(self) -> nn.Sequential:
        """Online encoder without its predictor."""
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the target encoder and the online encoder without its predictor."""
        return [(self.momentum_encoder, self.encoder)]

    def contrast(self, prediction: Tensor, key: Tensor, queue: FeatureQueue) -> Tensor:
        """Contrastive loss of one direction (equation 1).

        Args:
            prediction: (B, D) from one view, before normalisation.
            key: (B, D) unit vectors from the other view of the same images.
            queue: Earlier keys of the other view.

        Returns:
            scalar.
        """
        query = F.normalize(prediction.to(key.dtype), dim=1)
        return info_nce(query, key, queue.negatives(), self.temperature)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch; in training mode the target encoder and the queues are updated.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``, the sum of both directions.
        """
        self.begin_forward()
        views = self.views(inputs, 2)
        pred_1, pred_2 = map(self.head, project_views(self.encoder, views, self.views_together))
        self.update_teachers()
        key_1, key_2 = self.keys(views)
        loss = self.contrast(pred_1, key_2, self.queue2) + self.contrast(pred_2, key_1, self.queue1)
        if self.training:
            self.queue1.enqueue(key_1)
            self.queue2.enqueue(key_2)
        return dict(loss=loss)

    @torch.no_grad()
    def keys(self, views: list[Tensor]) -> list[Tensor]:
        """Unit vectors (B, D) of the target encoder, for each view."""
        projections = project_views(self.momentum_encoder.module, views, self.views_together)
        return [F.normalize(key.to(self.queue1.queue.dtype), dim=1) for key in projections]


def _check_widths(backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
    """Raise ValueError where the widths of backbone, projector and predictor do not match."""
    for name, part in (('neck', neck), ('head', head)):
        if not hasattr(part, 'dims'):
            raise ValueError(
                f"the {name} is a {type(part).__name__}; give dict(type='mmssl.MLP', dims=(..., 4096, 256), "
                'bias=True)'
            )
    width = _width_of(backbone)
    if width is not None and width != neck.dims[0]:
        raise ValueError(
            f'the backbone has {width} channels and the neck takes {neck.dims[0]}; give dims=({width}, ...)'
        )
    if head.dims[0] != neck.dims[-1] or head.dims[-1] != neck.dims[-1]:
        raise ValueError(
            f'the neck gives {neck.dims[-1]} channels and the head goes from {head.dims[0]} to '
            f'{head.dims[-1]}; predictions are compared with projections: '
            f'give dims=({neck.dims[-1]}, ..., {neck.dims[-1]})'
        )


def _width_of(backbone: nn.Module) -> int | None:
    """Return the channels of a backbone's last output; None if it does not state them."""
    for name in ('num_features', 'embed_dims', 'feat_dim'):
        width = getattr(backbone, name, None)
        if width is not None:
            break
    if isinstance(width, (list, tuple)):  # channels of the stages
        width = width[max(getattr(backbone, 'out_indices', (-1,)))]
    return width if isinstance(width, int) else None


SMALL = {
    'MoBY': Small(
        dict(
            backbone=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, out_type='cls_token'),
            neck=dict(type='mmssl.MLP', dims=(32, 16, 8), bias=True),
            head=dict(type='mmssl.MLP', dims=(8, 16, 8), bias=True),
            queue_len=8,
        )
    )
}
