"""Checkpoints of BEiT (microsoft/unilm): pre-training and fine-tuning.

Files of ``modeling_pretrain.py`` and ``modeling_finetune.py``. The tokenizer in a checkpoint of mmssl
(``target_generator.``) has a release of its own and is left out.
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases

# C embedding, I input channels, P and Q sides of a patch, D hidden, R relative positions, N heads, T tokens
# including the class token, K classes
STEM = [
    Row('cls_token', 'backbone.cls_token', '1 1 C'),
    *weights_and_biases('patch_embed.proj', 'backbone.patch_embed.projection', 'C I P Q', 'C'),
]
MASK = [Row('mask_token', 'backbone.mask_token', '1 1 C')]


def _block(official: str, ours: str, shape: str) -> Row:
    return Row(f'blocks.{{i}}.{official}', f'backbone.layers.{{i}}.{ours}', shape)


def _bias(official: str, ours: str) -> list[Row]:
    return [
        Row(f'{official}.relative_position_bias_table', f'{ours}.relative_position_bias_table', 'R N'),
        Row(f'{official}.relative_position_index', f'{ours}.relative_position_index', 'T T'),
    ]


BLOCKS = [
    *(
        _block(f'{official}{n}{part}', f'{ours}{n}{part}', 'C')
        for n in (1, 2)
        for official, ours, part in (
            ('gamma_', 'gamma_', ''),
            ('norm', 'ln', '.weight'),
            ('norm', 'ln', '.bias'),
        )
    ),
    *(
        _block(name, name, shape)
        for name, shape in (
            ('attn.q_bias', 'C'),
            ('attn.v_bias', 'C'),
            ('attn.qkv.weight', '3C C'),
            ('attn.proj.weight', 'C C'),
            ('attn.proj.bias', 'C'),
        )
    ),
    _block('mlp.fc1.weight', 'ffn.layers.0.0.weight', 'D C'),
    _block('mlp.fc1.bias', 'ffn.layers.0.0.bias', 'D'),
    _block('mlp.fc2.weight', 'ffn.layers.1.weight', 'C D'),
    _block('mlp.fc2.bias', 'ffn.layers.1.bias', 'C'),
]
SHARED = _bias('rel_pos_bias', 'backbone.rel_pos_bias')
OWN = _bias('blocks.{i}.attn', 'backbone.layers.{i}.attn')
NORM = weights_and_biases('norm', 'backbone.ln1', 'C', 'C')
POOL_NORM = weights_and_biases('fc_norm', 'backbone.ln2', 'C', 'C')
TOKENS = weights_and_biases('lm_head', 'head.cls_head', 'K C', 'K')
CLASSES = weights_and_biases('head', 'head.fc', 'K C', 'K')

FAMILY = Family(
    name='beit',
    wrapper='model',
    layouts={
        'pre-training': [*STEM, *MASK, *SHARED, *BLOCKS, *NORM, *TOKENS],
        'encoder': [*STEM, *MASK, *SHARED, *BLOCKS, *NORM],
        'encoder without mask token': [*STEM, *SHARED, *BLOCKS, *NORM],
        'fine-tuned, average pooling': [*STEM, *OWN, *BLOCKS, *POOL_NORM, *CLASSES],
        'fine-tuned, class token': [*STEM, *OWN, *BLOCKS, *NORM, *CLASSES],
        'fine-tuned backbone, average pooling': [*STEM, *OWN, *BLOCKS, *POOL_NORM],
        'fine-tuned backbone': [*STEM, *OWN, *BLOCKS, *NORM],
    },
)
