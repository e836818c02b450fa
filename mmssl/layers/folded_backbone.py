"""A backbone whose batch norms are folded into its convolutions for prediction."""

import copy

import torch
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.layers.module_state import ModuleState, has_hooks
from mmssl.ops.switch import inference


class FoldedBackbone:
    """Callable that runs a copy of a backbone with folded batch norms where the result is the same.

    The copy serves calls without gradients while all batch norms are in evaluation mode and no module has
    hooks; other calls run the backbone itself. It is made again after a weight, a statistic or a setting has
    changed, however it was written, and is not part of any state dict.

    Args:
        backbone: Backbone whose children are registered in the order in which they are called, as in
            OpenMMLab's ResNets.

    Attributes:
        copy: The folded copy, or None.
    """

    def __init__(self, backbone: nn.Module):
        self.backbone = backbone
        self.copy: nn.Module | None = None
        self._state: ModuleState | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the backbone's output for images (B, C, H, W)."""
        norms = [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        training = self.backbone.training or any(norm.training for norm in norms)
        if not norms or training or not inference([images]) or has_hooks(self.backbone):
            self.copy = None
            return self.backbone(images)
        folded, state = self.copy, self._state
        if folded is None or state is None or not state.matches(self.backbone):
            with torch.inference_mode(False):
                state = ModuleState(self.backbone)
                folded = fuse_conv_bn(copy.deepcopy(self.backbone))
            self.copy, self._state = folded, state
        return folded(images)

    def __deepcopy__(self, memo: dict) -> 'FoldedBackbone':
        return FoldedBackbone(copy.deepcopy(self.backbone, memo))

    def __getstate__(self) -> dict:
        return {'backbone': self.backbone, 'copy': None, '_state': None}
