"""Attention between a few prompt tokens and thousands of image tokens, without projecting the image tokens.

Projecting the image tokens dominates the cost of :mod:`mmssl.promptable.two_way`, so the projection weights
are folded into the prompt tokens instead:

* Token to image: a score is (q W_q + b_q)(k W_k + b_k)'. The first factor times W_k' is a vector per prompt
  token, as wide as an image token; b_k adds the same value to all scores of a prompt token, which the softmax
  cancels. The weighted mean is taken of the image tokens and projected afterwards; b_v passes through because
  the weights sum to one.
* Image to token: W_q is folded into the keys of the prompt tokens and W_o into their values.
* The positional encoding of the image is the same for all prompts: its part of the scores uses projected
  encodings (:class:`mmssl.promptable.fast.image_context.ImageContext`).

Prompts with so many tokens that folding would cost more project the image tokens, as the plain form does.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.promptable.attention import Attention


def folding_pays(attention: Attention, num_tokens: int) -> bool:
    """True if folding needs fewer multiplications than projecting the image tokens."""
    folded = attention.num_heads * num_tokens * attention.embedding_dim
    return folded < attention.internal_dim * (attention.embedding_dim + num_tokens)


def head_weights(attention: Attention, projection: nn.Linear) -> Tensor:
    """Weight of the query, key or value projection as (heads, d, C)."""
    return projection.weight.view(attention.num_heads, -1, attention.embedding_dim)


def scaled_heads(attention: Attention, projection: nn.Linear, tokens: Tensor) -> Tensor:
    """Project tokens (P, T, C) to (P, heads, T, d) and divide by sqrt(d)."""
    heads = attention.separate_heads(projection(tokens))
    return heads * heads.shape[-1] ** -0.5


def tokens_to_shared_image(
    attention: Attention, tokens: Tensor, key: Tensor, value: Tensor, image_index: Tensor | None = None
) -> Tensor:
    """Attend from prompt tokens to images whose projections several prompts share.

    Args:
        attention: The layer.
        tokens: (P, T, C) with their positional encoding.
        key: (I, heads, L, d).
        value: (I, heads, L, d).
        image_index: (P,) the image of each prompt; None for a single image or one for each prompt.

    Returns:
        (P, T, C).
    """
    query = scaled_heads(attention, attention.q_proj, tokens)
    if key.shape[0] == 1:  # one product for the tokens of all prompts
        prompts, heads, num_tokens, _ = query.shape
        rows = query.transpose(0, 1).reshape(1, heads, prompts * num_tokens, -1)
        attended = (rows @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        attended = attended.view(heads, prompts, num_tokens, -1).transpose(0, 1)
    else:
        if image_index is not None:
            key = key[image_index]
            value = value[image_index]
        attended = (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
    return attention.out_proj(attention.recombine_heads(attended))


def tokens_to_image(attention: Attention, tokens: Tensor, image: Tensor, positions: Tensor) -> Tensor:
    """Attend from prompt tokens to the image tokens of their own prompt.

    Args:
        attention: The layer.
        tokens: (P, T, C) with their positional encoding.
        image: (P, L, C) image tokens.
        positions: (heads, L, d) projected positional encoding of the image, without bias.

    Returns:
        (P, T, C).
    """
    query = scaled_heads(attention, attention.q_proj, tokens)
    if not folding_pays(attention, tokens.shape[1]):
        key = attention.separate_heads(F.linear(image, attention.k_proj.weight)) + positions
        value = attention.separate_heads(attention.v_proj(image))
        attended = (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return attention.out_proj(attention.recombine_heads(attended))
    folded = (query @ head_weights(attention, attention.k_proj)).flatten(1, 2)
    scores = torch.baddbmm((query @ positions.transpose(-2, -1)).flatten(1, 2), folded, image.transpose(1, 2))
    means = scores.softmax(dim=-1) @ image
    return project_means(attention, means.unflatten(1, (attention.num_heads, -1)))


def project_means(attention: Attention, means: Tensor) -> Tensor:
    """Project weighted means of image tokens (P, heads, T, C) by the value and output layers to (P, T, C)."""
    value = means @ head_weights(attention, attention.v_proj).transpose(-2, -1)
    value = value + attention.v_proj.bias.view(attention.num_heads, 1, -1)
    return attention.out_proj(attention.recombine_heads(value))


def shared_image_to_tokens(
    attention: Attention,
    image: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    valid: Tensor | None = None,
    image_index: Tensor | None = None,
) -> Tensor:
    """Attend from images that several prompts share to the tokens of each prompt.

    Args:
        attention: The layer.
        image: (I, L, C) image tokens.
        query: (I, heads, L, d) their projection, with positional encoding and bias.
        key: (P, T, C) prompt tokens with their positional encoding.
        value: (P, T, C) prompt tokens.
        valid: (P, T) bool, False for padding.
        image_index: (P,) the image of each prompt; None for a single image or one for each prompt.

    Returns:
        (P, L, C): image tokens plus what they attended to.
    """
    if image_index is not None:
        image = image[image_index]
        query = query[image_index]
    keys = scaled_heads(attention, attention.k_proj, key)
    scores = keys @ query.transpose(-2, -1)
    return _add_attended(attention, image.expand(len(key), -1, -1), scores, value, valid)


def image_to_tokens(
    attention: Attention,
    image: Tensor,
    positions: Tensor,
    key: Tensor,
    value: Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """Attend from the image tokens of each prompt to its prompt tokens.

    Args:
        attention: The layer.
        image: (P, L, C) image tokens.
        positions: (heads, L, d) projected positional encoding of the image, with bias.
        key: (P, T, C) prompt tokens with their positional encoding.
        value: (P, T, C) prompt tokens.
        valid: (P, T) bool, False for padding.

    Returns:
        (P, L, C): image tokens plus what they attended to.
    """
    keys = scaled_heads(attention, attention.k_proj, key)
    if folding_pays(attention, key.shape[1]):
        folded = (keys @ head_weights(attention, attention.q_proj)).flatten(1, 2)
        scores = torch.baddbmm(
            (keys @ positions.transpose(-2, -1)).flatten(1, 2), folded, image.transpose(1, 2)
        ).unflatten(1, (attention.num_heads, -1))
    else:
        query = attention.separate_heads(F.linear(image, attention.q_proj.weight)) + positions
        scores = keys @ query.transpose(-2, -1)
    return _add_attended(attention, image, scores, value, valid)


def fold_values(attention: Attention, tokens: Tensor) -> Tensor:
    """Values of prompt tokens (P, T, C), projected back to the width of an image token: (P, heads * T, C)."""
    value = attention.separate_heads(attention.v_proj(tokens))
    weight = attention.out_proj.weight.view(-1, attention.num_heads, value.shape[-1]).permute(1, 2, 0)
    values = value @ weight
    # the weights of each head sum to one, so that the bias may be added to the values of one head
    return torch.cat((values[:, :1] + attention.out_proj.bias, values[:, 1:]), dim=1).flatten(1, 2)


def _add_attended(
    attention: Attention, image: Tensor, scores: Tensor, value: Tensor, valid: Tensor | None
) -> Tensor:
    """Add values of prompt tokens (P, T, C) to image tokens (P, L, C), by scores (P, heads, T, L)."""
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, :, None], -math.inf)
    weights = scores.softmax(dim=2).transpose(-2, -1)
    if not folding_pays(attention, value.shape[1]):
        values = attention.separate_heads(attention.v_proj(value))
        return image + attention.out_proj(attention.recombine_heads(weights @ values))
    weights = weights.transpose(-2, -1).flatten(1, 2).transpose(1, 2)
    return torch.baddbmm(image, weights, fold_values(attention, value))
