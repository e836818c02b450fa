"""The image encoder and its parts with the signatures of ``segment_anything.modeling.image_encoder``."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.ops.rel_attention import resize_rel_pos
from mmssl.promptable import image_encoder
from mmssl.promptable.image_encoder import SAMImageEncoder

__all__ = [
    'Attention',
    'Block',
    'ImageEncoderViT',
    'PatchEmbed',
    'add_decomposed_rel_pos',
    'get_rel_pos',
    'window_partition',
    'window_unpartition',
]


class ImageEncoderViT(SAMImageEncoder):
    """:class:`SAMImageEncoder` with the defaults of the official class, not those of the released models.

    Args:
        img_size: As in :class:`SAMImageEncoder`, like all that is not listed here.
        norm_layer: Makes the layer norms of the blocks: ``nn.LayerNorm``, or a partial of it with ``eps``.
        act_layer: Class of the activation in the MLPs.
        rel_pos_zero_init: Has no effect, as in the official class: the tables always begin with zeros.

    Raises:
        ValueError: Another norm.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ):
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            out_chans,
            qkv_bias,
            use_abs_pos,
            use_rel_pos,
            window_size,
            global_attn_indexes,
        )
        for block in self.blocks:
            _set_layers(block, embed_dim, norm_layer, act_layer)


class Block(image_encoder.Block):
    """Transformer block with the arguments of the official class.

    Args:
        dim: As in :class:`mmssl.promptable.image_encoder.Block`, like all that is not listed here.
        norm_layer: As in :class:`ImageEncoderViT`.
        act_layer: As in :class:`ImageEncoderViT`.
        rel_pos_zero_init: Has no effect.
        input_size: (rows, columns) of the tokens, needed for relative positions without windows.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ):
        size = (window_size, window_size) if window_size else _attended_size(use_rel_pos, input_size)
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias, use_rel_pos, size, window_size)
        _set_layers(self, dim, norm_layer, act_layer)


class Attention(image_encoder.Attention):
    """Self-attention on a grid of tokens with the arguments of the official class.

    Args:
        dim: As in :class:`mmssl.promptable.image_encoder.Attention`, like all that is not listed here.
        rel_pos_zero_init: Has no effect.
        input_size: (rows, columns) of the tokens, needed for relative positions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ):
        super().__init__(dim, num_heads, qkv_bias, use_rel_pos, _attended_size(use_rel_pos, input_size))


class PatchEmbed(image_encoder.PatchEmbed):
    """Patch embedding with the arguments of the official class, which are those of its convolution."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ):
        nn.Module.__init__(self)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride, padding)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut (B, H, W, C) into windows (B * windows, window_size, window_size, C), row by row.

    Returns:
        The windows, and (height, width) after padding with zeros to multiples of ``window_size``.
    """
    height, width = (-(-length // window_size) * window_size for length in x.shape[1:3])
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
    x = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    return x.transpose(2, 3).flatten(0, 2), (height, width)


def window_unpartition(
    windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]
) -> Tensor:
    """Put windows of :func:`window_partition` together again, without the padding: (B, H, W, C)."""
    grid = (-1, pad_hw[0] // window_size, pad_hw[1] // window_size)
    x = windows.unflatten(0, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : hw[0], : hw[1]].contiguous()


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Vectors (q_size, k_size, D) of a table (L, D) of offsets; the shorter axis is scaled to the longer."""
    table = resize_rel_pos(rel_pos, 2 * max(q_size, k_size) - 1)
    to_query, to_key = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    queries = torch.arange(q_size, device=rel_pos.device)[:, None] * to_query
    keys = torch.arange(k_size, device=rel_pos.device) * to_key
    return table[(queries - keys + (k_size - 1) * to_key).long()]


def add_decomposed_rel_pos(
    attn: Tensor,
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """Add the scores of relative positions to those of queries and keys.

    Args:
        attn: (B, q_h * q_w, k_h * k_w), scores.
        q: (B, q_h * q_w, D), queries.
        rel_pos_h: (L, D), table of offsets between rows.
        rel_pos_w: (L, D), table of offsets between columns.
        q_size: (q_h, q_w).
        k_size: (k_h, k_w).
    """
    queries = q.unflatten(1, q_size)
    by_row = torch.einsum('bhwc,hkc->bhwk', queries, get_rel_pos(q_size[0], k_size[0], rel_pos_h))
    by_column = torch.einsum('bhwc,wkc->bhwk', queries, get_rel_pos(q_size[1], k_size[1], rel_pos_w))
    bias = by_row[..., :, None] + by_column[..., None, :]
    return attn + bias.flatten(3).flatten(1, 2)


def _attended_size(use_rel_pos: bool, input_size: tuple[int, int] | None) -> tuple[int, int]:
    if use_rel_pos and input_size is None:
        raise ValueError('relative positions need input_size=(rows, columns) of the tokens')
    return input_size or (1, 1)


def _set_layers(
    block: image_encoder.Block,
    dim: int,
    norm_layer: Callable[[int], nn.Module],
    act_layer: type[nn.Module],
) -> None:
    """Give a block the epsilon of another layer norm, and another activation."""
    norm = norm_layer(dim)
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError(f'norm_layer makes {type(norm).__name__}; give nn.LayerNorm or a partial of it')
    block.norm1.eps = norm.eps
    block.norm2.eps = norm.eps
    block.mlp.act = act_layer()
