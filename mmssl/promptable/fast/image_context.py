"""What the prompts of an image share in the mask decoder: projected once, and kept between calls."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mmssl.layers.module_state import Snapshot, has_hooks
from mmssl.ops.precision import autocast_dtype
from mmssl.ops.switch import inference
from mmssl.promptable.attention import Attention
from mmssl.promptable.common import LayerNorm2d
from mmssl.promptable.two_way import TwoWayAttentionBlock, TwoWayTransformer


class ImageContext(NamedTuple):
    """Image tokens and their projections in the first layer, for I images of L tokens with C channels.

    Attributes:
        tokens: (I, L, C), image embedding plus the dense embedding that all prompts share; None if every
            prompt has its own.
        key, value, query: (I, heads, L, d), projections in the first layer, with positional encoding and
            biases; None if the tokens are not projected.
        positions: (heads, L, d) projected positional encodings: of each layer the keys (token to image) and
            the queries with bias (image to token), then the keys of the final attention.
    """

    tokens: Tensor | None
    key: Tensor | None
    value: Tensor | None
    query: Tensor | None
    positions: list[Tensor]


class _Remembered(NamedTuple):
    """A context and copies of all that it was computed from."""

    inputs: Snapshot
    settings: tuple
    context: ImageContext


_contexts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def has_stock_layers(decoder: nn.Module) -> bool:
    """True if every layer whose weights the fast forms read is as the plain form built it.

    Layers that were exchanged (adapters, low-rank updates, quantisation), parametrised, or given hooks or a
    ``forward`` of their own run in the plain form.
    """
    transformer = decoder.transformer
    if type(transformer) is not TwoWayTransformer:
        return False
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    linears = [
        linear
        for layer in attentions
        for linear in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj)
    ]
    return (
        all(type(layer) is Attention for layer in attentions)
        and all(type(linear) is nn.Linear for linear in linears)
        and all(type(block) is TwoWayAttentionBlock for block in transformer.layers)
        and _upscales_as_built(decoder.output_upscaling)
        and not has_hooks(transformer)
    )


def _upscales_as_built(upscaling: nn.Module) -> bool:
    expected = [nn.ConvTranspose2d, LayerNorm2d, nn.GELU, nn.ConvTranspose2d, nn.GELU]
    layers = list(upscaling.children())
    return (
        [type(layer) for layer in layers] == expected
        and all(layer.approximate == 'none' for layer in layers[2::2])
        and all(layer.kernel_size == layer.stride == (2, 2) for layer in layers[::3])
        and not has_hooks(upscaling)
    )


def shares_dense_embedding(dense: Tensor) -> bool:
    """True if all prompts share one dense embedding; the prompt encoder expands it if none has a mask."""
    return dense.shape[0] == 1 or dense.stride(0) == 0


def image_tokens(image_embeddings: Tensor, dense: Tensor) -> Tensor:
    """Sum of image and dense embeddings, each (I or 1, C, h, w), as tokens (I, h * w, C)."""
    return (image_embeddings + dense).flatten(2).transpose(1, 2).contiguous()


def position_tokens(image_pe: Tensor) -> Tensor:
    """(1, C, h, w) to (h * w, C)."""
    return image_pe[0].flatten(1).t().contiguous()


def project_positions(transformer: nn.Module, positions: Tensor) -> list[Tensor]:
    """Project the positional encoding (L, C) of the image, see :class:`ImageContext`."""
    projected = []
    for layer in transformer.layers:
        to_image = layer.cross_attn_token_to_image
        to_token = layer.cross_attn_image_to_token
        projected.append(_heads(to_image, F.linear(positions, to_image.k_proj.weight)))
        projected.append(_heads(to_token, to_token.q_proj(positions)))
    final = transformer.final_attn_token_to_image
    projected.append(_heads(final, F.linear(positions, final.k_proj.weight)))
    return projected


def project_image(
    transformer: nn.Module, tokens: Tensor, positions: Tensor, projected: list[Tensor]
) -> ImageContext:
    """Project image tokens (I, L, C) with the positional encoding (L, C), whose own projections are given."""
    to_image = transformer.layers[0].cross_attn_token_to_image
    to_token = transformer.layers[0].cross_attn_image_to_token
    with_positions = tokens + positions
    return ImageContext(
        tokens,
        _heads(to_image, F.linear(with_positions, to_image.k_proj.weight)),
        _heads(to_image, to_image.v_proj(tokens)),
        _heads(to_token, to_token.q_proj(with_positions)),
        projected,
    )


def image_context(
    transformer: nn.Module, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor | None
) -> ImageContext:
    """Return the context of images, computed anew only if something that it depends on has changed its value.

    The context of a single image is kept for as long as its embedding is alive. What it depends on is
    copied and compared by value, a small part of the cost of one prompt: writes in place or through ``.data``
    cannot leave a stale result.

    Args:
        transformer: A :class:`TwoWayTransformer`.
        image_embeddings: (I, C, h, w).
        image_pe: (1, C, h, w).
        dense: (1, C, h, w) dense embedding that all prompts share; None if every prompt has its own.
    """
    keep = dense is not None and len(image_embeddings) == 1 and inference([image_embeddings])
    if not keep:
        return _compute(transformer, image_embeddings, image_pe, dense)
    assert dense is not None
    inputs = [image_embeddings, image_pe, dense, *_weights(transformer)]
    settings = (transformer.num_heads, autocast_dtype(image_embeddings.device.type))
    known = _contexts.get(image_embeddings)
    if known is None or known.settings != settings or not known.inputs.matches(inputs):
        context = _compute(transformer, image_embeddings, image_pe, dense)
        known = _Remembered(Snapshot(inputs), settings, context)
        _contexts[image_embeddings] = known
    return known.context


def _compute(
    transformer: nn.Module, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor | None
) -> ImageContext:
    positions = position_tokens(image_pe)
    projected = project_positions(transformer, positions)
    if dense is None:
        return ImageContext(None, None, None, None, projected)
    return project_image(transformer, image_tokens(image_embeddings, dense), positions, projected)


def _weights(transformer: nn.Module) -> list[Tensor]:
    """All weights that a context depends on."""
    weights = [transformer.final_attn_token_to_image.k_proj.weight]
    for layer in transformer.layers:
        query = layer.cross_attn_image_to_token.q_proj
        weights += [layer.cross_attn_token_to_image.k_proj.weight, query.weight, query.bias]
    value = transformer.layers[0].cross_attn_token_to_image.v_proj
    return [*weights, value.weight, value.bias]


def _heads(attention: Attention, x: Tensor) -> Tensor:
    return attention.separate_heads(x).contiguous()
