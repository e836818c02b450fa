"""Backbones by timm's names, with released weights in any spelling."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# embed_dims, num_layers, num_heads, hidden width, whether the feed-forward network is SwiGLU
_SIZES = {
    'tiny': (192, 12, 3, 768, False),
    'small': (384, 12, 6, 1536, False),
    'small_plus': (384, 12, 6, 1536, True),
    'base': (768, 12, 12, 3072, False),
    'large': (1024, 24, 16, 4096, False),
    'huge': (1280, 32, 16, 5120, False),
    'huge_plus': (1280, 32, 20, 5120, True),
    '7b': (4096, 40, 32, 8192, True),
}
_GIANT = {'dinov2': (1536, 40, 24, 4096, True), 'gap': (1408, 40, 16, 6144, False)}
_VIT = re.compile(
    r'vit_(?P<size>[a-z0-9]+(?:_plus)?)_patch(?P<patch>\d+)(?:_reg(?P<registers>\d+))?'
    r'(?P<gap>_gap)?_(?P<kind>dinov2|dinov3_qkvb|dinov3|\d+)(?:\.\w+)?'
)
_CONVNEXT = re.compile(r'convnext_(?P<size>tiny|small|base|large)(?:\.\w+)?')
_EXAMPLES = 'vit_small_patch14_dinov2, vit_base_patch16_dinov3, vit_huge_patch14_gap_224, convnext_tiny'


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


def backbone_config(name: str) -> dict:
    """Return the config of a backbone by its name in timm; see :func:`get_backbone`.

    Raises:
        UserError: The name is unknown.
    """
    match = _CONVNEXT.fullmatch(name)
    if match:
        return dict(
            type='mmpretrain.ConvNeXt', arch=match['size'], out_indices=-1, gap_before_final_norm=False
        )
    match = _VIT.fullmatch(name)
    sizes = _sizes(match) if match else None
    if match is None or sizes is None:
        raise UserError(f'no backbone is named {name!r}; use a name of timm such as {_EXAMPLES}')
    width, depth, heads, hidden, gated = sizes
    kind = match['kind']
    config = dict(
        type='mmssl.ViT',
        arch=dict(embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=hidden),
        img_size=int(kind) if kind.isdigit() else 518 if kind == 'dinov2' else 256,
        patch_size=int(match['patch']),
        with_cls_token=not match['gap'],
    )
    if gated:
        config['layer_cfgs'] = dict(ffn_type='swiglu')
    if kind == 'dinov2':
        config |= dict(layer_scale_init_value=1e-5, num_registers=int(match['registers'] or 0))
    elif kind.startswith('dinov3'):
        config |= dict(
            layer_scale_init_value=1e-5,
            num_registers=4,
            use_abs_pos_emb=False,
            rope_cfg=dict(rescale=2.0),
            qkv_bias='qv_bias' if kind.endswith('qkvb') else False,
            norm_cfg=dict(type='LN', eps=1e-5),
        )
    return config


def _sizes(match: re.Match) -> tuple[int, int, int, int, bool] | None:
    if match['size'] == 'giant':
        return _GIANT.get('gap' if match['gap'] else match['kind'])
    return _SIZES.get(match['size'])


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
