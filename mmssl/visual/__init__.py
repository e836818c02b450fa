"""Pictures."""

from mmssl.visual.reconstruction import picture, reconstruction_rows

__all__ = ['picture', 'reconstruction_rows']
