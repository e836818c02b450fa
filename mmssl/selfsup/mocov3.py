"""MoCo v3: training self-supervised vision transformers (Chen, Xie, He, ICCV 2021, arXiv:2104.02057).

Queries come from an encoder with a predictor, keys from its slowly moving copy without one. The key of an
image's other view must be found among the keys of the whole batch, in both directions; there is no queue. The
patch projection of a ViT keeps its random initial weights.
"""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.mlp import MLP
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.pos_embed import sincos_2d
from mmssl.layers.vit import ViT, resolve_arch
from mmssl.losses import InfoNCELoss
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import ARCH, Small, forward
from mmssl.selfsup.views import has_batch_norm, project_views

VIT_SMALL = {**resolve_arch('small'), 'num_heads': 12}  # heads of 32 channels, where DeiT-S has 6 of 64


@MODELS.register_module()
class MoCoV3ViT(ViT):
    """ViT with MoCo v3's initialisation (section 4 and appendix): (B, 3, H, W) to the class token (B, C).

    The position table is fixed, with the row in its first half; q, k and v are drawn as three matrices; the
    class token starts close to 0.

    Args:
        arch: As in :class:`~mmssl.layers.vit.ViT`; 'small' ('s', 'mocov3-small') has twelve heads here.
        img_size: As in :class:`~mmssl.layers.vit.ViT`.
        patch_size: As in :class:`~mmssl.layers.vit.ViT`.
        stop_grad_conv1: Freeze the patch projection, which keeps training stable (section 4.2).
        out_type: 'cls_token', or another output type of :class:`~mmssl.layers.vit.ViT`.
        **kwargs: Passed on to :class:`~mmssl.layers.vit.ViT`.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        stop_grad_conv1: bool = True,
        out_type: str = 'cls_token',
        **kwargs,
    ):
        if isinstance(arch, str) and arch.lower() in ('s', 'small', 'mocov3-s', 'mocov3-small'):
            arch = VIT_SMALL
        super().__init__(arch=arch, img_size=img_size, patch_size=patch_size, out_type=out_type, **kwargs)
        if self.pos_embed is not None:
            self.pos_embed.requires_grad_(False)
        if stop_grad_conv1:
            self.patch_embed.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Draw the released initialisation: Xavier, for q, k and v apart; class token from N(0, 1e-6)."""
        super().reset_parameters()
        for layer in self.layers:
            for weight in layer.attn.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight)
        if self.patch_embed.projection.bias is not None:
            nn.init.zeros_(self.patch_embed.projection.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        if self.pos_embed is not None:
            table = sincos_2d(self.patch_resolution, self.embed_dims, self.num_pos_extra_tokens)
            with torch.no_grad():
                self.pos_embed.copy_(table.roll(self.embed_dims // 2, dims=-1))


@MODELS.register_module()
class MoCoV3Head(BaseModule):
    """Predictor and contrastive loss (algorithm 1).

    Args:
        predictor: Config of an :class:`~mmssl.layers.mlp.MLP`, or built.
        temperature: 1.0 for ResNet-50, 0.2 for ViT.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(
        self, predictor: dict | nn.Module, temperature: float = 1.0, init_cfg: dict | list | None = None
    ):
        super().__init__(init_cfg)
        if not temperature > 0:
            raise ValueError(
                f'temperature={temperature} of MoCoV3Head must be above 0; the paper has 0.2 for ViT, '
                '1.0 for ResNet-50'
            )
        self.predictor = build(predictor, MODELS)
        self.temperature = temperature
        self.info_nce = InfoNCELoss(temperature)

    def loss(self, projections: list[Tensor], keys: list[Tensor]) -> Tensor:
        """2 T (CE(q1, k2) + CE(q2, k1)) over the keys of all processes.

        Args:
            projections: (B, C) of each view, before the predictor.
            keys: (B, C) of each view, from the momentum encoder.

        Returns:
            scalar.
        """
        q1, q2 = (self.predictor(projection) for projection in projections)
        k1, k2 = keys
        return 2 * self.temperature * (self.info_nce(q1, k2) + self.info_nce(q2, k1))


@MODELS.register_module()
class MoCoV3(ScheduledSupervisor):
    """MoCo v3: ``MoCoV3(backbone=mmssl.MoCoV3ViT or a ResNet, neck=mmssl.MLP, head=mmssl.MoCoV3Head)``.

    Args:
        backbone: Config, or built.
        neck: Projector: config, or built.
        head: Config, or built.
        momentum: Momentum of the key encoder at the first step; 0.99, and 0.996 for 1000 epochs.
        final_momentum: Momentum at the last step, reached on a cosine: 1, or None for a constant momentum.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.

    Raises:
        ValueError: The widths of backbone, projector and predictor do not match.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        momentum: float = 0.99,
        final_momentum: float | None = 1.0,
        **kwargs,
    ):
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        _check_widths(self.backbone, self.neck, self.head.predictor)
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum, final_momentum)
        # batch norm takes its statistics from one view at a time
        self.views_together = not has_batch_norm(self.backbone)

    @property
    def encoder(self) -> nn.Sequential:
        """Backbone and projector that are trained, without the predictor."""
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the key encoder and the backbone and projector that it follows."""
        return [(self.momentum_encoder, self.encoder)]

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Two views (B, 3, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        views = self.views(inputs, 2)
        projections = project_views(self.encoder, views, self.views_together)
        self.update_teachers()  # after the queries and before the keys, as in the released code
        with torch.no_grad():
            keys = project_views(self.momentum_encoder.module, views, self.views_together)
        return dict(loss=self.head.loss(projections, keys))


def _check_widths(backbone: nn.Module, projector: nn.Module, predictor: nn.Module) -> None:
    if not isinstance(projector, MLP) or not isinstance(predictor, MLP):
        return
    width = backbone.embed_dims if isinstance(backbone, ViT) else getattr(backbone, 'feat_dim', None)
    if width not in (None, projector.dims[0]):
        raise ValueError(
            f'the backbone gives {width} channels and the neck has dims={projector.dims}; '
            f'begin them with {width}'
        )
    if not projector.dims[-1] == predictor.dims[0] == predictor.dims[-1]:
        raise ValueError(
            f'the neck has dims={projector.dims} and the predictor dims={predictor.dims}; queries and keys '
            f'are compared: the predictor must begin and end with {projector.dims[-1]}'
        )


VIT = dict(arch=ARCH, img_size=32, patch_size=8)
SMALL = {
    'MoCoV3ViT': Small(VIT, forward, (2, 32)),
    'MoCoV3Head': Small(
        dict(predictor=dict(type='mmssl.MLP', dims=(3, 8, 3))),
        lambda head, images: head.loss(images.mean(3).unbind(2)[:2], images.mean(2).unbind(2)[:2]),
    ),
    'MoCoV3': Small(
        dict(
            backbone=dict(type='mmssl.MoCoV3ViT', **VIT),
            neck=dict(type='mmssl.MLP', dims=(32, 16, 16, 8), last_bn=True),
            head=dict(
                type='mmssl.MoCoV3Head', predictor=dict(type='mmssl.MLP', dims=(8, 16, 8)), temperature=0.2
            ),
        )
    ),
}
