"""Pictures."""

from mmssl.visualization.reconstruction import picture, reconstruction_rows

__all__ = ['picture', 'reconstruction_rows']
