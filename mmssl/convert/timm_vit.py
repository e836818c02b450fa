"""Vision transformers of timm (``vit_*_patch*``, without layer scale, registers and q/k norm).

The names of ``timm/models/vision_transformer.py`` are those of Google's JAX release.
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases


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

FAMILY = Family(
    name='timm-vit',
    layouts={
        'backbone': [*ENCODER, *NORM],
        'backbone, average pooling': [*ENCODER, *POOL_NORM],
        'classifier, class token': [*ENCODER, *NORM, *HEAD],
        'classifier, average pooling': [*ENCODER, *POOL_NORM, *HEAD],
    },
)
