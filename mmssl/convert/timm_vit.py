"""Vision transformers of timm (``vit_*_patch*``, plain ones: no layer scale, no registers, no q/k norm).

Names as in ``timm/models/vision_transformer.py``, which are those of Google's JAX release; the right side is
mmpretrain's ViT.
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases


def block_rows(official: str, ours: str, width: str, hidden: str) -> list[Row]:
    """Rows of a stack of transformer blocks.

    Args:
        official: name of the stack there, as 'blocks'.
        ours: name of the stack here, as 'backbone.layers'.
        width: letter for the embedding dimension.
        hidden: letter for the dimension between the two layers of the feed-forward network.
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
        for there, here, weight, bias in inner
        for row in weights_and_biases(f'{official}.{{i}}.{there}', f'{ours}.{{i}}.{here}', weight, bias)
    ]


# C embedding, T tokens with the class token, I input channels, P and Q sides of a patch, H hidden, K classes
ENCODER = [
    Row('cls_token', 'backbone.cls_token', '1 1 C'),
    Row('pos_embed', 'backbone.pos_embed', '1 T C'),
    *weights_and_biases('patch_embed.proj', 'backbone.patch_embed.projection', 'C I P Q', 'C'),
    *block_rows('blocks', 'backbone.layers', 'C', 'H'),
]
# the norm after the last block, and the one after average pooling that takes its place (timm and MAE alike)
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
