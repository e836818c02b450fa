"""Vision transformers of timm: ``vit_*_patch*``, also of DINOv2, DINOv3 and I-JEPA, without q/k norm.

The names of ``timm/models/vision_transformer.py`` are those of Google's JAX release.
"""

from collections.abc import Mapping

import torch

from mmssl.convert import vit_rows
from mmssl.convert.joined import join, rename, split
from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.vit_rows import Spelling


def block_rows(official: str, ours: str, width: str, hidden: str) -> list[Row]:
    """Rows of a stack of transformer blocks.

    Args:
        official: Name of the stack in the release, such as 'blocks'.
        ours: Name of the stack in mmssl, such as 'backbone.layers'.
        width: Letter for the embedding dimension.
        hidden: Letter for the hidden dimension of the feed-forward network.
    """
    inner = [
        ('norm1', 'ln1', width, width),
        ('attn.qkv', 'attn.qkv', f'3{width} {width}', f'3{width}'),
        ('attn.proj', 'attn.proj', f'{width} {width}', width),
        ('norm2', 'ln2', width, width),
        ('mlp.fc1', 'ffn.layers.0.0', f'{hidden} {width}', hidden),
        ('mlp.fc2', 'ffn.layers.1', f'{width} {hidden}', width),
    ]
    return [
        row
        for theirs, name, weight, bias in inner
        for row in weights_and_biases(f'{official}.{{i}}.{theirs}', f'{ours}.{{i}}.{name}', weight, bias)
    ]


# C embedding, T tokens including the class token, I input channels, P and Q sides of a patch, H hidden, K
# classes
ENCODER = [
    Row('cls_token', 'backbone.cls_token', '1 1 C'),
    Row('pos_embed', 'backbone.pos_embed', '1 T C'),
    *weights_and_biases('patch_embed.proj', 'backbone.patch_embed.projection', 'C I P Q', 'C'),
    *block_rows('blocks', 'backbone.layers', 'C', 'H'),
]
# the norm after the last block, and the one after average pooling that replaces it (in timm and MAE)
NORM = weights_and_biases('norm', 'backbone.ln1', 'C', 'C')
POOL_NORM = weights_and_biases('fc_norm', 'backbone.ln2', 'C', 'C')
HEAD = weights_and_biases('head', 'head.fc', 'K C', 'K')

NAMES = Spelling(
    stem=('cls_token', 'reg_token', 'pos_embed'),
    patch='patch_embed.proj',
    block='blocks.{i}',
    attention=('attn.qkv', 'attn.proj'),
    norms=('norm1', 'norm2'),
    scales=('ls1.gamma', 'ls2.gamma'),
    mlp=('mlp.fc1', 'mlp.fc2'),
    gated=('mlp.w12', 'mlp.w3'),
    norm='norm',
)
# timm has DINOv3 in its class Eva, with a SwiGLU network whose first layer is kept in two parts
EVA_NAMES = NAMES._replace(scales=('gamma_1', 'gamma_2'), gated=('mlp.fc1_gx', 'mlp.fc2'))
GATE = ('fc1_g', 'fc1_x')


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Join or split SwiGLU layers, and move the class token's position. See ``Family.adapt``.

    With registers timm's position table has patches only, and the class token includes its position.
    """
    if to_official:
        weights = rename(
            split(weights, GATE, 'fc1_gx'), (r'\.mlp\.w12\.', '.mlp.fc1.'), (r'\.mlp\.w3\.', '.mlp.fc2.')
        )
    else:
        weights = join(weights, GATE, 'fc1_gx')
        if _is_packed(weights):
            weights = rename(weights, (r'\.mlp\.fc1\.', '.mlp.w12.'), (r'\.mlp\.fc2\.', '.mlp.w3.'))
    if 'reg_token' in weights and 'pos_embed' in weights:
        table = weights['pos_embed']
        if to_official:
            weights['cls_token'] = weights['cls_token'] + table[:, :1]
            weights['pos_embed'] = table[:, 1:].clone()
        else:
            weights['pos_embed'] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return weights


def _is_packed(weights: Mapping) -> bool:
    """Whether the layers are those of SwiGLU under the names of an ordinary network, as in DINOv2's giant."""
    first, last = weights.get('blocks.0.mlp.fc1.weight'), weights.get('blocks.0.mlp.fc2.weight')
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        return False
    return first.shape[0] == 2 * last.shape[1]


FAMILY = Family(
    name='timm-vit',
    adapt=_adapt,
    layouts={
        'backbone': [*ENCODER, *NORM],
        'backbone, average pooling': [*ENCODER, *POOL_NORM],
        'classifier, class token': [*ENCODER, *NORM, *HEAD],
        'classifier, average pooling': [*ENCODER, *POOL_NORM, *HEAD],
        'DINOv2': vit_rows.vit_rows(NAMES, vit_rows.DINOV2),
        'DINOv2, SwiGLU': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_GIANT),
        'DINOv2 with registers': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_REG),
        'DINOv2 with registers, SwiGLU': vit_rows.vit_rows(NAMES, vit_rows.DINOV2_REG_GIANT),
        **{
            f'DINOv3, {note}': vit_rows.vit_rows(EVA_NAMES, variant)
            for note, variant in vit_rows.DINOV3.items()
        },
        'I-JEPA': vit_rows.vit_rows(NAMES, vit_rows.IJEPA),
    },
)
