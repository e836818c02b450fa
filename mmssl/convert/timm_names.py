"""Configs of backbones by their names in timm."""

import re

from mmssl.errors import UserError

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


def backbone_config(name: str) -> dict:
    """Return the config of a backbone by its name in timm; see :func:`mmssl.apis.get_backbone`.

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
