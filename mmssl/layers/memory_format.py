"""The memory format in which a network runs fastest and torch computes it correctly."""

import torch
from torch import nn


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """Choose channels-last for convolutional networks with batch norm, and contiguous for all others.

    Networks with a grouped and dilated convolution stay contiguous: torch 2.11 computes the gradient of its
    weights in bfloat16, channels-last, on the CPU from uninitialised memory
    (``tests/layers/test_memory_format.py``).

    Args:
        network: A backbone.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    affected = any(conv.groups > 1 and max(conv.dilation) > 1 for conv in convolutions)
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return torch.channels_last if normalised and not affected else torch.contiguous_format
