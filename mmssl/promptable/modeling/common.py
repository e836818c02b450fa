"""Layers that several parts use, in the official module."""

from mmssl.promptable.common import LayerNorm2d, MLPBlock

__all__ = ['LayerNorm2d', 'MLPBlock']
