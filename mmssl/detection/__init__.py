"""Detection for mmdet: R-FCN, deformable backbones and deformable R-FCN."""

from mmssl.detection import mobilenet, rfcn, rfcn_head

__all__ = ['mobilenet', 'rfcn', 'rfcn_head']
