"""Replacements for the compiled operators of mmcv that the models of mmdet and mmseg call.

They are made from torch, torchvision and :mod:`mmssl.ops`, for the CPU and CUDA. Names, arguments and the
buffers that are filled are those of the compiled functions, because mmcv calls them in their place (see
:mod:`mmssl.hosts.ops_import`). Half precision is computed in float32.
"""

from mmssl.hosts.mmcv_ext.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from mmssl.hosts.mmcv_ext.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmssl.hosts.mmcv_ext.deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from mmssl.hosts.mmcv_ext.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmssl.hosts.mmcv_ext.masked_conv import masked_col2im_forward, masked_im2col_forward
from mmssl.hosts.mmcv_ext.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from mmssl.hosts.mmcv_ext.nms import line_nms_forward, nms, nms_match, softnms
from mmssl.hosts.mmcv_ext.psa_mask import psamask_backward, psamask_forward
from mmssl.hosts.mmcv_ext.roi_align import roi_align_backward, roi_align_forward
from mmssl.hosts.mmcv_ext.roi_pool import roi_pool_backward, roi_pool_forward
from mmssl.hosts.mmcv_ext.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)


def get_compiler_version() -> str:
    """Return what mmcv prints as the compiler of its operators."""
    return 'none (mmssl, no compiled operators)'


def get_compiling_cuda_version() -> str:
    """Return what mmcv prints as the CUDA version of its operators."""
    return 'not available'


__all__ = [
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'line_nms_forward',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]
# names that the stand-in for mmcv._ext takes from here
PROVIDED = frozenset(__all__)
