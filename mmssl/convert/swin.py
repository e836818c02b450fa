"""Files of microsoft/Swin-Transformer (arXiv:2103.14030): a backbone, or a classifier. The right side is mmpretrain's SwinTransformer.

Two things are more than another name. The host merges 2x2 patches by ``nn.Unfold``, the released code by four
slices, so that the inputs of a merge stand in another order. And the released files hold the masks of the
shifted windows, which the host computes as it goes; they are made anew from the window size, for an image
whose last stage is one window (224 pixels with windows of 7, 384 with 12).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.convert.keymap import Family, Row, weights_and_biases

MASK = re.compile(r'(?P<stack>(?:.+\.)?)layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.attn_mask')
MERGE = re.compile(r'(?:.+\.)?layers\.\d+\.downsample\.(?:reduction\.weight|norm\.weight|norm\.bias)')
BLOCK_START = re.compile(r'(?P<stack>(?:.+\.)?)layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.norm1\.weight')


def swin_rows(official: str, ours: str, stages: int) -> list[Row]:
    """Rows of a backbone.

    Args:
        official, ours: what stands before its names, as 'encoder.' and 'backbone.'.
        stages: how many it has; widths double from one to the next.
    """
    rows = [
        *weights_and_biases(f'{official}patch_embed.proj', f'{ours}patch_embed.projection', 'C I P Q', 'C'),
        *weights_and_biases(f'{official}patch_embed.norm', f'{ours}patch_embed.norm', 'C', 'C'),
    ]
    for stage in range(stages):
        there, here = f'{official}layers.{stage}', f'{ours}stages.{stage}'
        block_there, block_here, heads = f'{there}.blocks.{{i}}', f'{here}.blocks.{{i}}', 'abcdefgh'[stage]
        width, double, triple, four = (f'{factor * 2**stage}C' for factor in (1, 2, 3, 4))
        rows += [
            *weights_and_biases(f'{block_there}.norm1', f'{block_here}.norm1', width, width),
            Row(
                f'{block_there}.attn.relative_position_bias_table',
                f'{block_here}.attn.w_msa.relative_position_bias_table',
                f'W {heads}',
            ),
            Row(
                f'{block_there}.attn.relative_position_index',
                f'{block_here}.attn.w_msa.relative_position_index',
                'N N',
            ),
            *weights_and_biases(
                f'{block_there}.attn.qkv', f'{block_here}.attn.w_msa.qkv', f'{triple} {width}', triple
            ),
            *weights_and_biases(
                f'{block_there}.attn.proj', f'{block_here}.attn.w_msa.proj', f'{width} {width}', width
            ),
            *weights_and_biases(f'{block_there}.norm2', f'{block_here}.norm2', width, width),
            *weights_and_biases(
                f'{block_there}.mlp.fc1', f'{block_here}.ffn.layers.0.0', f'{four} {width}', four
            ),
            *weights_and_biases(
                f'{block_there}.mlp.fc2', f'{block_here}.ffn.layers.1', f'{width} {four}', width
            ),
        ]
        if stage < stages - 1:
            rows += [
                Row(
                    f'{there}.downsample.reduction.weight',
                    f'{here}.downsample.reduction.weight',
                    f'{double} {four}',
                ),
                *weights_and_biases(f'{there}.downsample.norm', f'{here}.downsample.norm', four, four),
            ]
    width = f'{2 ** (stages - 1)}C'
    return [*rows, *weights_and_biases(f'{official}norm', f'{ours}norm{stages - 1}', width, width)]


def _merge_order(tensor: Tensor, to_official: bool) -> Tensor:
    """The last dimension of a merge's weights: released (corner, channel) with corners down first, here (channel, corner) along rows.

    Args:
        tensor: (..., 4C).
    """
    if tensor.ndim == 0 or tensor.shape[-1] % 4:
        return tensor  # the shape is refused later
    sizes = (-1, 2, 2) if to_official else (2, 2, -1)  # (channel, row, column) or (column, row, channel)
    return (
        tensor.reshape(*tensor.shape[:-1], *(size if size > 0 else tensor.shape[-1] // 4 for size in sizes))
        .transpose(-1, -3)
        .reshape(tensor.shape)
    )


def shift_mask(window: int, side: int) -> Tensor:
    """What a window may not see after the cyclic shift by half a window (section 3.2, figure 4).

    Args:
        window: its side.
        side: of the square map, a multiple of ``window``.

    Returns:
        (windows, window**2, window**2): 0 between places of one region, -100 between those of two.
    """
    regions = torch.arange(side)
    regions = (regions >= side - window).long() + (regions >= side - window // 2).long()
    count = side // window
    region = (
        (3 * regions[:, None] + regions)
        .view(count, window, count, window)
        .transpose(1, 2)
        .reshape(count**2, window**2)
    )
    return torch.where(region[:, None, :] != region[:, :, None], -100.0, 0.0)


def adapt_swin(state_dict: Mapping, to_official: bool) -> dict:
    """Put the merges in order; leave out the masks on the way here, and make them on the way back. See ``Family.adapt``."""
    if not to_official:
        return {
            key: _merge_order(value, False) if MERGE.fullmatch(key) else value
            for key, value in state_dict.items()
            if not MASK.fullmatch(key)
        }
    last: dict[str, int] = {}
    for start in filter(None, map(BLOCK_START.fullmatch, state_dict)):
        last[start['stack']] = max(last.get(start['stack'], 0), int(start['stage']))
    released = {}
    for key, value in state_dict.items():
        found = BLOCK_START.fullmatch(key)
        if found and int(found['block']) % 2 and int(found['stage']) < last[found['stack']]:
            block = key.removesuffix('norm1.weight')
            window = (round(len(state_dict[f'{block}attn.relative_position_bias_table']) ** 0.5) + 1) // 2
            released[f'{block}attn_mask'] = shift_mask(
                window, window * 2 ** (last[found['stack']] - int(found['stage']))
            )
        released[key] = _merge_order(value, True) if MERGE.fullmatch(key) else value
    return released


FAMILY = Family(
    name='swin',
    wrapper='model',
    adapt=adapt_swin,
    layouts={
        **{f'backbone of {stages} stages': swin_rows('', 'backbone.', stages) for stages in (4, 3, 2)},
        **{
            f'classifier of {stages} stages': [
                *swin_rows('', 'backbone.', stages),
                *weights_and_biases('head', 'head.fc', f'K {2 ** (stages - 1)}C', 'K'),
            ]
            for stages in (4, 3, 2)
        },
    },
)
