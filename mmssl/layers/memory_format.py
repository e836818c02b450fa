"""The memory format that a network runs fastest in, where torch computes it rightly."""

import torch
from torch import nn


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """Channels last for a convolutional network with batch norm, contiguous for any other.

    torch 2.11 gives garbage for the weights' gradient of a grouped convolution with a dilation, in bfloat16,
    channels last, on the CPU (memory is read that was never written; ``tests/layers/test_memory_format.py``).
    A network that holds one stays contiguous.

    Args:
        network: a backbone.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    garbled = any(conv.groups > 1 and max(conv.dilation) > 1 for conv in convolutions)
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return torch.channels_last if normalised and not garbled else torch.contiguous_format
