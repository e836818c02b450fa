"""VICReg: variance-invariance-covariance regularisation (Bardes et al., ICLR 2022, arXiv:2105.04906)."""

from torch import Tensor, nn

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.losses import VICRegLoss
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import RESNET, Small


@MODELS.register_module()
class VICReg(SelfSupervisor):
    """VICReg: ``VICReg(backbone=mmpretrain.ResNet, neck=mmssl.MLP)``, algorithm 1 of the paper.

    The embeddings of the two views of an image are to be equal (invariance), each dimension is to vary over
    the batch (variance), and different dimensions are to be uncorrelated (covariance). The statistics are
    those of the batches of all processes; batch norm should see them too: set ``sync_bn = 'torch'``.

    Args:
        backbone: Encoder f: config, or built.
        neck: Expander h, (B, C) or (B, C, h, w) to (B, D): config, or built.
        invariance_weight: Weight of the invariance; with the next two, equation 6.
        variance_weight: Weight of the variance.
        covariance_weight: Weight of the covariance.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        **kwargs,
    ):
        refuse_unused('VICReg', kwargs, {'head': None}, 'its loss is built in, with invariance_weight=...')
        super().__init__(backbone, neck, **kwargs)
        self.vicreg = VICRegLoss(invariance_weight, variance_weight, covariance_weight)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss, invariance, variance, covariance)``, scalars; the terms are for the log, without
            weights. A variance near 1 shows a collapse.
        """
        first, second = [self.neck(self.backbone(view)) for view in self.views(inputs, 2)]
        terms = self.vicreg.terms(first, second)
        logged = {name: term.detach() for name, term in terms._asdict().items()}
        return dict(loss=self.vicreg.weighted(terms), **logged)


SMALL = {'VICReg': Small(dict(backbone=RESNET, neck=dict(type='mmssl.MLP', dims=(64, 16, 8))))}
