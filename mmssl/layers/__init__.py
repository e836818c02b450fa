"""Modules that two or more systems use."""

from mmssl.layers.beit_vit import BEiTViT
from mmssl.layers.preprocessing import ImgDataPreprocessor, SelfSupDataPreprocessor
from mmssl.layers.vit import ViT

__all__ = ['BEiTViT', 'ImgDataPreprocessor', 'SelfSupDataPreprocessor', 'ViT']
