"""MoCo v3 (Chen, Xie, He, ICCV 2021, arXiv:2104.02057).

Two views of an image, queries from an encoder with a predictor, keys from its slowly moving copy without one;
the key of an image's other view must be found among the keys of the whole batch, in both directions. No
queue. The patch projection of a ViT stays as it was drawn.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.layers.distributed import gather, world
from mmssl.layers.mlp import MLP
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.pos_embed import sincos_2d
from mmssl.layers.vit import ViT, resolve_arch
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor

SMALL = {**resolve_arch('small'), 'num_heads': 12}  # heads of 32 channels, where DeiT-S has 6 of 64


@MODELS.register_module()
class MoCoV3ViT(ViT):
    """ViT as MoCo v3 begins it (section 4 and appendix); (B, 3, H, W) to the class token (B, C).

    mmpretrain's MoCoV3ViT takes square images only.

    The position table is fixed and has the row in its first half; q, k and v are drawn as three matrices; the
    class token starts near 0.

    Args:
        arch: as in :class:`mmssl.layers.vit.ViT`; 'small' ('s', 'mocov3-small') has twelve heads here.
        stop_grad_conv1: freeze the patch projection, which keeps training stable (section 4.2).
        out_type: 'cls_token', or another of :class:`mmssl.layers.vit.ViT`.
        others: as in :class:`mmssl.layers.vit.ViT`.
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
            arch = SMALL
        super().__init__(arch=arch, img_size=img_size, patch_size=patch_size, out_type=out_type, **kwargs)
        self.pos_embed.requires_grad_(False)
        if stop_grad_conv1:
            self.patch_embed.requires_grad_(False)

    def reset_parameters(self) -> None:
        """The released initialisation: Xavier, q, k and v each for itself; the class token from N(0, 1e-6)."""
        super().reset_parameters()
        for layer in self.layers:
            for weight in layer.attn.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight)
        if self.patch_embed.projection.bias is not None:
            nn.init.zeros_(self.patch_embed.projection.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        with torch.no_grad():
            table = sincos_2d(self.patch_resolution, self.embed_dims, self.num_extra_tokens)
            self.pos_embed.copy_(table.roll(self.embed_dims // 2, dims=-1))


@MODELS.register_module()
class MoCoV3Head(BaseModule):
    """Predictor and contrastive loss (algorithm 1).

    mmpretrain's head gathers keys once a view and takes the factor of the loss from the configuration.

    Args:
        predictor: config of an :class:`mmssl.layers.mlp.MLP`, or built.
        temperature: 1.0 for ResNet-50, 0.2 for ViT.
    """

    def __init__(
        self, predictor: dict | nn.Module, temperature: float = 1.0, init_cfg: dict | list | None = None
    ):
        super().__init__(init_cfg)
        if not temperature > 0:
            raise ValueError(
                f'temperature={temperature} of MoCoV3Head must be above 0; the paper has 0.2 for ViT, 1.0 for ResNet-50'
            )
        self.predictor = build(predictor, MODELS)
        self.temperature = temperature

    def loss(self, projections: list[Tensor], keys: list[Tensor]) -> Tensor:
        """2 T (CE(q1, k2) + CE(q2, k1)) over the keys of all processes.

        Args:
            projections: of the two views, (B, C) each, before the predictor.
            keys: of the two views, (B, C) each, from the momentum encoder.

        Returns:
            scalar.
        """
        predictions = [self.predictor(projection) for projection in projections]
        with torch.autocast(predictions[0].device.type, enabled=False):
            queries = self._directions(predictions)
            others = gather(self._directions(keys).transpose(0, 1)).transpose(0, 1).flip(0)
            logits = queries @ others.mT / self.temperature
            batch = logits.shape[1]
            labels = torch.arange(batch, device=logits.device) + world()[0] * batch
            # the mean over both directions is half of the sum of their means
            return 4 * self.temperature * F.cross_entropy(logits.flatten(0, 1), labels.repeat(2))

    @staticmethod
    def _directions(vectors: list[Tensor]) -> Tensor:
        """Two views, (B, C) each, to unit vectors (2, B, C), at least in float32."""
        stacked = torch.stack(list(vectors))
        return F.normalize(stacked if stacked.dtype == torch.float64 else stacked.float(), dim=2)


@MODELS.register_module()
class MoCoV3(ScheduledSupervisor):
    """MoCo v3: ``MoCoV3(backbone=mmssl.MoCoV3ViT, neck=mmssl.MLP, head=mmssl.MoCoV3Head)``, or with mmpretrain's ResNet.

    mmpretrain's overwrites the batch norm statistics of its key encoder by the query encoder's, and reads its
    step from the device once a parameter.

    Args:
        backbone, neck, head: configs, or built parts; the neck is the projector.
        momentum: m of the first step, from where it goes to ``final_momentum`` along half a cosine; 0.99, and
            0.996 for 1000 epochs.
        final_momentum: 1, or None for a constant momentum.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``).

    Raises:
        ValueError: backbone, projector and predictor do not fit each other.
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
        self._check_widths()
        self.momentum_encoder = MomentumEncoder(
            nn.Sequential(self.backbone, self.neck), momentum, final_momentum
        )
        # batch norm takes its statistics from one view at a time; without it both views go through the
        # backbone together
        self.views_together = not any(isinstance(module, _BatchNorm) for module in self.backbone.modules())

    def _check_widths(self) -> None:
        projector, predictor = self.neck, self.head.predictor
        width = (
            self.backbone.embed_dims
            if isinstance(self.backbone, ViT)
            else getattr(self.backbone, 'feat_dim', None)
        )
        if not isinstance(projector, MLP) or not isinstance(predictor, MLP):
            return
        if width not in (None, projector.dims[0]):
            raise ValueError(
                f'the backbone gives {width} channels and the neck has dims={projector.dims}; begin them with {width}'
            )
        if not projector.dims[-1] == predictor.dims[0] == predictor.dims[-1]:
            raise ValueError(
                f'the neck has dims={projector.dims} and the predictor dims={predictor.dims}; queries and keys are compared: '
                f'the predictor must begin and end with {projector.dims[-1]}'
            )

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """The key encoder and what it follows: backbone and projector, without the predictor."""
        return [(self.momentum_encoder, nn.Sequential(self.backbone, self.neck))]

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone."""
        return self.backbone(inputs)

    def _encode(self, backbone: nn.Module, neck: nn.Module, views: list[Tensor]) -> list[Tensor]:
        """Views (B, 3, H, W) to their projections, (B, C) each."""
        if self.views_together and views[0].shape == views[1].shape:
            features = backbone(torch.cat(views))[-1].chunk(2)
        else:
            features = [backbone(view) for view in views]
        return [neck(feature) for feature in features]

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: two views (B, 3, H, W), normalised.
            data_samples: ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        views = self.views(inputs, 2)
        projections = self._encode(self.backbone, self.neck, views)
        if self.training:
            self.update_teachers()  # after the queries and before the keys, as in the released code
        with torch.no_grad():
            backbone, neck = self.momentum_encoder.module
            keys = self._encode(backbone, neck, views)
        return dict(loss=self.head.loss(projections, keys))
