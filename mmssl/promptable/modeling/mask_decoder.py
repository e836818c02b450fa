""":class:`mmssl.SAMMaskDecoder` and its MLP in the official module."""

from mmssl.promptable.common import MLP
from mmssl.promptable.mask_decoder import SAMMaskDecoder as MaskDecoder

__all__ = ['MLP', 'MaskDecoder']
