"""Checkpoints of facebookresearch/ijepa (arXiv:2301.08243): the target encoder, which is evaluated."""

from collections.abc import Mapping

from mmssl.convert import vit_rows
from mmssl.convert.keymap import Family
from mmssl.convert.timm_vit import NAMES


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Take the target encoder out of a whole file, or put it there. See ``Family.adapt``."""
    if to_official:
        return {f'target_encoder.module.{key}': value for key, value in weights.items()}
    targets = {key: value for key, value in weights.items() if key.startswith('target_encoder.')}
    return {
        key.removeprefix('target_encoder.').removeprefix('module.'): value
        for key, value in (targets or weights).items()
    }


FAMILY = Family(
    name='ijepa',
    parts=('target_encoder',),
    adapt=_adapt,
    layouts={'target encoder': vit_rows.vit_rows(NAMES, vit_rows.IJEPA)},
)
