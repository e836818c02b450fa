"""Checkpoints of microsoft/Swin-Transformer (arXiv:2103.14030): backbones and classifiers.

Two things differ besides the names. mmpretrain merges 2x2 patches by ``nn.Unfold``, the released code by four
slices, so that the inputs of a merge are in another order. The released files contain the masks of the
shifted windows, which mmpretrain computes when needed; they are computed from the window size, for an image
whose last stage is a single window (224 pixels with windows of 7, 384 with 12).
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
        official: Prefix of its names in the release, such as 'encoder.'.
        ours: Prefix of its names in mmssl, such as 'backbone.'.
        stages: Number of stages; the width doubles from each to the next.
    """
    rows = [
        *weights_and_biases(f'{official}patch_embed.proj', f'{ours}patch_embed.projection', 'C I P Q', 'C'),
        *weights_and_biases(f'{official}patch_embed.norm', f'{ours}patch_embed.norm', 'C', 'C'),
    ]
    for stage in range(stages):
        official_stage, our_stage = f'{official}layers.{stage}', f'{ours}stages.{stage}'
        official_block, our_block = f'{official_stage}.blocks.{{i}}', f'{our_stage}.blocks.{{i}}'
        heads = 'abcdefgh'[stage]  # letter for their number
        width, double, triple, four = (f'{factor * 2**stage}C' for factor in (1, 2, 3, 4))
        rows += [
            *weights_and_biases(f'{official_block}.norm1', f'{our_block}.norm1', width, width),
            Row(
                f'{official_block}.attn.relative_position_bias_table',
                f'{our_block}.attn.w_msa.relative_position_bias_table',
                f'W {heads}',
            ),
            Row(
                f'{official_block}.attn.relative_position_index',
                f'{our_block}.attn.w_msa.relative_position_index',
                'N N',
            ),
            *weights_and_biases(
                f'{official_block}.attn.qkv', f'{our_block}.attn.w_msa.qkv', f'{triple} {width}', triple
            ),
            *weights_and_biases(
                f'{official_block}.attn.proj', f'{our_block}.attn.w_msa.proj', f'{width} {width}', width
            ),
            *weights_and_biases(f'{official_block}.norm2', f'{our_block}.norm2', width, width),
            *weights_and_biases(
                f'{official_block}.mlp.fc1', f'{our_block}.ffn.layers.0.0', f'{four} {width}', four
            ),
            *weights_and_biases(
                f'{official_block}.mlp.fc2', f'{our_block}.ffn.layers.1', f'{width} {four}', width
            ),
        ]
        if stage < stages - 1:
            rows += [
                Row(
                    f'{official_stage}.downsample.reduction.weight',
                    f'{our_stage}.downsample.reduction.weight',
                    f'{double} {four}',
                ),
                *weights_and_biases(
                    f'{official_stage}.downsample.norm', f'{our_stage}.downsample.norm', four, four
                ),
            ]
    width = f'{2 ** (stages - 1)}C'
    return [*rows, *weights_and_biases(f'{official}norm', f'{ours}norm{stages - 1}', width, width)]


def _merge_order(tensor: Tensor, to_official: bool) -> Tensor:
    """Reorder the inputs of a patch merging.

    Args:
        tensor: (..., 4C): in the release (corner, channel) with the corners in column-major order, in
            mmpretrain (channel, corner) in row-major order.
        to_official: Direction.
    """
    if tensor.ndim == 0 or tensor.shape[-1] % 4:
        return tensor  # its shape is refused later
    sizes = (-1, 2, 2) if to_official else (2, 2, -1)  # (channel, row, column) or (column, row, channel)
    return (
        tensor.reshape(*tensor.shape[:-1], *(size if size > 0 else tensor.shape[-1] // 4 for size in sizes))
        .transpose(-1, -3)
        .reshape(tensor.shape)
    )


def shift_mask(window: int, size: int) -> Tensor:
    """Attention mask of windows after the cyclic shift by half a window (section 3.2, figure 4).

    Args:
        window: Side of a window.
        size: Side of the square feature map, a multiple of ``window``.

    Returns:
        (windows, window**2, window**2): 0 between positions of the same region, -100 between those of two.
    """
    positions = torch.arange(size)
    regions = (positions >= size - window).long() + (positions >= size - window // 2).long()
    count = size // window
    region = (
        (3 * regions[:, None] + regions)
        .view(count, window, count, window)
        .transpose(1, 2)
        .reshape(count**2, window**2)
    )
    return torch.where(region[:, None, :] != region[:, :, None], -100.0, 0.0)


def adapt_swin(state_dict: Mapping, to_official: bool) -> dict:
    """Reorder the patch mergings, and remove or compute the attention masks. See ``Family.adapt``."""
    if not to_official:
        return {
            key: _merge_order(value, False) if MERGE.fullmatch(key) else value
            for key, value in state_dict.items()
            if not MASK.fullmatch(key)
        }
    last_stage: dict[str, int] = {}
    for first_key in filter(None, map(BLOCK_START.fullmatch, state_dict)):
        stack = first_key['stack']
        last_stage[stack] = max(last_stage.get(stack, 0), int(first_key['stage']))
    released = {}
    for key, value in state_dict.items():
        start = BLOCK_START.fullmatch(key)
        if start and int(start['block']) % 2 and int(start['stage']) < last_stage[start['stack']]:
            block = key.removesuffix('norm1.weight')
            window = (round(len(state_dict[f'{block}attn.relative_position_bias_table']) ** 0.5) + 1) // 2
            stages_below = last_stage[start['stack']] - int(start['stage'])
            released[f'{block}attn_mask'] = shift_mask(window, window * 2**stages_below)
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
