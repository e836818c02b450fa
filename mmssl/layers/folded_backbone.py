"""A backbone for prediction, with its batch norms inside its convolutions."""

import copy

import torch
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm



class FoldedBackbone:
    """Calls a backbone; without gradients, and with all batch norms in evaluation mode, a copy of it that has them folded.

    The copy is made anew when a weight or statistic has changed, and is not part of any state dict. Scales
    and shifts that a pass over the map would apply cost nothing inside the weights.

    Args:
        backbone: whose children stand in the order in which they are called, as in the ResNets of OpenMMLab.
    """

    def __init__(self, backbone: nn.Module):
        self.backbone = backbone
        self.copy: nn.Module | None = None
        self.made_of: tuple = ()

    def _state(self) -> tuple:
        tensors = (*self.backbone.parameters(), *self.backbone.buffers())
        return tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The backbone's output for (B, C, H, W) images."""
        norms = [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        if (
            not norms
            or torch.is_grad_enabled()
            or self.backbone.training
            or any(norm.training for norm in norms)
        ):
            self.copy = None
            return self.backbone(images)
        state = self._state()
        if self.copy is None or state != self.made_of:
            with torch.inference_mode(False):
                self.copy, self.made_of = fuse_conv_bn(copy.deepcopy(self.backbone)), state
        return self.copy(images)

    def __deepcopy__(self, memo: dict) -> 'FoldedBackbone':
        return FoldedBackbone(copy.deepcopy(self.backbone, memo))

    def __getstate__(self) -> dict:
        return {'backbone': self.backbone, 'copy': None, 'made_of': ()}
