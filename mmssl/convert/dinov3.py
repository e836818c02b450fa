"""Vision transformers of facebookresearch/dinov3 (arXiv:2508.10104), whose files have their own licence."""

from collections.abc import Mapping

import torch

from mmssl.convert import vit_rows
from mmssl.convert.joined import join, split, without
from mmssl.convert.keymap import Family
from mmssl.convert.timm_vit import NAMES as TIMM

NAMES = TIMM._replace(
    stem=('cls_token', 'storage_tokens', 'pos_embed'),
    gated=('mlp.w12', 'mlp.w3'),
)
GATE = ('w1', 'w2')
# channels of a head: 128 in the largest model, which is 4096 wide
HEAD_DIMS = {4096: 128}


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Join or split SwiGLU layers; keep the mask token, the periods and the masks of biases out.

    The released projections have biases of q, k and v, and a mask that sets those of k to 0. See
    ``Family.adapt``.
    """
    if not to_official:
        masks = {key: value for key, value in weights.items() if key.endswith('.bias_mask')}
        adapted = without(join(weights, GATE, 'w12'), 'mask_token', 'rope_embed.periods', 'bias_mask')
        for key in masks:
            bias = adapted.pop(f'{key.removesuffix("_mask")}', None)
            if bias is not None:
                query, _, value = bias.chunk(3)
                parent = key.removesuffix('qkv.bias_mask')
                adapted |= {f'{parent}q_bias': query.clone(), f'{parent}v_bias': value.clone()}
        return adapted
    adapted = split(weights, GATE, 'w12')
    width = weights['cls_token'].shape[-1]
    for key in [key for key in adapted if key.endswith('.q_bias')]:
        parent = key.removesuffix('q_bias')
        query, value = adapted.pop(key), adapted.pop(f'{parent}v_bias')
        ones, zeros = torch.ones_like(query), torch.zeros_like(query)
        adapted[f'{parent}qkv.bias'] = torch.cat([query, zeros, value])
        adapted[f'{parent}qkv.bias_mask'] = torch.cat([ones, zeros, ones])
    count = HEAD_DIMS.get(width, 64) // 4
    adapted['rope_embed.periods'] = 100 ** (torch.arange(count) / count)
    adapted['mask_token'] = weights['cls_token'].new_zeros(1, width)
    return adapted


FAMILY = Family(
    name='dinov3',
    adapt=_adapt,
    layouts={note: vit_rows.vit_rows(NAMES, variant) for note, variant in vit_rows.DINOV3.items()},
)
