"""What GCN's global convolution is compared with (Peng et al., CVPR 2017, arXiv:1703.02719, section 4.1).

Both cover k x k pixels as the global convolution does, without a nonlinearity.
"""

from itertools import pairwise

from torch import Tensor, nn


class TrivialConvBlock(nn.Module):
    """A dense k x k convolution from features to scores (table 2).

    Args:
        in_channels: Input channels C.
        out_channels: Output channels K, the number of classes.
        kernel_size: k, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 15):
        super().__init__()
        check_odd(kernel_size)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, K, H, W)."""
        return self.conv(x)


class StackedConvBlock(nn.Module):
    """A stack of (k - 1) / 2 convolutions of 3 x 3 that see k x k pixels together (tables 3 and 4).

    Args:
        in_channels: Input channels C.
        out_channels: Output channels K, the number of classes.
        kernel_size: k, odd and at least 3.
        hidden_channels: Channels between the convolutions, m in table 4; C if None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 15, hidden_channels: int | None = None
    ):
        super().__init__()
        check_odd(kernel_size, 3)
        hidden = hidden_channels or in_channels
        widths = [in_channels, *[hidden] * ((kernel_size - 1) // 2 - 1), out_channels]
        self.convs = nn.Sequential(
            *(
                nn.Conv2d(width, next_width, 3, padding=1, bias=False)
                for width, next_width in pairwise(widths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, K, H, W)."""
        return self.convs(x)


def check_odd(kernel_size: int, lowest: int = 1) -> None:
    """Raise ValueError unless a kernel is odd, so that the map keeps its size, and not below ``lowest``."""
    if kernel_size < lowest or kernel_size % 2 == 0:
        raise ValueError(
            f'kernel_size={kernel_size} of a large kernel must be odd, so that the map keeps its size, and '
            f'at least {lowest}; use {max(lowest, kernel_size + 1)}'
        )
