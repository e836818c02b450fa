"""Small modules of the promptable segmenter, under the official names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reset_weights(module: nn.Module) -> None:
    """Reset the weights of all layers inside a module, each as its class does."""
    for child in module.modules():
        if child is not module and hasattr(child, 'reset_parameters'):
            child.reset_parameters()


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Tensor (N,) of a few numbers with the data type and device of ``like``.

    It is filled on the device: a copy of a list from the CPU would wait for the device.
    """
    return torch.stack([like.new_full((), value) for value in values])


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a feature map.

    Args:
        num_channels: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.eps = eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one and the bias to zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def channels_last(self, x: Tensor) -> Tensor:
        """Normalise (..., C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.channels_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLPBlock(nn.Module):
    """Linear layer, activation, linear layer.

    Args:
        embedding_dim: Number of input and output channels C.
        mlp_dim: Number of hidden channels.
        act: Class of the activation.
    """

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU):
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.lin2(self.act(self.lin1(x)))


class MLP(nn.Module):
    """Linear layers with ReLU in between.

    Args:
        input_dim, hidden_dim, output_dim: Numbers of channels.
        num_layers: Number of linear layers.
        sigmoid_output: Apply a sigmoid to the result.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        sigmoid_output: bool = False,
    ):
        super().__init__()
        self.num_layers = num_layers
        self.sigmoid_output = sigmoid_output
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(dims[i], dims[i + 1]) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid_output else x


class Neck(nn.Sequential):
    """Last part of an image encoder: 1 x 1 convolution, norm, 3 x 3 convolution, norm, without biases.

    Args:
        in_channels, out_channels: Numbers of channels.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
