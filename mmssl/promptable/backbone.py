"""Any backbone as the image encoder of a promptable segmenter."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.promptable.common import Neck, reset_weights
from mmssl.registry import MODELS, build


@MODELS.register_module()
class SAMBackbone(BaseModule):
    """A backbone and a neck that sums its projected feature maps.

    The maps are projected to one width, resized to one size and summed; a norm, a 3 x 3 convolution and
    another norm follow. With a single map of the right size this is the official neck.

    Args:
        backbone: Module or its config; returns a map or a tuple of maps (B, C, H, W).
        in_channels: Channels of its maps, in their order.
        img_size: Side of the padded images in pixels.
        out_chans: Channels of the result.
        stride: Pixels of the image for each pixel of the result, along each axis.
        frozen: Freeze the backbone, its norms included.
        init_cfg: Passed on to mmengine's BaseModule.

    Raises:
        ValueError: An image size that is not divisible by the stride.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        in_channels: int | Sequence[int],
        img_size: int = 1024,
        out_chans: int = 256,
        stride: int = 16,
        frozen: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if img_size % stride:
            raise ValueError(
                f'img_size {img_size} does not divide by the stride {stride}; take '
                f'{-(-img_size // stride) * stride}'
            )
        self.img_size = img_size
        self.out_chans = out_chans
        self.stride = stride
        self.frozen = frozen
        self.grid = (img_size // stride, img_size // stride)
        self.in_channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        self.backbone = build(backbone, MODELS)
        self.neck = Neck(self.in_channels[-1], out_chans)
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, out_chans, 1, bias=False) for channels in self.in_channels[:-1]
        )
        self.train(self.training)

    def init_weights(self) -> None:
        """Reset the neck; the backbone initialises itself."""
        reset_weights(self.neck)
        reset_weights(self.laterals)
        super().init_weights()

    def train(self, mode: bool = True):
        """As ``nn.Module.train``; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval().requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised and padded, to (B, out_chans, H / stride, W / stride)."""
        maps = self.backbone(x)
        maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
        channels = [feature_map.shape[1] for feature_map in maps]
        if channels != list(self.in_channels):
            raise ValueError(
                f'the backbone gives maps of {channels} channels; set in_channels to that, '
                f'not {list(self.in_channels)}'
            )
        size = (x.shape[-2] // self.stride, x.shape[-1] // self.stride)
        project, norm, convolve, last_norm = self.neck
        total = 0
        for feature_map, lateral in zip(maps, [*self.laterals, project], strict=True):
            projected = lateral(feature_map)
            if projected.shape[-2:] != size:
                projected = F.interpolate(projected, size, mode='bilinear', align_corners=False)
            total = total + projected
        return last_norm(convolve(norm(total)))
