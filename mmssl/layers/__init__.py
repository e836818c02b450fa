"""Modules that two or more systems use."""

from mmssl.layers.vit import ViT

__all__ = ['ViT']
