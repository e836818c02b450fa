"""Detection for mmdet: R-FCN, deformable backbones and deformable R-FCN."""

from mmssl import registry  # noqa: F401  first: it stands in for compiled operators of mmcv, which mmdet's models import
from mmssl.detection import annotations, deform, deform_roi, mobilenet, rfcn, rfcn_head

annotations.check_when_indexed()

__all__ = ['annotations', 'deform', 'deform_roi', 'mobilenet', 'rfcn', 'rfcn_head']
