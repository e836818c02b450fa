"""The upscaling of the mask decoder by matrix products.

A transposed convolution whose kernel is its stride turns each pixel into four that see no other pixel, so
that it is a matrix product.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.promptable.fast.row_blocks import block_size


def masks_of_tokens(decoder: nn.Module, image: Tensor, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Upscale image tokens four times and multiply them by the vectors of the masks.

    Args:
        decoder: The mask decoder.
        image: (P, h * w, C) image tokens.
        vectors: (P, M, C / 8) mask vectors.
        grid: (h, w).

    Returns:
        Logits (P, M, 4h, 4w).
    """
    height, width = grid
    pixels = _upscale(decoder.output_upscaling, image, vectors, F.gelu)
    return _to_image(pixels, width).reshape(-1, vectors.shape[1], 4 * height, 4 * width)


def masks_of_tokens_in_blocks(
    decoder: nn.Module, image: Tensor, vectors: Tensor, grid: tuple[int, int], out: Tensor | None = None
) -> Tensor:
    """As :func:`masks_of_tokens` for inference on the CPU: a few rows at a time, which stay in the cache.

    Args:
        decoder: The mask decoder.
        image: (P, h * w, C) image tokens.
        vectors: (P, M, C / 8) mask vectors.
        grid: (h, w).
        out: Contiguous (P, M, 4h, 4w) tensor for the result.
    """
    height, width = grid
    if out is None:
        out = image.new_empty(*vectors.shape[:2], 4 * height, 4 * width)
    rows = max(1, block_size() // width)
    for tokens, prompt_vectors, logits in zip(image, vectors, out, strict=True):
        for top in range(0, height, rows):
            block = tokens[None, top * width : (top + rows) * width]
            pixels = _upscale(decoder.output_upscaling, block, prompt_vectors[None], torch.ops.aten.gelu_)
            part = logits[:, 4 * top : 4 * (top + rows)]
            part.view(len(part), -1, 2, 2, width, 2, 2).copy_(_to_image(pixels, width)[0])
    return out


def _upscale(
    upscaling: nn.Module, image: Tensor, vectors: Tensor, gelu: Callable[[Tensor], Tensor]
) -> Tensor:
    """Image tokens (P, N, C) and vectors (P, M, C / 8) to logits (P, M, N * 16), sixteen per token."""
    first, norm, _, second, _ = upscaling
    x = F.linear(image, *_as_product(first)).unflatten(-1, (4, -1))
    x = gelu(norm.channels_last(x))
    x = gelu(F.linear(x, *_as_product(second))).unflatten(-1, (4, -1))
    return vectors @ x.flatten(1, 3).transpose(1, 2)


def _as_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight (4 * D, C) and bias (4 * D,) of the four pixels, row by row, that a pixel becomes."""
    return conv.weight.permute(2, 3, 1, 0).flatten(0, 2), conv.bias.repeat(4)


def _to_image(pixels: Tensor, width: int) -> Tensor:
    """(P, M, N * 16) to (P, M, N / width, 2, 2, width, 2, 2): rows, then columns, each step by step."""
    return pixels.view(*pixels.shape[:2], -1, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
