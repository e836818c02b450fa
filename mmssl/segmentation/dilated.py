"""Hybrid dilated convolution and dense upsampling convolution, HDC and DUC (Wang et al., WACV 2018, arXiv:1702.08502).

Dilated layers of one rate see a grid of the input, and more of them see no more of it. Rates that go up like
a saw see everything. Instead of enlarging scores afterwards, DUC predicts the classes of all pixels under a
position as channels.
"""

import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from mmseg.models.backbones import ResNet
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.registry import MODELS


def _check_rates(rates: Sequence[int], kernel_size: int) -> None:
    if not rates or any(int(rate) != rate or rate < 1 for rate in rates):
        raise ValueError(f'dilation rates {list(rates)}: give whole numbers above 0, such as [1, 2, 5]')
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size={kernel_size} must be odd')


def dilation_coverage(rates: Sequence[int], kernel_size: int = 3) -> Fraction:
    """Which share of its receptive field a stack of dilated layers sees, along one axis.

    Args:
        rates: dilations, one a layer.
        kernel_size: K of every layer, odd.

    Returns:
        positions that reach the output over positions between the outermost two, exactly; 1 means no
        gridding.
    """
    _check_rates(rates, kernel_size)
    half = kernel_size // 2
    seen = np.ones(1, bool)
    for rate in rates:
        wider = np.zeros(len(seen) + 2 * half * rate, bool)
        for tap in range(kernel_size):
            wider[tap * rate : tap * rate + len(seen)] |= seen
        seen = wider
    return Fraction(int(seen.sum()), len(seen))


def hdc_max_gap(rates: Sequence[int], kernel_size: int = 3) -> int:
    """The paper's M_2, the largest distance between two weights that are not zero (section 3.2, equation 2); it asks for M_2 <= K.

    The rule does not see common factors: [2, 2, 2] passes and sees 7 of 13 positions.
        :func:`dilation_coverage` decides.

    Args:
        rates: dilations r_1 ... r_n, one a layer.
        kernel_size: K of every layer; does not enter M_2.

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
    """ResNet with a dilation for every block of its last two stages, stride 8 (section 3.2).

    mmseg's ResNet knows one dilation a stage, and ``multi_grid`` for the last one alone. State-dict keys are
    those of any ResNet. (B, 3, H, W) goes to the maps of the four stages, (B, C, H / 4, W / 4) and three of
    (B, C, H / 8, W / 8).

    Args:
        depth: 18, 34, 50, 101 or 152.
        stage3, stage4: dilations of the blocks, repeated to their number where fewer are given; by default
            those of the released network, [2, 2, 5, 9], then [1, 2, 5, 9] in turn, ending in [1, 2, 5]; and
            [5, 9, 17].
        strides: of the stages.
        others: of mmseg's ResNet.

    Raises:
        ValueError: more dilations than blocks.
    """

    def __init__(
        self,
        depth: int,
        stage3: Sequence[int] | None = None,
        stage4: Sequence[int] = (5, 9, 17),
        strides: Sequence[int] = (1, 2, 1, 1),
        **kwargs,
    ):
        super().__init__(depth=depth, strides=strides, **kwargs)
        blocks = self.stage_blocks[2]
        if stage3 is None:
            stage3 = (
                [2, *([1, 2, 5, 9] * blocks)[1 : blocks - 3], 1, 2, 5] if blocks > 3 else [1, 2, 5][:blocks]
            )
        self.rates: list[int] = []
        for number, rates in ((3, stage3), (4, stage4)):
            stage = getattr(self, f'layer{number}')
            if len(rates) > len(stage):
                raise ValueError(
                    f'stage{number}={list(rates)} has more dilations than that stage of a ResNet-{depth} has blocks: '
                    f'{len(stage)}'
                )
            for index, block in enumerate(stage):
                rate = rates[index % len(rates)]
                self._dilate(block, rate)
                self.rates.append(rate)
        coverage, gap = dilation_coverage(self.rates), hdc_max_gap(self.rates)
        if coverage < 1:
            warnings.warn(
                f'dilations {self.rates} leave a grid: {coverage.numerator} of {coverage.denominator} positions are seen, the '
                f'largest gap is M = {gap}; begin with 1 and avoid a common factor, as [1, 2, 5]',
                stacklevel=2,
            )

    def train(self, mode: bool = True) -> 'HDCResNet':
        """As the host's, which forgets to return the module."""
        super().train(mode)
        return self

    @staticmethod
    def _dilate(block: nn.Module, rate: int) -> None:
        convolutions = [block.conv2] if hasattr(block, 'conv3') else [block.conv1]
        for conv in convolutions:
            conv.dilation, conv.padding = (rate, rate), (rate, rate)
            block.dilation = rate


@MODELS.register_module()
class DUCHead(BaseDecodeHead):
    """Dense upsampling convolution: the classes of d x d pixels as d * d * K channels of one position (section 3.1).

    Args:
        in_channels: width of the map.
        num_classes: K.
        factor: d, the stride of the map in the image (8 for a backbone like :class:`HDCResNet`).
        dilations: one 3 x 3 convolution a rate, summed, as the released network has it (ASPP); ``(1,)`` is
            the plain form.
        others: of mmseg's BaseDecodeHead.
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
            raise ValueError(f'factor={factor} of DUCHead must be the stride of the map, such as 8')
        _check_rates(dilations, 3)
        settings = {
            'dropout_ratio': 0.0,
            'init_cfg': {'type': 'Normal', 'std': 0.01, 'layer': 'Conv2d'},
            **kwargs,
        }
        settings.pop('channels', None)
        super().__init__(in_channels=in_channels, channels=num_classes, num_classes=num_classes, **settings)
        self.conv_seg = None
        self.factor = factor
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, factor * factor * self.out_channels, 3, padding=rate, dilation=rate)
            for rate in dilations
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone to scores (B, K, d * H, d * W); channel c * d * d + i * d + j is class c of pixel (i, j)."""
        x = self._transform_inputs(inputs)
        out = self.convs[0](x)
        for conv in self.convs[1:]:
            out = out + conv(x)
        return F.pixel_shuffle(out, self.factor)
