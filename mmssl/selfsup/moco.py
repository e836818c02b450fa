"""Momentum contrast, v1 (He et al., CVPR 2020, arXiv:1911.05722) and v2 (Chen et al., arXiv:2003.04297).

Two views of an image are a query and its key; the keys of earlier batches, kept in a queue, are the
negatives. Keys come from a slowly moving copy of the encoder. v1 has a linear head and temperature 0.07, v2 a
head of two layers, temperature 0.2, more augmentation and a cosine schedule.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.layers.distributed import shuffle, unshuffle, world
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.queue import FeatureQueue
from mmssl.registry import MODELS
from mmssl.selfsup.base import ScheduledSupervisor


def pooled(features: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The last output of a backbone as vectors: (B, C, h, w) averaged over positions to (B, C), or (B, C) as it is."""
    last = features[-1] if isinstance(features, (tuple, list)) else features
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last


@MODELS.register_module()
class MoCoV1Neck(BaseModule):
    """The linear head of MoCo v1 (section 3.3): average pooling and one layer.

    mmpretrain has no MoCo v1; its LinearNeck has the same state dict, and a batch norm unless told otherwise.

    Args:
        in_channels: width of the backbone's output.
        out_channels: width of an embedding.
    """

    def __init__(self, in_channels: int, out_channels: int = 128, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.fc = nn.Linear(in_channels, out_channels)

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        self.fc.reset_parameters()
        super().init_weights()

    def forward(self, features: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, h, w), the last of a tuple, to (B, out_channels)."""
        return self.fc(pooled(features))


@MODELS.register_module()
class MoCoV2Neck(BaseModule):
    """The head of MoCo v2 (section 3): average pooling, linear, ReLU, linear.

    mmpretrain's, with the same state dict, does not redraw its weights in ``init_weights`` and takes maps
    only.

    Args:
        in_channels: width of the backbone's output.
        hid_channels: width of the hidden layer; ``in_channels`` when None, as in the released code.
        out_channels: width of an embedding.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int | None = None,
        out_channels: int = 128,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.in_channels, self.out_channels = in_channels, out_channels
        hid_channels = hid_channels or in_channels
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hid_channels), nn.ReLU(inplace=True), nn.Linear(hid_channels, out_channels)
        )

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        self.mlp[0].reset_parameters()
        self.mlp[2].reset_parameters()
        super().init_weights()

    def forward(self, features: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, h, w), the last of a tuple, to (B, out_channels)."""
        return self.mlp(pooled(features))


@MODELS.register_module()
class MoCo(ScheduledSupervisor):
    """MoCo: ``MoCo(backbone=mmpretrain.ResNet, neck=mmssl.MoCoV1Neck or mmssl.MoCoV2Neck)``.

    mmpretrain's MoCo overwrites the batch norm statistics of the key encoder by the query encoder's, has no
    shuffled batch norm on one device, and refuses a queue that is no multiple of the batch.

    Batch norm over the batch of one device tells a query which key is its own: their statistics come from the
        same images. Keys are
    therefore shuffled among the devices before they are encoded (v1, section 3.3). On one device
    ``bn_groups`` does the same: n devices with batches of B are one device with a batch of n * B and
    ``bn_groups=n``, loss, gradients and queue alike, and the running statistics are those of the first group
    as they are the first device's.

    Args:
        backbone, neck: configs, or built parts.
        queue_len: negatives in the queue.
        momentum: m of the key encoder, key = m * key + (1 - m) * query (mmpretrain counts from the other end,
            0.001 for 0.999).
        temperature: of the logits, 0.07 in v1 and 0.2 in v2.
        bn_groups: groups of the batch of a device whose batch norms are apart.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``).

    Attributes:
        encoder_k: the key encoder, :class:`~mmssl.layers.momentum.MomentumEncoder` of
            ``nn.Sequential(backbone, neck)``.
        queue: keys of the batches before, :class:`~mmssl.layers.queue.FeatureQueue`.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        queue_len: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        bn_groups: int = 1,
        **kwargs,
    ):
        super().__init__(backbone=backbone, neck=neck, **kwargs)
        if not temperature > 0:
            raise ValueError(f'temperature={temperature} of MoCo must be above 0; v1 has 0.07, v2 0.2')
        if bn_groups < 1:
            raise ValueError(
                f'bn_groups={bn_groups} of MoCo must be at least 1, which is one batch norm over the whole batch'
            )
        if momentum < 0.5:
            warnings.warn(
                f'momentum={momentum}: the key encoder takes {1 - momentum:.1%} of the query encoder in every step; the paper '
                'keeps 0.999 of the key encoder',
                stacklevel=2,
            )
        width = getattr(self.backbone, 'feat_dim', self.neck.in_channels)
        if width != self.neck.in_channels:
            raise ValueError(
                f'neck has in_channels={self.neck.in_channels}, but the backbone is {width} wide; set in_channels={width}'
            )
        self.temperature, self.bn_groups = temperature, bn_groups
        self.encoder_k = MomentumEncoder(self.encoder, momentum)
        self.queue = FeatureQueue(self.neck.out_channels, queue_len)
        self.register_load_state_dict_pre_hook(_rename_queue)

    @property
    def encoder(self) -> nn.Sequential:
        """Backbone and neck, the query encoder."""
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """The key encoder and the query encoder."""
        return [(self.encoder_k, self.encoder)]

    def embed(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Unit vectors of images, one batch norm a group.

        Args:
            encoder: query or key encoder.
            images: (B, 3, H, W), B a multiple of ``bn_groups`` in training.

        Returns:
            (B, D), in the precision of the queue.
        """
        groups = self.bn_groups if self.training else 1
        if len(images) % groups:
            raise ValueError(
                f'a batch of {len(images)} does not divide into bn_groups={groups}; change one of them'
            )
        first, *others = images.chunk(groups)
        vectors = encoder(first)
        if others:
            with _running_statistics_kept(encoder):
                vectors = torch.cat([vectors, *map(encoder, others)])
        return F.normalize(vectors.to(self.queue.queue.dtype), dim=1)

    @torch.no_grad()
    def keys(self, images: Tensor, order: Tensor | None = None) -> Tensor:
        """Keys of images, shuffled while they are encoded.

        Args:
            images: (B, 3, H, W) of this process.
            order: (world size * B,), the draw of the shuffle, the same on every process.

        Returns:
            (B, D), unit vectors, in the order of ``images``.
        """
        if not self.training or world()[1] * self.bn_groups == 1:
            return self.embed(self.encoder_k, images)
        shuffled, order = shuffle(images, order)
        return unshuffle(
            self.embed(self.encoder_k, shuffled.contiguous(memory_format=self.memory_format)), order
        )

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """InfoNCE (v1, equation 1): the cross entropy of telling the own key from those in the queue.

        Args:
            queries, keys: (B, D), unit vectors.

        Returns:
            scalar.
        """
        with torch.autocast(queries.device.type, enabled=False):
            scaled = queries / self.temperature
            positive = (scaled * keys).sum(dim=1)
            negative = (scaled @ self.queue.negatives()).logsumexp(dim=1)
            return (torch.logaddexp(positive, negative) - positive).mean()

    def loss(
        self, inputs: list[Tensor], data_samples: list | None = None, order: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One training step's loss; the keys then join the queue. In evaluation mode nothing moves.

        Args:
            inputs: two views (B, 3, H, W), normalised: queries and keys.
            data_samples: ignored.
            order: (world size * B,), the draw of the shuffle, the same on every process.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        of_queries, of_keys = self.views(inputs, 2)
        queries = self.embed(self.encoder, of_queries)
        if self.training:
            self.update_teachers()  # before the keys, as in the released code
        keys = self.keys(of_keys, order)
        loss = self.contrast(queries, keys)
        if self.training:
            self.queue.enqueue(keys)
        return dict(loss=loss)


@contextlib.contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm in training mode uses the batch and leaves its running statistics alone."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _rename_queue(module: MoCo, state_dict: dict, prefix: str, *_) -> None:
    """mmpretrain keeps queue and pointer in the model itself."""
    for name in ('queue', 'queue_ptr'):
        if prefix + name in state_dict:
            state_dict[f'{prefix}queue.{name}'] = state_dict.pop(prefix + name)
