"""1x1 convolutions for prediction on the CPU."""

import torch
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that asks oneDNN for what torch gives to a general matrix product.

    With one thread and fewer than 16 images torch passes oneDNN over for 1x1 kernels, which takes up to twice
    as long on channels-last maps (tools/benchmarks/rfcn.py). The result is the same to rounding; with
    gradients it is ``nn.Conv2d``.

    Args:
        in_channels, out_channels: as of ``nn.Conv2d``.
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _onednn_takes(x, self.weight):
            return super().forward(x)
        return torch.mkldnn_convolution(x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)

    @staticmethod
    def of(module: nn.Module) -> None:
        """Make the plain 1x1 convolutions of stride 1 below ``module`` ones of this class, with the weights they have."""
        for conv in module.modules():
            if type(conv) is nn.Conv2d and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == (
                (1, 1),
                (1, 1),
                (0, 0),
                1,
            ):
                conv.__class__ = PointwiseConv2d


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    plain = all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == 'cpu'
        and tensor.dtype == torch.float32
        for tensor in (x, weight)
    )
    return (
        plain
        and x.dim() == 4
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled('cpu')
    )
