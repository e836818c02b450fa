"""SimCLR: a simple framework for contrastive learning (Chen et al., ICML 2020, arXiv:2002.05709)."""

from torch import Tensor, nn

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.losses import NTXentLoss
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import RESNET, Small


@MODELS.register_module()
class SimCLR(SelfSupervisor):
    """SimCLR: ``SimCLR(backbone=mmpretrain.ResNet, neck=mmssl.MLP)``, algorithm 1 of the paper.

    Each of the two views of an image must be recognised among the views of all other images in the batch, of
    all processes. Batch norm should see all of them too (section 2.2): set ``sync_bn = 'torch'``.

    Args:
        backbone: Encoder f: config, or built.
        neck: Projection head g, (B, C) or (B, C, h, w) to (B, D): config, or built.
        temperature: Temperature of the NT-Xent loss; 0.1 for ImageNet with batches of 4096.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.
    """

    def __init__(
        self, backbone: dict | nn.Module, neck: dict | nn.Module, temperature: float = 0.1, **kwargs
    ):
        refuse_unused('SimCLR', kwargs, {'head': None}, 'its loss is built in, with temperature=...')
        super().__init__(backbone, neck, **kwargs)
        self.nt_xent = NTXentLoss(temperature)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        first, second = [self.neck(self.backbone(view)) for view in self.views(inputs, 2)]
        return dict(loss=self.nt_xent(first, second))


SMALL = {'SimCLR': Small(dict(backbone=RESNET, neck=dict(type='mmssl.MLP', dims=(64, 16, 8))))}
