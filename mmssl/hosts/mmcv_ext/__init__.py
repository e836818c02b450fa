"""Replacements for the compiled operators of mmcv that mmdet's detectors call.

They are made from torch, torchvision and :mod:`mmssl.ops`, for the CPU and CUDA. Names, arguments and the
buffers that are filled are those of the compiled functions, because mmcv calls them in their place (see
:mod:`mmssl.hosts.ops_import`). Half precision is computed in float32.
"""

from mmssl.hosts.mmcv_ext.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmssl.hosts.mmcv_ext.focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from mmssl.hosts.mmcv_ext.nms import nms, softnms
from mmssl.hosts.mmcv_ext.roi_align import roi_align_backward, roi_align_forward


def get_compiler_version() -> str:
    """Return what mmcv prints as the compiler of its operators."""
    return 'none (mmssl, no compiled operators)'


def get_compiling_cuda_version() -> str:
    """Return what mmcv prints as the CUDA version of its operators."""
    return 'not available'


__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'nms',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softnms',
]
# names that the stand-in for mmcv._ext takes from here
PROVIDED = frozenset(__all__)
