"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381) with a dilated end."""

import re

from mmdet.models.backbones import MobileNetV2

from mmssl.registry import MODELS

NAMES = {0: 'expand_conv', 1: 'depthwise_conv', 2: 'linear_conv'}


@MODELS.register_module()
class DilatedMobileNetV2(MobileNetV2):
    """mmdet's MobileNetV2 at stride 16 throughout its end; the host's has no dilation.

    Layer 6 keeps the size of layer 5, and what follows its first block is dilated by 2, so that weights
    trained at stride 32 still fit. Images (B, 3, H, W) become a tuple of maps, (B, 96, H / 16, W / 16) and
    (B, 320, H / 16, W / 16) by default. Reads checkpoints in mmdet's names and in mmpretrain's and mmseg's,
    which number the convolutions of a block.

    Args:
        out_indices: outputs, counted from 0; 4 is layer 5, 6 is layer 7.
        others: of mmdet's MobileNetV2.
    """

    def __init__(self, out_indices=(4, 6), **kwargs):
        super().__init__(out_indices=out_indices, **kwargs)
        first = self.layer6[0].depthwise_conv.conv
        first.stride = (1, 1)
        for block in (*self.layer6[1:], *self.layer7):
            conv = block.depthwise_conv.conv
            conv.dilation, conv.padding = (2, 2), (2, 2)

    def train(self, mode: bool = True):
        """As the host's, which does not return the model."""
        super().train(mode)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        block = re.compile(rf'{re.escape(prefix)}(layer\d+\.\d+)\.conv\.(\d)\.')
        for name in list(state_dict):
            found = block.match(name)
            if found:
                # the first block has no expansion: its convolutions are counted from the depthwise one
                number = int(found[2]) + (found[1] == 'layer1.0')
                state_dict[f'{prefix}{found[1]}.{NAMES[number]}.{name[found.end() :]}'] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)
