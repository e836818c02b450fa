""":class:`mmssl.promptable.SamAutomaticMaskGenerator` in the official module."""

from mmssl.promptable.automatic import SamAutomaticMaskGenerator

__all__ = ['SamAutomaticMaskGenerator']
