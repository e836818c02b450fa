"""Semantic segmentation for mmseg: GCN, hybrid and densely connected dilations, dense upsampling."""

from mmssl.segmentation import loss_patches, preprocessing
from mmssl.segmentation.dense_aspp import DenseASPPHead
from mmssl.segmentation.dilated import DUCHead, HDCResNet, dilation_coverage, hdc_max_gap
from mmssl.segmentation.global_conv import BoundaryRefine, GCNResNet, GlobalConvBlock, GlobalConvHead
from mmssl.segmentation.segmentor import EncoderDecoder

loss_patches.apply()

__all__ = [
    'BoundaryRefine',
    'DUCHead',
    'DenseASPPHead',
    'EncoderDecoder',
    'GCNResNet',
    'GlobalConvBlock',
    'GlobalConvHead',
    'HDCResNet',
    'dilation_coverage',
    'hdc_max_gap',
    'preprocessing',
]
