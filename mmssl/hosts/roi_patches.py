"""Patch of mmcv's RoIAlign."""

from typing import Any

from mmssl.hosts.patching import listed, when_imported


@listed(
    reason='the compiled RoIAlign reads maps in channels-last format as if they were contiguous, and returns '
    'wrong features without an error',
    versions='mmcv 2.3.6 (OneDL)',
    until='mmcv makes the maps contiguous, or reads their strides',
)
def align_contiguous_maps() -> None:
    """Pass contiguous maps to mmcv's RoIAlign."""
    when_imported('mmcv.ops.roi_align', _make_contiguous)


def _make_contiguous(module: Any) -> None:
    original = module.RoIAlignFunction.forward

    def forward(ctx: Any, input: Any, *arguments: Any, **settings: Any) -> Any:
        return original(ctx, input.contiguous(), *arguments, **settings)

    module.RoIAlignFunction.forward = staticmethod(forward)
