"""Object detection for mmdet: R-FCN, deformable convolutions, deformable R-FCN, and plain ViT backbones."""

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
    vit_det,
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
    'vit_det',
]
