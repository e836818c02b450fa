"""Vision transformers of Hugging Face transformers: ViT, DINOv2, DINOv3 and I-JEPA.

They keep query, key and value apart. Files have the names of transformers 4; those that the classes of
transformers 5 have in memory are read too. The pooler has no counterpart and is left out by
``--drop pooler.``.
"""

from collections.abc import Mapping

import torch

from mmssl.convert import vit_rows
from mmssl.convert.joined import join, rename, split, without
from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.vit_rows import Spelling

PARTS = ('query', 'key', 'value')
PROJECTIONS = ('q_proj', 'k_proj', 'v_proj')
GATE = ('gate_proj', 'up_proj')
DINOV2_NAMES = Spelling(
    stem=('embeddings.cls_token', 'embeddings.register_tokens', 'embeddings.position_embeddings'),
    patch='embeddings.patch_embeddings.projection',
    block='encoder.layer.{i}',
    attention=('attention.attention.qkv', 'attention.output.dense'),
    norms=('norm1', 'norm2'),
    scales=('layer_scale1.lambda1', 'layer_scale2.lambda1'),
    mlp=('mlp.fc1', 'mlp.fc2'),
    gated=('mlp.weights_in', 'mlp.weights_out'),
    norm='layernorm',
)
IJEPA_NAMES = DINOV2_NAMES._replace(
    norms=('layernorm_before', 'layernorm_after'), mlp=('intermediate.dense', 'output.dense')
)
DINOV3_NAMES = DINOV2_NAMES._replace(
    patch='embeddings.patch_embeddings',
    block='layer.{i}',
    attention=('attention.qkv', 'attention.o_proj'),
    mlp=('mlp.up_proj', 'mlp.down_proj'),
    gated=('mlp.gate_up_proj', 'mlp.down_proj'),
    norm='norm',
)
# names in memory (transformers 5) -> names in files
IN_FILES = (
    (r'^model\.layer\.', 'layer.'),
    (r'^layers\.(\d+)\.', r'encoder.layer.\1.'),
    (r'^(vit\.)layers\.(\d+)\.', r'\1encoder.layer.\2.'),
    (r'(encoder\.layer\.\d+\.attention)\.q_proj\.', r'\1.attention.query.'),
    (r'(encoder\.layer\.\d+\.attention)\.k_proj\.', r'\1.attention.key.'),
    (r'(encoder\.layer\.\d+\.attention)\.v_proj\.', r'\1.attention.value.'),
    (r'(encoder\.layer\.\d+\.attention)\.o_proj\.', r'\1.output.dense.'),
    (r'(encoder\.layer\.\d+\.mlp)\.down_proj\.', r'\1.weights_out.'),
)
# of ViT and I-JEPA only: DINOv2 has the same names in files
IN_FILES_VIT = (
    (r'(encoder\.layer\.\d+)\.mlp\.fc1\.', r'\1.intermediate.dense.'),
    (r'(encoder\.layer\.\d+)\.mlp\.fc2\.', r'\1.output.dense.'),
)
MASK_TOKEN = 'embeddings.mask_token'


def _rows(official: str) -> list[Row]:
    """Rows of an encoder.

    C embedding, T tokens including the class token, I input channels, P and Q sides of a patch, H hidden.
    """
    layer = f'{official}encoder.layer.{{i}}'
    inner = [
        ('layernorm_before', 'ln1', 'C', 'C'),
        ('attention.attention.qkv', 'attn.qkv', '3C C', '3C'),
        ('attention.output.dense', 'attn.proj', 'C C', 'C'),
        ('layernorm_after', 'ln2', 'C', 'C'),
        ('intermediate.dense', 'ffn.layers.0.0', 'H C', 'H'),
        ('output.dense', 'ffn.layers.1', 'C H', 'C'),
    ]
    return [
        Row(f'{official}embeddings.cls_token', 'backbone.cls_token', '1 1 C'),
        Row(f'{official}embeddings.position_embeddings', 'backbone.pos_embed', '1 T C'),
        *weights_and_biases(
            f'{official}embeddings.patch_embeddings.projection',
            'backbone.patch_embed.projection',
            'C I P Q',
            'C',
        ),
        *(
            row
            for theirs, ours, weight, bias in inner
            for row in weights_and_biases(f'{layer}.{theirs}', f'backbone.layers.{{i}}.{ours}', weight, bias)
        ),
        *weights_and_biases(f'{official}layernorm', 'backbone.ln1', 'C', 'C'),
    ]


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Join or split queries, keys and values and SwiGLU layers; mask tokens are left out.

    See ``Family.adapt``.
    """
    return _to_files(weights) if to_official else _from_files(weights)


def _from_files(weights: Mapping) -> dict:
    adapted = without(rename(weights, *IN_FILES), MASK_TOKEN)
    if any('layernorm_before' in key for key in adapted):
        adapted = rename(adapted, *IN_FILES_VIT)
    adapted = join(join(adapted, PARTS, 'qkv'), PROJECTIONS, 'qkv')
    joined = 'weights_in' if any('.weights_out.' in key for key in adapted) else 'gate_up_proj'
    # DINOv3: keys without a bias
    without_bias = (r'\.attention\.(q|v)_proj\.bias$', r'.attention.\1_bias')
    return rename(join(adapted, GATE, joined), without_bias)


def _to_files(weights: Mapping) -> dict:
    is_dinov3 = any(key.startswith('layer.') for key in weights)
    adapted = split(weights, PROJECTIONS if is_dinov3 else PARTS, 'qkv')
    if is_dinov3:
        adapted = split(adapted, GATE, 'gate_up_proj')
        adapted = rename(adapted, (r'\.attention\.(q|v)_bias$', r'.attention.\1_proj.bias'))
    if any('layer_scale1' in key for key in adapted):
        cls_token = adapted['embeddings.cls_token']
        adapted[MASK_TOKEN] = torch.zeros_like(cls_token if is_dinov3 else cls_token[0])
    return adapted


FAMILY = Family(
    name='hf-vit',
    adapt=_adapt,
    layouts={
        'backbone': _rows(''),
        'backbone in a larger model': _rows('vit.'),
        'classifier, class token': [*_rows('vit.'), *weights_and_biases('classifier', 'head.fc', 'K C', 'K')],
        'DINOv2': vit_rows.vit_rows(DINOV2_NAMES, vit_rows.DINOV2),
        'DINOv2, SwiGLU': vit_rows.vit_rows(DINOV2_NAMES, vit_rows.DINOV2_GIANT),
        'DINOv2 with registers': vit_rows.vit_rows(DINOV2_NAMES, vit_rows.DINOV2_REG),
        'DINOv2 with registers, SwiGLU': vit_rows.vit_rows(DINOV2_NAMES, vit_rows.DINOV2_REG_GIANT),
        **{
            f'DINOv3, {note}': vit_rows.vit_rows(DINOV3_NAMES, variant)
            for note, variant in vit_rows.DINOV3.items()
        },
        'I-JEPA': vit_rows.vit_rows(IJEPA_NAMES, vit_rows.IJEPA),
    },
)
