""":class:`mmssl.SAM` in the official module."""

from mmssl.promptable.sam import SAM

__all__ = ['Sam']

Sam = SAM
