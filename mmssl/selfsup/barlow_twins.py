"""Barlow Twins: learning by redundancy reduction (Zbontar et al., ICML 2021, arXiv:2103.03230)."""

from torch import Tensor, nn

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.losses import BarlowTwinsLoss
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import RESNET, Small


@MODELS.register_module()
class BarlowTwins(SelfSupervisor):
    """Barlow Twins: ``BarlowTwins(backbone=mmpretrain.ResNet, neck=mmssl.MLP)``, algorithm 1 of the paper.

    The correlations between the dimensions of one view and those of the other are to be the identity: a
    dimension does not depend on the view, and says what no other one says. The statistics are those of the
    batches of all processes; batch norm should see them too: set ``sync_bn = 'torch'``.

    Args:
        backbone: Encoder f: config, or built.
        neck: Projector, (B, C) or (B, C, h, w) to (B, D): config, or built.
        off_diagonal_weight: Lambda of equation 1.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        off_diagonal_weight: float = 0.0051,
        **kwargs,
    ):
        cure = 'its loss is built in, with off_diagonal_weight=...'
        refuse_unused('BarlowTwins', kwargs, {'head': None}, cure)
        super().__init__(backbone, neck, **kwargs)
        self.barlow_twins = BarlowTwinsLoss(off_diagonal_weight)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        first, second = [self.neck(self.backbone(view)) for view in self.views(inputs, 2)]
        return dict(loss=self.barlow_twins(first, second))


SMALL = {'BarlowTwins': Small(dict(backbone=RESNET, neck=dict(type='mmssl.MLP', dims=(64, 16, 8))))}
