"""Patches of the Python side of mmcv's operators."""

import functools
from typing import Any

from mmssl.hosts.patching import listed, when_imported

# modules and autograd functions of the operators that take maps
ON_MAPS = (
    ('mmcv.ops.roi_align', 'RoIAlignFunction'),
    ('mmcv.ops.roi_pool', 'RoIPoolFunction'),
    ('mmcv.ops.deform_conv', 'DeformConv2dFunction'),
    ('mmcv.ops.modulated_deform_conv', 'ModulatedDeformConv2dFunction'),
    ('mmcv.ops.deform_roi_pool', 'DeformRoIPoolFunction'),
    ('mmcv.ops.psa_mask', 'PSAMaskFunction'),
    ('mmcv.ops.carafe', 'CARAFEFunction'),
    ('mmcv.ops.carafe', 'CARAFENaiveFunction'),
)


@listed(
    reason='the compiled RoIAlign and modulated deformable convolution read maps in channels-last format as '
    'if they were contiguous, and return wrong features without an error; others refuse such maps',
    versions='mmcv 2.3.6 (OneDL)',
    until='mmcv makes the maps contiguous, or reads their strides',
)
def align_contiguous_maps() -> None:
    """Pass contiguous maps and gradients to mmcv's operators."""
    for name, function in ON_MAPS:
        when_imported(name, functools.partial(_make_contiguous, function))


def _make_contiguous(name: str, module: Any) -> None:
    function = getattr(module, name)

    def contiguous(original: Any) -> Any:
        @functools.wraps(original)
        def call(ctx: Any, *arguments: Any, **settings: Any) -> Any:
            maps = [value.contiguous() if hasattr(value, 'contiguous') else value for value in arguments]
            return original(ctx, *maps, **settings)

        return staticmethod(call)

    function.forward = contiguous(function.forward)
    function.backward = contiguous(function.backward)


@listed(
    reason="the backward pass of CARAFENaive on the CPU asks for 'is_musa', which tensors do not have",
    versions='mmcv 2.3.6 (OneDL)',
    until='mmcv asks no such question',
)
def carafe_naive_on_cpu() -> None:
    """Let CARAFENaive be trained on the CPU, where mmssl serves its operators."""
    when_imported('mmcv.ops.carafe', _replace_backward)


def _replace_backward(module: Any) -> None:
    function = module.CARAFENaiveFunction
    original = function.backward

    @functools.wraps(original)
    def backward(ctx: Any, grad_output: Any) -> Any:
        if grad_output.device.type != 'cpu':
            return original(ctx, grad_output)
        features, masks = ctx.saved_tensors
        gradients = features.new_zeros(features.shape), masks.new_zeros(masks.shape)
        module.ext_module.carafe_naive_backward(
            grad_output,
            features,
            masks,
            *gradients,
            kernel_size=ctx.kernel_size,
            group_size=ctx.group_size,
            scale_factor=ctx.scale_factor,
        )
        return *gradients, None, None, None

    function.backward = staticmethod(backward)
