"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381) with dilated last stages."""

import re

from mmdet.models.backbones import MobileNetV2

from mmssl.registry import MODELS

# convolutions of a block, numbered as in mmpretrain and mmseg
CONV_NAMES = ('expand_conv', 'depthwise_conv', 'linear_conv')


@MODELS.register_module()
class DilatedMobileNetV2(MobileNetV2):
    """MobileNetV2 of mmdet whose last two layers stay at stride 16.

    Layer 6 keeps the resolution of layer 5, and everything after its first block is dilated by 2, so that
    weights trained at stride 32 still fit. Images (B, 3, H, W) become a tuple of maps, by default
    (B, 96, H / 16, W / 16) and (B, 320, H / 16, W / 16). Checkpoints load with the parameter names of mmdet
    as well as with those of mmpretrain and mmseg, which number the convolutions of a block.

    Args:
        out_indices: Indices of the output layers, from 0; 4 is layer 5, 6 is layer 7.
        **kwargs: Passed on to mmdet's MobileNetV2.
    """

    def __init__(self, out_indices=(4, 6), **kwargs):
        super().__init__(out_indices=out_indices, **kwargs)
        self.layer6[0].depthwise_conv.conv.stride = (1, 1)
        for block in (*self.layer6[1:], *self.layer7):
            conv = block.depthwise_conv.conv
            conv.dilation = (2, 2)
            conv.padding = (2, 2)

    def train(self, mode: bool = True):
        """Set the training mode and return the module, which mmdet's method does not."""
        super().train(mode)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        numbered = re.compile(rf'{re.escape(prefix)}(layer\d+\.\d+)\.conv\.(\d)\.')
        for key in list(state_dict):
            match = numbered.match(key)
            if match:
                block, index = match[1], int(match[2])
                if block == 'layer1.0':  # without expansion: the depthwise convolution is number 0
                    index += 1
                state_dict[f'{prefix}{block}.{CONV_NAMES[index]}.{key[match.end() :]}'] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
