""":class:`mmssl.promptable.resize.ResizeLongestSide` in the official module."""

from mmssl.promptable.resize import ResizeLongestSide

__all__ = ['ResizeLongestSide']
