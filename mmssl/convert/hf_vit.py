"""Vision transformers of Hugging Face transformers (``ViTModel``, ``ViTForImageClassification``).

They keep query, key and value apart. The pooler has no counterpart and is left out by ``--drop pooler.``.
"""

import re
from collections.abc import Mapping

import torch

from mmssl.convert.keymap import Family, Row, weights_and_biases

PARTS = ('query', 'key', 'value')
_PART = re.compile(r'(?P<start>.+\.attention\.attention)\.(?P<part>query|key|value)\.(?P<end>weight|bias)')
_JOINED = re.compile(r'(?P<start>.+\.attention\.attention)\.qkv\.(?P<end>weight|bias)')


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
    """Concatenate query, key and value in this order, or split them. See ``Family.adapt``."""
    adapted = {}
    for key, value in weights.items():
        joined, part = _JOINED.fullmatch(key), _PART.fullmatch(key)
        if to_official and joined:
            for name, chunk in zip(PARTS, value.chunk(3), strict=True):
                adapted[f'{joined["start"]}.{name}.{joined["end"]}'] = chunk.clone()
        elif not to_official and part:
            names = [f'{part["start"]}.{name}.{part["end"]}' for name in PARTS]
            if all(name in weights for name in names):
                adapted[f'{part["start"]}.qkv.{part["end"]}'] = torch.cat([weights[name] for name in names])
            else:
                adapted[key] = value  # refused by name when keys are looked up
        else:
            adapted[key] = value
    return adapted


FAMILY = Family(
    name='hf-vit',
    adapt=_adapt,
    layouts={
        'backbone': _rows(''),
        'backbone in a larger model': _rows('vit.'),
        'classifier, class token': [*_rows('vit.'), *weights_and_biases('classifier', 'head.fc', 'K C', 'K')],
    },
)
