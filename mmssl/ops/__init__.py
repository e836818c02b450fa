"""Operators without state: pure functions of tensors in their plain form; ``ops.fast`` holds faster ones."""

from mmssl.ops.dcnv3 import dcnv3
from mmssl.ops.deform_conv import deform_conv2d
from mmssl.ops.deform_ps_roi_pool import deform_ps_roi_pool
from mmssl.ops.ps_roi_align import ps_roi_align
from mmssl.ops.ps_roi_pool import ps_roi_pool

__all__ = ['dcnv3', 'deform_conv2d', 'deform_ps_roi_pool', 'ps_roi_align', 'ps_roi_pool']
