"""The two-way transformer on the CPU without gradients, in blocks of the image tokens of one prompt.

Between two attentions of the prompt tokens to the image, every image token takes the same steps independently
of the others: scores against the prompt tokens, softmax, a sum of their values, a norm, scores of the next
attention. In blocks of a few hundred tokens all of it stays in the cache, where products are up to twice as
fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssl.promptable.attention import Attention
from mmssl.promptable.fast.folded_attention import (
    fold_values,
    folding_pays,
    head_weights,
    project_means,
    scaled_heads,
    tokens_to_shared_image,
)
from mmssl.promptable.fast.image_context import ImageContext

# image tokens of a block, for each thread
BLOCK = 512


def block_size() -> int:
    """Number of image tokens of a block."""
    return BLOCK * torch.get_num_threads()


class FoldedTokens(NamedTuple):
    """Tokens of one prompt, prepared for scores against blocks of image tokens.

    Attributes:
        near: (heads, T, d) scaled queries or keys, for products with what is projected already.
        projected: (heads, L, d) the other factor: projected positional encodings, or projected image tokens.
        folded: (heads * T, C) the queries or keys with the projection of the image tokens folded in; None if
            ``projected`` includes the image tokens.
    """

    near: Tensor
    projected: Tensor
    folded: Tensor | None

    def scores(self, rows: slice, image: Tensor) -> Tensor:
        """Scores (heads, T, n) of the image tokens (n, C) in ``rows``."""
        scores = torch.bmm(self.near, self.projected[:, rows].transpose(1, 2))
        if self.folded is not None:
            scores.flatten(0, 1).addmm_(self.folded, image.t())
        return scores


def fold(attention: Attention, tokens: Tensor, token_layer: nn.Linear, image_layer: nn.Linear):
    """Scaled projections (P, heads, T, d) of tokens, and (P, heads, T, C) with the image layer folded in."""
    near = scaled_heads(attention, token_layer, tokens)
    return near, near @ head_weights(attention, image_layer)


def attend_to_image(image: Tensor, query: FoldedTokens) -> Tensor:
    """Weighted means (heads, T, C) of the image tokens (L, C) of a prompt."""
    heads, num_tokens, _ = query.near.shape
    scores = image.new_empty(heads * num_tokens, len(image))
    for start in range(0, len(image), block_size()):
        rows = slice(start, start + block_size())
        scores[:, rows] = query.scores(rows, image[rows]).flatten(0, 1)
    return (scores.softmax(dim=1) @ image).view(heads, num_tokens, -1)


def attend_to_tokens_and_back(
    image: Tensor, key: FoldedTokens, values: Tensor, norm: nn.LayerNorm, query: FoldedTokens, out: Tensor
) -> Tensor:
    """Attend from the image tokens of a prompt to its prompt tokens, normalise, and attend back to the image.

    Args:
        image: (L, C) image tokens.
        key: Keys of the prompt tokens.
        values: (heads * T, C) folded values of the prompt tokens.
        norm: Norm of the image tokens.
        query: Queries of the prompt tokens.
        out: (L, C) tensor for the new image tokens; may be ``image``.

    Returns:
        (heads, T, C) weighted means of the new image tokens.
    """
    heads, num_tokens, _ = query.near.shape
    scores = image.new_empty(heads * num_tokens, len(image))
    for start in range(0, len(image), block_size()):
        rows = slice(start, start + block_size())
        before, after = image[rows], out[rows]
        weights = key.scores(rows, before).softmax(dim=1).flatten(0, 1).t()
        if image is out:
            after.addmm_(weights, values)
        else:
            torch.addmm(before, weights, values, out=after)
        normed = norm(after)
        after.copy_(normed)
        scores[:, rows] = query.scores(rows, normed).flatten(0, 1)
    return (scores.softmax(dim=1) @ out).view(heads, num_tokens, -1)


def serves(transformer: nn.Module, points: Tensor, *others: Tensor | None) -> bool:
    """True for prompt tokens (P, T, C) for which folding pays, in float32 or float64 as the other tensors."""
    return (
        points.dtype in (torch.float32, torch.float64)
        and all(tensor is None or tensor.dtype == points.dtype for tensor in others)
        and points.numel() > 0
        and folding_pays(transformer.final_attn_token_to_image, points.shape[1])
    )


def two_way(
    transformer: nn.Module,
    contexts: list[ImageContext],
    points: Tensor,
    image: Tensor | None = None,
    valid: Tensor | None = None,
    requested: list[int] | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the two-way transformer in blocks of image tokens.

    Args:
        transformer: A :class:`mmssl.promptable.two_way.TwoWayTransformer`.
        contexts: For each prompt the context of its image, projected or not.
        points: (P, T, C) prompt tokens.
        image: (P, L, C) image tokens of each prompt, which are overwritten; None if they are those of the
            contexts.
        valid: (P, T) bool, False for padding.
        requested: Indices of the prompt tokens to return; None for all.
        out: (P or more, L, C) tensor for the image tokens if ``image`` is None.

    Returns:
        Prompt tokens (P, T or len(requested), C) and image tokens (P, L, C).
    """
    every: list[slice | Tensor] = [slice(None)] * len(points)
    present = every if valid is None else [row.nonzero()[:, 0] for row in valid]
    if image is None:
        before = [context.tokens[0] for context in contexts if context.tokens is not None]
        image = points.new_empty(len(points), *before[0].shape) if out is None else out[: len(points)]
        projected = [None if context.query is None else context.query[0] for context in contexts]
    else:
        before = list(image)
        projected = [None] * len(points)
        contexts = [context._replace(key=None, value=None) for context in contexts]
    queries = transformer.layers[0].attend_to_tokens(points, points, valid)
    attended = _first_attention(transformer, contexts, queries + points, before, present)
    for index, layer in enumerate(transformer.layers):
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        to_token = layer.cross_attn_image_to_token
        near_key, folded_key = fold(to_token, queries + points, to_token.k_proj, to_token.q_proj)
        values = fold_values(to_token, queries).view(folded_key.shape)
        querying = present
        if index + 1 < transformer.depth:
            following = transformer.layers[index + 1]
            queries = following.attend_to_tokens(queries, points, valid)
            to_image = following.cross_attn_token_to_image
        else:
            to_image = transformer.final_attn_token_to_image
            if requested is not None:
                queries = queries[:, requested]
                points = points[:, requested]
                querying = every
        near_query, folded_query = fold(to_image, queries + points, to_image.q_proj, to_image.k_proj)
        means = torch.zeros_like(folded_query)
        for prompt, context in enumerate(contexts):
            tokens, queried = present[prompt], querying[prompt]
            if projected[prompt] is None:
                folded = folded_key[prompt][:, tokens].flatten(0, 1)
                key = FoldedTokens(near_key[prompt][:, tokens], context.positions[2 * index + 1], folded)
            else:
                key = FoldedTokens(near_key[prompt][:, tokens], projected[prompt], None)
            query = FoldedTokens(
                near_query[prompt][:, queried],
                context.positions[2 * index + 2],
                folded_query[prompt][:, queried].flatten(0, 1),
            )
            means[prompt][:, queried] = attend_to_tokens_and_back(
                before[prompt],
                key,
                values[prompt][:, tokens].flatten(0, 1),
                layer.norm4,
                query,
                image[prompt],
            )
        before = list(image)
        projected = [None] * len(points)
        attended = project_means(to_image, means)
    return transformer.norm_final_attn(queries + attended), image


def _first_attention(
    transformer: nn.Module,
    contexts: list[ImageContext],
    tokens: Tensor,
    image: list[Tensor],
    present: list[slice | Tensor],
) -> Tensor:
    """Attend from prompt tokens (P, T, C) to the image tokens (L, C) of each prompt in the first layer."""
    attention = transformer.layers[0].cross_attn_token_to_image
    attended = []
    start = 0
    while start < len(tokens):
        context = contexts[start]
        end = start + 1
        while end < len(tokens) and contexts[end] is context:
            end += 1
        if context.key is not None and context.value is not None:
            attended.append(tokens_to_shared_image(attention, tokens[start:end], context.key, context.value))
        else:
            near, folded = fold(attention, tokens[start:end], attention.q_proj, attention.k_proj)
            means = torch.zeros_like(folded)
            for row, prompt in enumerate(range(start, end)):
                queried = present[prompt]
                query = FoldedTokens(
                    near[row][:, queried], context.positions[0], folded[row][:, queried].flatten(0, 1)
                )
                means[row][:, queried] = attend_to_image(image[prompt], query)
            attended.append(project_means(attention, means))
        start = end
    return torch.cat(attended)
