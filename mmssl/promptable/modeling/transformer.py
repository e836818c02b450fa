"""The two-way transformer and its parts in the official module."""

from mmssl.promptable.attention import Attention
from mmssl.promptable.two_way import TwoWayAttentionBlock, TwoWayTransformer

__all__ = ['Attention', 'TwoWayAttentionBlock', 'TwoWayTransformer']
