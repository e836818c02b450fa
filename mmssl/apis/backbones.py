"""Backbones by timm's names, with released weights in any spelling."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmssl.convert.timm_names import backbone_config
from mmssl.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def get_backbone(
    name: str, state_dict: Mapping | None = None, checkpoint: Any = None, **overrides: Any
) -> 'nn.Module':
    """Build a backbone by its name in timm, in evaluation mode.

    Args:
        name: Name of an architecture, such as 'vit_small_patch14_dinov2', 'vit_base_patch14_reg4_dinov2',
            'vit_large_patch16_dinov3', 'vit_huge_patch14_gap_224' (I-JEPA), 'vit_base_patch16_224' or
            'convnext_tiny'. A tag of weights ('.lvd142m') is allowed and not used.
        state_dict: Weights in the names of timm, of Hugging Face, of the release itself or of mmssl. They are
            loaded strictly; a classifier's head and a mask token are left out.
        checkpoint: File, URL, 'timm://NAME' or 'hf://REPO' with the weights, in place of ``state_dict``.
            Without either, the weights are drawn.
        **overrides: Arguments of :class:`mmssl.layers.vit.ViT` (or of mmpretrain's ConvNeXt) that replace
            those of the name, such as ``img_size`` or ``out_indices``.

    Returns:
        :class:`mmssl.layers.vit.ViT`, or mmpretrain's ConvNeXt. ``backbone(x)[-1]`` is the last normalised
        map (B, C, h, w) of normalised images x (B, 3, H, W).

    Raises:
        UserError: The name is unknown, the weights do not fit the architecture or are in no known spelling,
            or both ``state_dict`` and ``checkpoint`` are given.
    """
    from mmssl.registry import MODELS, build

    if state_dict is not None and checkpoint is not None:
        raise UserError('state_dict and checkpoint are both given; give one of them')
    if checkpoint is not None:
        state_dict = _read(checkpoint)
    settings = backbone_config(name)
    weights, spelling = (None, 'timm-vit') if state_dict is None else _own_names(state_dict)
    if settings['type'] == 'mmssl.ViT':
        settings['interpolate_mode'] = _interpolation(spelling, settings.get('num_registers', 0))
        if weights is not None and 'img_size' not in overrides:
            settings['img_size'] = _image_size(weights, settings)
    backbone = build({**settings, **overrides}, MODELS)
    if weights is not None:
        _load(backbone, weights, name)
    backbone.train(False)
    return backbone


def _own_names(state_dict: Mapping) -> tuple[Mapping, str]:
    """Return weights in mmssl's names, and the family of checkpoints whose names they had."""
    from mmssl.checkpoint import weights_of
    from mmssl.convert.released import OWN, own_names

    weights = weights_of(state_dict)
    if any(key.endswith(OWN) for key in weights):
        return {key.removeprefix('backbone.'): value for key, value in weights.items()}, 'mmssl'
    return own_names(state_dict)


def _read(checkpoint: Any) -> Mapping:
    from mmssl.checkpoint import load_file
    from mmssl.checkpoint.hub import fetch

    return load_file(fetch(checkpoint))


def _interpolation(spelling: str, num_registers: int) -> str:
    """How a release resizes its position table: with or without smoothing where it shrinks."""
    smooth = spelling == 'timm-vit' or num_registers > 0
    return 'bicubic-antialias' if smooth else 'bicubic'


def _image_size(weights: Mapping, settings: dict) -> int | tuple[int, int]:
    """Size of the images that the position table was made for."""
    from mmssl.layers.pos_embed import described_layout, infer_layout

    table = weights.get('pos_embed')
    if table is None:
        return settings['img_size']
    patch, num_leading = settings['patch_size'], int(settings['with_cls_token'])
    side = settings['img_size'] // patch
    layout = described_layout(weights, 'pos_embed', table.shape[1])
    rows, columns = (layout or infer_layout(table.shape[1], (side, side), num_leading))[0]
    return rows * patch, columns * patch


def _load(backbone: 'nn.Module', weights: Mapping, name: str) -> None:
    try:
        backbone.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise UserError(f'the weights do not fit {name}: {" ".join(lines) or error}') from None
