"""Checkpoints of facebookresearch/dinov2, with and without registers (arXiv:2304.07193, arXiv:2309.16588)."""

from collections.abc import Mapping

from mmssl.convert import vit_rows
from mmssl.convert.joined import rename, without
from mmssl.convert.keymap import Family
from mmssl.convert.timm_vit import NAMES as TIMM

NAMES = TIMM._replace(
    stem=('cls_token', 'register_tokens', 'pos_embed'),
    gated=('mlp.w12', 'mlp.w3'),
)


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Leave out the mask token of pre-training, or add one of zeros. See ``Family.adapt``."""
    if to_official:
        return {'mask_token': weights['cls_token'].new_zeros(1, weights['cls_token'].shape[-1]), **weights}
    # some files number the blocks within chunks of layers
    return rename(without(weights, 'mask_token'), (r'^blocks\.\d+\.(\d+\.)', r'blocks.\1'))


FAMILY = Family(
    name='dinov2',
    adapt=_adapt,
    layouts={
        'backbone': vit_rows.vit_rows(NAMES, vit_rows.DINOV2),
        'SwiGLU': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_GIANT),
        'registers': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_REG),
        'registers, SwiGLU': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_REG_GIANT),
    },
)
