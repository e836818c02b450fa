"""Object detection for mmdet: R-FCN, deformable convolutions and deformable R-FCN."""

from mmssl import registry  # noqa: F401  first: stands in for the compiled operators that mmdet imports from mmcv
from mmssl.detection import (
    annotation_patches,
    annotations,
    deform,
    deform_roi,
    mobilenet,
    preprocessing,
    rfcn,
    rfcn_head,
)

annotation_patches.apply()

__all__ = [
    'annotation_patches',
    'annotations',
    'deform',
    'deform_roi',
    'mobilenet',
    'preprocessing',
    'rfcn',
    'rfcn_head',
]
