"""Hybrid dilated convolution, HDC, and dense upsampling convolution, DUC (Wang et al., arXiv:1702.08502).

Stacked convolutions of one dilation sample a sparse grid of the input, however many there are (gridding); a
sawtooth of rates covers every pixel. DUC predicts the classes of all pixels below a position of the feature
map as channels, instead of interpolating scores.
"""

import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from mmseg.models.backbones import ResNet
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS


def _check_rates(rates: Sequence[int], kernel_size: int) -> None:
    if not rates or any(int(rate) != rate or rate < 1 for rate in rates):
        raise ValueError(f'dilation rates {list(rates)}: give whole numbers above 0, such as [1, 2, 5]')
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size={kernel_size} must be odd')


def dilation_coverage(rates: Sequence[int], kernel_size: int = 3) -> Fraction:
    """Fraction of the receptive field that a stack of dilated convolutions samples, along one axis.

    Args:
        rates: Dilation of each layer.
        kernel_size: K of all layers, odd.

    Returns:
        Number of input positions that reach an output, divided by the length of the receptive field, exactly;
        1 means no gridding.
    """
    _check_rates(rates, kernel_size)
    half = kernel_size // 2
    sampled = np.ones(1, bool)
    for rate in rates:
        wider = np.zeros(len(sampled) + 2 * half * rate, bool)
        for tap in range(kernel_size):
            wider[tap * rate : tap * rate + len(sampled)] |= sampled
        sampled = wider
    return Fraction(int(sampled.sum()), len(sampled))


def hdc_max_gap(rates: Sequence[int], kernel_size: int = 3) -> int:
    """The paper's M_2, the largest distance between two nonzero weights (section 3.2, equation 2).

    The paper requires M_2 <= K. That does not rule out common factors: [2, 2, 2] fulfils it and samples 7 of
    13 positions, so :func:`dilation_coverage` is the test to rely on.

    Args:
        rates: Dilations r_1 ... r_n of the layers.
        kernel_size: K of all layers, odd; M_2 does not depend on it.

    Returns:
        M_2, or r_1 of a single layer.
    """
    _check_rates(rates, kernel_size)
    gap = rates[-1]
    for rate in reversed(list(rates)[1:-1]):
        gap = max(gap - 2 * rate, 2 * rate - gap, rate)
    return int(gap)


@MODELS.register_module()
class HDCResNet(ResNet):
    """ResNet of stride 8 with a dilation of its own for each block of the last two stages (section 3.2).

    Images (B, 3, H, W) become the maps of the four stages, (B, C, H / 4, W / 4) and three of
    (B, C, H / 8, W / 8). State-dict keys are those of any ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stage3: Dilations of the blocks of stage 3, repeated if there are fewer than blocks; None for those of
            the released network: [2, 2, 5, 9], then [1, 2, 5, 9] repeated, and [1, 2, 5] at the end.
        stage4: Dilations of the blocks of stage 4, likewise.
        strides: Strides of the stages.
        **kwargs: Passed on to mmseg's ResNet.

    Raises:
        ValueError: A stage has fewer blocks than dilations, or ResNet's own dilations are given as well.
    """

    # mmseg's ResNet has a dilation for each stage, and multi_grid for the last one only

    def __init__(
        self,
        depth: int,
        stage3: Sequence[int] | None = None,
        stage4: Sequence[int] = (5, 9, 17),
        strides: Sequence[int] = (1, 2, 1, 1),
        **kwargs,
    ):
        unused = {'dilations': (1, 1, 1, 1), 'multi_grid': None, 'contract_dilation': False}
        settings = {name: tuple(value) if name == 'dilations' else value for name, value in kwargs.items()}
        refuse_unused('HDCResNet', settings, unused, 'stage3 and stage4 give each block its dilation')
        super().__init__(depth=depth, strides=strides, **kwargs)
        stage3 = _released_rates(len(self.layer3)) if stage3 is None else stage3
        self.rates: list[int] = []
        for name, rates in (('stage3', stage3), ('stage4', stage4)):
            stage = getattr(self, name.replace('stage', 'layer'))
            if len(rates) > len(stage):
                raise ValueError(
                    f'{name}={list(rates)} has more dilations than that stage of a ResNet-{depth} has '
                    'blocks: '
                    f'{len(stage)}'
                )
            for index, block in enumerate(stage):
                rate = rates[index % len(rates)]
                self._dilate(block, rate)
                self.rates.append(rate)
        coverage = dilation_coverage(self.rates)
        if coverage < 1:
            warnings.warn(
                f'dilations {self.rates} leave a grid: {coverage.numerator} of {coverage.denominator} '
                'positions '
                f'are sampled, the largest gap is M = {hdc_max_gap(self.rates)}; start with 1 and avoid a '
                'common '
                'factor, as in [1, 2, 5]',
                stacklevel=2,
            )

    def train(self, mode: bool = True) -> 'HDCResNet':
        """Set the training mode and return the module, which mmseg's method does not."""
        super().train(mode)
        return self

    @staticmethod
    def _dilate(block: nn.Module, rate: int) -> None:
        conv = block.conv2 if hasattr(block, 'conv3') else block.conv1
        conv.dilation = (rate, rate)
        conv.padding = (rate, rate)
        block.dilation = rate


def _released_rates(blocks: int) -> list[int]:
    """Dilations of the blocks of stage 3 in the released network."""
    if blocks <= 3:
        return [1, 2, 5][:blocks]
    middle = ([1, 2, 5, 9] * blocks)[1 : blocks - 3]
    return [2, *middle, 1, 2, 5]


@MODELS.register_module()
class DUCHead(BaseDecodeHead):
    """Dense upsampling convolution, which predicts the K classes of d x d pixels as d * d * K channels.

    Section 3.1 of the paper.

    Args:
        in_channels: Channels of the feature map.
        num_classes: K.
        factor: d, the stride of the feature map in the image (8 for a backbone like :class:`HDCResNet`).
        dilations: Rates of parallel 3 x 3 convolutions whose results are summed, as in the released network
            (ASPP); ``(1,)`` is the form in the paper.
        **kwargs: Passed on to mmseg's BaseDecodeHead. ``dropout_ratio``, 0 by default, is applied to the
            feature map.

    Raises:
        ValueError: A size is below 1, or a setting of mmseg's heads would have no effect, such as
            ``norm_cfg``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        factor: int = 8,
        dilations: Sequence[int] = (6, 12, 18, 24),
        **kwargs,
    ):
        if factor < 1:
            raise ValueError(f'factor={factor} of DUCHead must be the stride of the feature map, such as 8')
        _check_rates(dilations, 3)
        unused = {'conv_cfg': None, 'norm_cfg': None, 'act_cfg': {'type': 'ReLU'}, 'channels': num_classes}
        refuse_unused('DUCHead', kwargs, unused, 'it has neither hidden channels nor batch norms')
        settings = {
            'dropout_ratio': 0.0,
            'init_cfg': {'type': 'Normal', 'std': 0.01, 'layer': 'Conv2d'},
            **kwargs,
        }
        settings['channels'] = num_classes
        super().__init__(in_channels=in_channels, num_classes=num_classes, **settings)
        if not isinstance(self.in_channels, int):
            raise ValueError(
                f'in_channels={in_channels} of DUCHead: it reads a single feature map; choose it by '
                "in_index, or concatenate several by input_transform='resize_concat'"
            )
        self.conv_seg = None  # the convolutions below give scores already
        self.factor = factor
        self.convs = nn.ModuleList(
            nn.Conv2d(self.in_channels, factor * factor * self.out_channels, 3, padding=rate, dilation=rate)
            for rate in dilations
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps to scores (B, K, d * H, d * W).

        Channel c * d * d + i * d + j of a convolution is class c of pixel (i, j) below each position.
        """
        x = self._transform_inputs(inputs)
        if self.dropout is not None:
            x = self.dropout(x)
        out = self.convs[0](x)
        for conv in self.convs[1:]:
            out = out + conv(x)
        return F.pixel_shuffle(out, self.factor)
