"""Networks of Deep InfoMax (Hjelm et al., ICLR 2019, arXiv:1808.06670, appendix A.1)."""

import itertools

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.registry import MODELS
from mmssl.selfsup.small import Small, forward


class ResettableModule(BaseModule):
    """Module whose ``init_weights`` calls ``reset_parameters`` on every submodule."""

    def init_weights(self) -> None:
        """Draw the initial weights."""
        for module in self.modules():
            if module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        super().init_weights()


@MODELS.register_module()
class InfoMaxEncoder(ResettableModule):
    """Convolutional encoder for images of CIFAR's size: DCGAN's discriminator with batch norm and ReLU.

    4x4 convolutions of stride 2, then a dense layer. The output layer of the encoder is the neck of
    :class:`~mmssl.selfsup.infomax.DeepInfoMax`.

    Args:
        img_size: Side of the images in pixels, a multiple of 2 ** len(channels).
        channels: Channels of the convolutions.
        hidden: Units of the dense layer.
        in_channels: Channels of the images.
        out_indices: Outputs of ``forward`` in this order: 0, 1, ... for the maps of the convolutions,
            ``len(channels)`` for the dense layer; all of them when None.
        frozen_stages: Number of these stages that are not trained and stay in evaluation mode; -1 freezes
            none.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(
        self,
        img_size: int = 32,
        channels: tuple[int, ...] = (64, 128, 256),
        hidden: int = 1024,
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        frozen_stages: int = -1,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        stride = 2 ** len(channels)
        if img_size < stride or img_size % stride:
            raise ValueError(
                f'img_size={img_size} does not halve {len(channels)} times; give a multiple of {stride}'
            )
        self.out_indices = tuple(range(len(channels) + 1)) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= index <= len(channels) for index in self.out_indices):
            raise ValueError(f'out_indices={out_indices!r}: give some of 0 to {len(channels)}')
        self.img_size = img_size
        self.frozen_stages = frozen_stages
        self.stages = nn.ModuleList()
        width = in_channels
        for out_channels in channels:
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(width, out_channels, 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                )
            )
            width = out_channels
        self.stages.append(
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(width * (img_size // stride) ** 2, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            )
        )
        self._freeze()

    def _freeze(self) -> None:
        for stage in self.stages[: max(self.frozen_stages, 0)]:
            stage.eval().requires_grad_(False)

    def train(self, mode: bool = True):
        """As ``Module.train``; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) to maps (B, C, h, w) and the vector (B, hidden), those of ``out_indices``."""
        if x.shape[-2:] != (self.img_size, self.img_size):
            raise ValueError(
                f'images are {x.shape[-2]}x{x.shape[-1]} and the dense layer of the encoder was built for '
                f'{self.img_size}x{self.img_size}; set img_size, or resize them'
            )
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs[index] for index in self.out_indices)


@MODELS.register_module()
class InfoMaxNet(ResettableModule):
    """Embedding in which the dot product is the score: the encode-and-dot-product architecture.

    Two dense layers with batch norm and ReLU between them, and a linear shortcut past both that starts as a
    noisy copy of the input; on a map these are 1x1 convolutions.

    Args:
        in_channels: Channels of the features.
        units: Channels of the embedding.
        layer_norm: Normalise the embedding, as the local objective does.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(
        self,
        in_channels: int,
        units: int = 2048,
        layer_norm: bool = True,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.hidden = nn.Linear(in_channels, units, bias=False)
        self.norm = nn.BatchNorm1d(units)
        self.out = nn.Linear(units, units)
        self.shortcut = nn.Linear(in_channels, units, bias=False)
        self.layer_norm = nn.LayerNorm(units) if layer_norm else nn.Identity()
        self._copy_input()

    @torch.no_grad()
    def _copy_input(self) -> None:
        units, in_channels = self.shortcut.weight.shape
        if units >= in_channels:
            self.shortcut.weight.uniform_(-0.01, 0.01).fill_diagonal_(1)

    def init_weights(self) -> None:
        """Draw the initial weights."""
        super().init_weights()
        self._copy_input()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, units, h * w), or (B, C) to (B, units, 1)."""
        rows = x.flatten(2).transpose(1, 2) if x.ndim > 2 else x[:, None]
        flat = rows.reshape(-1, rows.shape[-1])
        out = self.out(F.relu(self.norm(self.hidden(flat)), inplace=True)) + self.shortcut(flat)
        return self.layer_norm(out).view(*rows.shape[:2], -1).transpose(1, 2)


@MODELS.register_module()
class PriorDiscriminator(ResettableModule):
    """Discriminator of image vectors and samples of the prior (section 3.3).

    Args:
        in_channels: Channels of the vectors.
        hidden: Units of the hidden layers.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(
        self,
        in_channels: int = 64,
        hidden: tuple[int, ...] = (1000, 200),
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        widths = (in_channels, *hidden, 1)
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Score (B, C) vectors, (B, 1), high for the prior; if ``frozen``, only the input gets a gradient."""
        for index, layer in enumerate(self.layers):
            weight = layer.weight.detach() if frozen else layer.weight
            bias = layer.bias.detach() if frozen else layer.bias
            x = F.linear(F.relu(x) if index else x, weight, bias)
        return x


SMALL = {
    'InfoMaxEncoder': Small(dict(img_size=32, channels=(4, 6, 8), hidden=12), forward, (2, 12)),
    'InfoMaxNet': Small(dict(in_channels=3, units=16), forward, (2, 16, 1024)),
    'PriorDiscriminator': Small(
        dict(in_channels=3, hidden=(8, 4)), lambda model, images: model(images.mean((2, 3))), (2, 1)
    ),
}
