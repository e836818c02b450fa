"""Small modules of the promptable segmenter, under the official names."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.linear import Linear


def redraw(module: nn.Module) -> None:
    """Draw the weights of all layers inside a module anew, each as its class does."""
    for child in module.modules():
        if child is not module and hasattr(child, 'reset_parameters'):
            child.reset_parameters()


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a map.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias, self.eps = (
            nn.Parameter(Tensor(num_channels)),
            nn.Parameter(Tensor(num_channels)),
            eps,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones and zeros."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def rows(self, x: Tensor) -> Tensor:
        """(..., C), channels last."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLPBlock(nn.Module):
    """Linear, activation, Linear.

    Args:
        embedding_dim, mlp_dim: widths.
        act: class of the activation.
    """

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU):
        super().__init__()
        self.lin1, self.lin2, self.act = Linear(embedding_dim, mlp_dim), Linear(mlp_dim, embedding_dim), act()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.lin2(self.act(self.lin1(x)))


class Neck(nn.Sequential):
    """The last part of an image encoder: 1 x 1 convolution, norm, 3 x 3 convolution, norm, without biases.

    Args:
        in_channels, out_channels: widths.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
