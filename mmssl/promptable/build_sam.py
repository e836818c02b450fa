"""The functions of :mod:`mmssl.promptable.build` in the official module."""

from mmssl.promptable.build import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)

__all__ = [
    'build_sam',
    'build_sam_vit_b',
    'build_sam_vit_h',
    'build_sam_vit_l',
    'build_sam_vit_t',
    'sam_model_registry',
]
