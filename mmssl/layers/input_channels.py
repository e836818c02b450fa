"""Number of channels that a backbone reads."""

from torch import nn


def input_channels(backbone: nn.Module) -> int:
    """Return the input channels of the first convolution; 3 for a module without one."""
    convolution = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels
