"""Momentum contrast, v1 (He et al., CVPR 2020, arXiv:1911.05722) and v2 (Chen et al., arXiv:2003.04297).

Two views of an image are a query and its key; the keys of earlier batches, in a queue, are the negatives.
Keys come from a slowly moving copy of the encoder. v1 has a linear head and temperature 0.07; v2 a head of
two layers, temperature 0.2, more augmentation and a cosine schedule.
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
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.losses import info_nce
from mmssl.registry import MODELS
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import RESNET, Small
from mmssl.selfsup.views import image_features


@MODELS.register_module()
class MoCoV1Neck(BaseModule):
    """Head of MoCo v1 (section 3.3): average pooling and one linear layer.

    Args:
        in_channels: Channels of the backbone's output.
        out_channels: Channels of an embedding.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(self, in_channels: int, out_channels: int = 128, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.fc = nn.Linear(in_channels, out_channels)

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.fc.reset_parameters()
        super().init_weights()

    def forward(self, features: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Map (B, C, h, w), or the last of a tuple, to (B, out_channels)."""
        return self.fc(image_features(features))


@MODELS.register_module()
class MoCoV2Neck(BaseModule):
    """Head of MoCo v2 (section 3): average pooling, linear, ReLU, linear.

    Args:
        in_channels: Channels of the backbone's output.
        hid_channels: Channels of the hidden layer; ``in_channels`` when None, as in the released code.
        out_channels: Channels of an embedding.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int | None = None,
        out_channels: int = 128,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        hid_channels = hid_channels or in_channels
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hid_channels), nn.ReLU(inplace=True), nn.Linear(hid_channels, out_channels)
        )

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.mlp[0].reset_parameters()
        self.mlp[2].reset_parameters()
        super().init_weights()

    def forward(self, features: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Map (B, C, h, w), or the last of a tuple, to (B, out_channels)."""
        return self.mlp(image_features(features))


@MODELS.register_module()
class MoCo(ScheduledSupervisor):
    """MoCo: ``MoCo(backbone=mmpretrain.ResNet, neck=mmssl.MoCoV1Neck or mmssl.MoCoV2Neck)``.

    Batch norm over the batch of one device gives away which key belongs to a query: their statistics come
    from the same images. Keys are therefore shuffled among the devices before they are encoded (v1, section
    3.3). On one device ``bn_groups`` does the same: n devices with batches of B equal one device with a batch
    of n * B and ``bn_groups=n`` in loss, gradients and queue, and the running statistics are those of the
    first group, as they are the first device's.

    Args:
        backbone: Config, or built.
        neck: Config, or built.
        queue_len: Negatives in the queue.
        momentum: m of the key encoder, key = m * key + (1 - m) * query. (mmpretrain's is 1 - m.)
        temperature: Temperature of the logits, 0.07 in v1 and 0.2 in v2.
        bn_groups: Groups of a device's batch with batch norms of their own.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.

    Attributes:
        encoder_k: The key encoder, :class:`~mmssl.layers.momentum.MomentumEncoder` of
            ``nn.Sequential(backbone, neck)``.
        queue: Keys of earlier batches, :class:`~mmssl.layers.queue.FeatureQueue`.
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
        refuse_unused('MoCo', kwargs, {'head': None}, 'its loss is built in, with temperature=...')
        super().__init__(backbone=backbone, neck=neck, **kwargs)
        _check_settings(temperature, bn_groups, momentum)
        width = getattr(self.backbone, 'feat_dim', self.neck.in_channels)
        if width != self.neck.in_channels:
            raise ValueError(
                f'neck has in_channels={self.neck.in_channels}, but the backbone has {width} channels; '
                f'set in_channels={width}'
            )
        self.temperature = temperature
        self.bn_groups = bn_groups
        self.encoder_k = MomentumEncoder(self.encoder_q, momentum)
        self.queue = FeatureQueue(self.neck.out_channels, queue_len)
        self.register_load_state_dict_pre_hook(_rename_queue)

    @property
    def encoder_q(self) -> nn.Sequential:
        """Query encoder: backbone and neck."""
        return nn.Sequential(self.backbone, self.neck)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the key encoder and the query encoder."""
        return [(self.encoder_k, self.encoder_q)]

    def loss(
        self, inputs: list[Tensor], data_samples: list | None = None, order: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch (v1, algorithm 1); in evaluation mode nothing is updated.

        Args:
            inputs: Two views (B, 3, H, W), normalised, of queries and of keys.
            data_samples: Ignored.
            order: (world size * B,), the draw of the shuffle, the same on every process.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        im_q, im_k = self.views(inputs, 2)
        q = self.embed(self.encoder_q, im_q)
        self._momentum_update_key_encoder()
        k = self.keys(im_k, order)
        loss = info_nce(q, k, self.queue.negatives(), self.temperature)
        self._dequeue_and_enqueue(k)
        return dict(loss=loss)

    def _momentum_update_key_encoder(self) -> None:
        self.update_teachers()

    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        if self.training:
            self.queue.enqueue(keys)

    def embed(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Encode images to unit vectors; each group of the batch has a batch norm of its own.

        Args:
            encoder: Query or key encoder.
            images: (B, 3, H, W), in training B a multiple of ``bn_groups``.

        Returns:
            (B, D), in the precision of the queue.
        """
        groups = self.bn_groups if self.training else 1
        if len(images) % groups:
            raise ValueError(
                f'a batch of {len(images)} does not divide into bn_groups={groups}; change one of them'
            )
        first, *rest = images.chunk(groups)
        vectors = encoder(first)
        if rest:
            with running_statistics_fixed(encoder):
                vectors = torch.cat([vectors, *map(encoder, rest)])
        return F.normalize(vectors.to(self.queue.queue.dtype), dim=1)

    @torch.no_grad()
    def keys(self, images: Tensor, order: Tensor | None = None) -> Tensor:
        """Encode images to keys, shuffled meanwhile.

        Args:
            images: (B, 3, H, W) of this process.
            order: (world size * B,), the draw of the shuffle, the same on every process.

        Returns:
            (B, D) unit vectors in the order of ``images``.
        """
        if not self.training or world()[1] * self.bn_groups == 1:
            return self.embed(self.encoder_k, images)
        shuffled, order = shuffle(images, order)
        keys = self.embed(self.encoder_k, shuffled.contiguous(memory_format=self.memory_format))
        return unshuffle(keys, order)


def _check_settings(temperature: float, bn_groups: int, momentum: float) -> None:
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} of MoCo must be above 0; v1 has 0.07, v2 0.2')
    if bn_groups < 1:
        raise ValueError(
            f'bn_groups={bn_groups} of MoCo must be at least 1, which is one batch norm over the whole batch'
        )
    if momentum < 0.5 and not 0 < momentum <= 0.1:  # which MomentumEncoder refuses
        warnings.warn(
            f'momentum={momentum}: the key encoder takes {1 - momentum:.1%} of the query encoder in every '
            'step; the paper keeps 0.999 of the key encoder',
            stacklevel=3,
        )


@contextlib.contextmanager
def running_statistics_fixed(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode normalise by the batch without updating their running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False  # as documented for the constructor: statistics of the batch
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


SMALL = {
    'MoCoV1Neck': Small(dict(in_channels=3, out_channels=8), lambda neck, images: neck((images,)), (2, 8)),
    'MoCoV2Neck': Small(
        dict(in_channels=3, hid_channels=16, out_channels=8), lambda neck, images: neck((images,)), (2, 8)
    ),
    'MoCo': Small(
        dict(
            backbone=RESNET,
            neck=dict(type='mmssl.MoCoV2Neck', in_channels=64, out_channels=8),
            queue_len=16,
            temperature=0.2,
        )
    ),
}
