"""Weights of a plain ViT, such as an MAE encoder, for SAM's image encoder (arXiv:2304.02643, appendix A)."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmssl.layers.pos_embed import described_layout, infer_layout

_NAMES = [
    (r'layers\.(\d+)\.ln([12])\.', r'blocks.\1.norm\2.'),
    (r'layers\.(\d+)\.attn\.', r'blocks.\1.attn.'),
    (r'layers\.(\d+)\.ffn\.layers\.0\.0\.', r'blocks.\1.mlp.lin1.'),
    (r'layers\.(\d+)\.ffn\.layers\.1\.', r'blocks.\1.mlp.lin2.'),
    (r'patch_embed\.projection\.', r'patch_embed.proj.'),
]


def from_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a :class:`mmssl.ViT` to those of :class:`mmssl.SAMImageEncoder`.

    The class token and the last norm have no counterpart and are left out; the neck and the relative
    positions are missing in the result.

    Args:
        state_dict: State dict of a bare ViT.

    Returns:
        State dict, with position embeddings as (1, h, w, C).
    """
    renamed = {}
    for key, value in state_dict.items():
        if key == 'pos_embed':
            layout = described_layout(state_dict, key, value.shape[1])
            grid, num_leading = layout or infer_layout(value.shape[1], (1, 1), int('cls_token' in state_dict))
            renamed[key] = value[:, num_leading:].unflatten(1, grid)
        for pattern, name in _NAMES:
            new, count = re.subn(f'^{pattern}', name, key)
            if count:
                renamed[new] = value
    return renamed
