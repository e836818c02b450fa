"""BYOL: bootstrap your own latent (Grill et al., NeurIPS 2020, arXiv:2006.07733)."""

from torch import Tensor, nn

from mmssl.layers.momentum import MomentumEncoder
from mmssl.losses.contrastive import unit
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import RESNET, Small


def regression_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of normalised vectors, 2 - 2 cos (equation 2), averaged over the batch.

    Args:
        predictions: (B, D).
        targets: (B, D).

    Returns:
        scalar.
    """
    with no_autocast(predictions):
        return (2 - 2 * (unit(predictions) * unit(targets)).sum(dim=1)).mean()


@MODELS.register_module()
class BYOL(ScheduledSupervisor):
    """BYOL: ``BYOL(backbone=mmpretrain.ResNet, neck=mmssl.MLP, head=mmssl.MLP)``, algorithm 1 of the paper.

    From one view the online network predicts the target network's projection of the other view, in both
    directions. The target network is a moving average of the online one; there are no negatives.

    Args:
        backbone: Encoder f: config, or built.
        neck: Projector g, (B, C) or (B, C, h, w) to (B, D): config, or built.
        head: Predictor q, (B, D) to (B, D), of the online network only: config, or built.
        momentum: tau_base, momentum of the target network at the first step.
        final_momentum: Momentum at the last step, reached on a cosine (section 3.2); None keeps ``momentum``.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        head: dict | nn.Module,
        momentum: float = 0.996,
        final_momentum: float | None = 1.0,
        **kwargs,
    ):
        super().__init__(backbone, neck, head, **kwargs)
        self.target = MomentumEncoder(self.online, momentum, final_momentum)

    @property
    def online(self) -> nn.Sequential:
        """Encoder and projector that are trained."""
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the target network and the online network without its predictor."""
        return [(self.target, self.online)]

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``, the sum of both directions.
        """
        self.begin_forward()
        views = self.views(inputs, 2)
        predictions = [self.head(self.online(view)) for view in views]
        targets = [self.target(view) for view in views]
        return dict(
            loss=regression_loss(predictions[0], targets[1]) + regression_loss(predictions[1], targets[0])
        )

    def after_update(self) -> None:
        """Move the target network (algorithm 1, last line)."""
        self.update_teachers()


PARTS = dict(
    backbone=RESNET,
    neck=dict(type='mmssl.MLP', dims=(64, 16, 8)),
    head=dict(type='mmssl.MLP', dims=(8, 16, 8)),
)
SMALL = {'BYOL': Small(PARTS)}
