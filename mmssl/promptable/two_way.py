"""The two-way transformer of the mask decoder (Segment Anything, arXiv:2304.02643, appendix A, 'Lightweight mask decoder').

A few tokens and the thousands of cells of a map attend to each other. The projections of the cells cost most
of it; here they are not made:

* Tokens look at the map: a score is (q W_q + b_q)(k W_k + b_k)'. The first factor times W_k' is a vector of
the token, as wide as a cell,
  and b_k adds the same to all scores of a token, which the softmax does not see. The weighted mean of the
  values is taken of the cells and projected afterwards; b_v passes through because weights sum to one.
* The map looks at tokens: W_q goes into the keys of the tokens, W_o into their values.
* The positions of the cells are the same for all prompts: their part of the scores is made from their own
projections.
* What all prompts of an image share, the map before the first layer has changed it, is projected once an
image.

Where a prompt has so many tokens that this costs more, the projections are made after all.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.promptable.common import MLPBlock
from mmssl.promptable.rows import Folded, answer_and_look, look_at


class ImageSide(NamedTuple):
    """What prompts of the same images share. ``I`` images, ``heads`` of ``d`` channels, ``L`` cells.

    Attributes:
        cells: (I, L, C), the map with what the prompt encoder adds where there is no mask; None where every
            prompt has a mask.
        key, value, query: (I, heads, L, d), their projections in the first layer, positions and biases
            included; None without ``cells``.
        places: for each attention between tokens and map, in order, the projected positions (heads, L, d),
            with the bias for queries.
    """

    cells: Tensor | None
    key: Tensor | None
    value: Tensor | None
    query: Tensor | None
    places: list[Tensor]

    def of(self, images: slice) -> 'ImageSide':
        """That of some of the images."""
        cells, key, value, query = (None if part is None else part[images] for part in self[:4])
        return ImageSide(cells, key, value, query, self.places)


class Attention(nn.Module):
    """Attention with four projections, to a smaller width inside.

    Args:
        embedding_dim: width C.
        num_heads: heads.
        downsample_rate: C over the width inside.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1):
        super().__init__()
        self.embedding_dim, self.num_heads = embedding_dim, num_heads
        self.internal_dim = embedding_dim // downsample_rate
        if self.internal_dim % num_heads:
            raise ValueError(
                f'{embedding_dim} channels over {downsample_rate} do not divide into {num_heads} heads'
            )
        self.head_dim = self.internal_dim // num_heads
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.v_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    def heads(self, x: Tensor) -> Tensor:
        """(..., L, heads * d) to (..., heads, L, d)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)

    def join(self, x: Tensor) -> Tensor:
        """(P, heads, T, d) to (P, T, C), projected."""
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def by_head(self, projection: nn.Linear) -> Tensor:
        """Weight of q, k or v as (heads, d, C)."""
        return projection.weight.view(self.num_heads, self.head_dim, -1)

    def folds(self, tokens: int) -> bool:
        """Whether products with cells as wide as they are cost less than projecting the cells."""
        if torch.compiler.is_compiling():
            return True
        return self.num_heads * tokens * self.embedding_dim < self.internal_dim * (
            self.embedding_dim + tokens
        )

    def among_tokens(self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
        """(P, T, C) each; ``valid`` (P, T) marks tokens that are there."""
        query, key, value = (
            self.heads(self.q_proj(query)),
            self.heads(self.k_proj(key)),
            self.heads(self.v_proj(value)),
        )
        return self.join(
            F.scaled_dot_product_attention(query, key, value, None if valid is None else valid[:, None, None])
        )

    def to_shared_image(
        self, query: Tensor, key: Tensor, value: Tensor, image_index: Tensor | None
    ) -> Tensor:
        """Tokens (P, T, C) look at maps that several prompts share: ``key`` and ``value`` (I, heads, L, d)."""
        query = self.heads(self.q_proj(query)) * self.head_dim**-0.5
        if key.shape[0] == 1:  # the tokens of all prompts as rows of one product
            prompts, heads, tokens, _ = query.shape
            rows = query.transpose(0, 1).reshape(1, heads, prompts * tokens, -1)
            seen = (rows @ key.transpose(-2, -1)).softmax(dim=-1) @ value
            return self.join(seen.view(heads, prompts, tokens, -1).transpose(0, 1))
        key, value = (key, value) if image_index is None else (key[image_index], value[image_index])
        return self.join((query @ key.transpose(-2, -1)).softmax(dim=-1) @ value)

    def to_image(self, query: Tensor, cells: Tensor, places: Tensor) -> Tensor:
        """Tokens (P, T, C) look at cells of their own (P, L, C), at projected places (heads, L, d)."""
        prompts, tokens, _ = query.shape
        query = self.heads(self.q_proj(query)) * self.head_dim**-0.5
        if not self.folds(tokens):
            key, value = (
                self.heads(F.linear(cells, self.k_proj.weight)) + places,
                self.heads(self.v_proj(cells)),
            )
            return self.join((query @ key.transpose(-2, -1)).softmax(dim=-1) @ value)
        scores = _times_shared(query, places.transpose(-2, -1)[None]).flatten(1, 2)
        scores = _add_product(
            scores, (query @ self.by_head(self.k_proj)).flatten(1, 2), cells.transpose(1, 2)
        )
        return self.from_seen((scores.softmax(dim=-1) @ cells).view(prompts, self.num_heads, tokens, -1))

    def from_seen(self, seen: Tensor) -> Tensor:
        """Weighted means of cells (P, heads, T, C) to (P, T, C)."""
        value = seen @ self.by_head(self.v_proj).transpose(-2, -1)
        if self.v_proj.bias is not None:
            value = value + self.v_proj.bias.view(self.num_heads, 1, self.head_dim)
        return self.join(value)

    def to_tokens(
        self,
        cells: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor | None,
        places: Tensor | None = None,
        query: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """Cells look at the tokens of their prompt.

        Args:
            cells: (P, L, C), or (I, L, C) where they are shared.
            key, value: (P, T, C).
            valid: (P, T), tokens that are there; None for all.
            places: (heads, L, d), projected, with the bias; or None and
            query: (I, heads, L, d), cells and places projected already.
            image_index: (P,) which of the shared maps, None for the only one or one each.

        Returns:
            (P, L, C): cells plus what they saw.
        """
        prompts, tokens, _ = key.shape
        key = self.heads(self.k_proj(key)) * self.head_dim**-0.5
        value = self.heads(self.v_proj(value))
        own = query is None and not torch.is_grad_enabled()  # cells that nobody else holds
        if query is None:
            assert places is not None
            folds = self.folds(tokens)
            if folds:
                at_places = _times_shared(key, places.transpose(-2, -1)[None]).flatten(1, 2)
                scores = _add_product(
                    at_places, (key @ self.by_head(self.q_proj)).flatten(1, 2), cells.transpose(1, 2)
                )
                scores = scores.view(prompts, self.num_heads, tokens, -1)
            else:
                query = self.heads(F.linear(cells, self.q_proj.weight)) + places
        if query is not None:
            folds = self.folds(tokens)
            shared = query if query.shape[0] == 1 or image_index is None else query[image_index]
            scores = _times_shared(key, shared.transpose(-2, -1))
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, :, None], -math.inf)
        weights = scores.softmax(dim=2)
        if image_index is not None:
            cells = cells[image_index]
        elif cells.shape[0] != prompts:
            cells = cells.expand(prompts, -1, -1)
        if not folds:
            return cells + self.join(weights.transpose(-2, -1) @ value)
        values = self.values_for_cells(value)
        weights = weights.flatten(1, 2).transpose(1, 2)
        if not (cells.dtype == weights.dtype == values.dtype):
            return cells + weights @ values  # autocast casts no sum in place
        return cells.baddbmm_(weights, values) if own else torch.baddbmm(cells, weights, values)

    def values_for_cells(self, value: Tensor) -> Tensor:
        """(P, heads, T, d) to (P, heads * T, C), projected back to the width of a cell."""
        values = value @ self.out_proj.weight.view(-1, self.num_heads, self.head_dim).permute(1, 2, 0)
        # the weights of a head add up to one, so that the bias may be one head's
        return torch.cat((values[:, :1] + self.out_proj.bias, values[:, 1:]), dim=1).flatten(1, 2)

    def folded(self, tokens: Tensor, projection: nn.Linear, other: nn.Linear) -> tuple[Tensor, Tensor]:
        """Queries or keys of tokens (P, T, C), scaled, as (P, heads, T, d), and with ``other``, that of the cells, as (P, heads, T, C)."""
        near = self.heads(projection(tokens)) * self.head_dim**-0.5
        return near, near @ self.by_head(other)


def _times_shared(left: Tensor, right: Tensor) -> Tensor:
    """(P, heads, T, d) times (P or 1, heads, d, L); what is shared is not copied for every prompt, as a product of batches would."""
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or left.device.type != 'cpu'
        or torch.is_grad_enabled()
        or left.dtype != right.dtype
        or torch.is_autocast_enabled('cpu')
        or right.shape[0] == left.shape[0]
    ):
        return left @ right
    out = left.new_empty(*left.shape[:-1], right.shape[-1])
    for one, result in zip(left, out, strict=True):
        torch.bmm(one, right[0], out=result)
    return out


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right`` of batches, in the memory of ``total``, which nobody else may hold."""
    if total.dtype == left.dtype == right.dtype:
        return total.baddbmm_(left, right)
    return total + left @ right  # autocast casts no sum in place


class TwoWayAttentionBlock(nn.Module):
    """Tokens among themselves, tokens to map, MLP of the tokens, map to tokens; a norm after each.

    Args:
        embedding_dim, num_heads, mlp_dim, attention_downsample_rate: sizes.
        first: the first layer's tokens carry their positions already, and their self-attention has no
            residual.
    """

    def __init__(
        self, embedding_dim: int, num_heads: int, mlp_dim: int, attention_downsample_rate: int, first: bool
    ):
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.first = first

    def among_tokens(self, queries: Tensor, points: Tensor, valid: Tensor | None) -> Tensor:
        """Self-attention of the tokens (P, T, C), and its norm; ``points`` are the tokens that came in, used as positions."""
        if self.first:
            return self.norm1(self.self_attn.among_tokens(queries, queries, queries, valid))
        placed = queries + points
        return self.norm1(queries + self.self_attn.among_tokens(placed, placed, queries, valid))


class TwoWayTransformer(nn.Module):
    """Layers of :class:`TwoWayAttentionBlock`, and a last look of the tokens at the map. Arguments as in the official class.

    Args:
        depth: layers.
        embedding_dim, num_heads, mlp_dim, attention_downsample_rate: sizes.
    """

    def __init__(
        self,
        depth: int = 2,
        embedding_dim: int = 256,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        attention_downsample_rate: int = 2,
    ):
        super().__init__()
        if depth < 1:
            raise ValueError(f'depth={depth} of a two-way transformer; give at least 1')
        self.depth, self.embedding_dim, self.num_heads, self.mlp_dim = (
            depth,
            embedding_dim,
            num_heads,
            mlp_dim,
        )
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(embedding_dim, num_heads, mlp_dim, attention_downsample_rate, index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def prepare(
        self, cells: Tensor | None, places: Tensor, projected: list[Tensor] | None = None
    ) -> ImageSide:
        """Project what prompts share.

        Args:
            cells: (I, L, C) maps shared by several prompts; None where every prompt has its own.
            places: (L, C) encoding of the cells' places.
            projected: ``places`` of what this made for other images.
        """

        def lay(attention: Attention, x: Tensor) -> Tensor:  # every prompt multiplies by them
            return attention.heads(x).contiguous()

        key = value = query = None
        first = self.layers[0]
        if cells is not None:
            look, answer, placed = (
                first.cross_attn_token_to_image,
                first.cross_attn_image_to_token,
                cells + places,
            )
            key, value = lay(look, F.linear(placed, look.k_proj.weight)), lay(look, look.v_proj(cells))
            query = lay(answer, answer.q_proj(placed))
        if projected is not None:
            return ImageSide(cells, key, value, query, projected)
        projected = []
        for index, layer in enumerate(self.layers):
            look, answer = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            needed = index > 0 or cells is None
            projected.append(lay(look, F.linear(places, look.k_proj.weight)) if needed else places)
            projected.append(lay(answer, answer.q_proj(places)) if needed else places)
        look = self.final_attn_token_to_image
        projected.append(lay(look, F.linear(places, look.k_proj.weight)))
        return ImageSide(cells, key, value, query, projected)

    def forward(
        self,
        image: ImageSide,
        points: Tensor,
        cells: Tensor | None = None,
        image_index: Tensor | None = None,
        valid: Tensor | None = None,
        wanted: list[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all layers.

        Args:
            image: what :meth:`prepare` made.
            points: (P, T, C) tokens.
            cells: (P, L, C) maps of the prompts, where they have their own.
            image_index: (P,) the shared map of each prompt; None for the only one, or one each.
            valid: (P, T) tokens that are there; None for all.
            wanted: tokens that are asked for; None for all.

        Returns:
            tokens (P, T or len(wanted), C), and maps (P, L, C).
        """
        if (
            image_index is None
            and self.goes_by_rows(image, points, cells)
            and (cells is not None or (image.cells is not None and len(image.cells) == 1))
        ):
            return self.by_rows([image] * len(points), points, cells, valid, wanted)
        queries, shared = points, cells is None
        for index, layer in enumerate(self.layers):
            queries = layer.among_tokens(queries, points, valid)
            look, answer = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            if shared:
                seen = look.to_shared_image(queries + points, image.key, image.value, image_index)
            else:
                seen = look.to_image(queries + points, cells, image.places[2 * index])
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.mlp(queries))
            if shared:
                cells = answer.to_tokens(
                    image.cells, queries + points, queries, valid, query=image.query, image_index=image_index
                )
            else:
                cells = answer.to_tokens(
                    cells, queries + points, queries, valid, places=image.places[2 * index + 1]
                )
            cells, shared = layer.norm4(cells), False
        if wanted is not None:
            queries, points = queries[:, wanted], points[:, wanted]
        seen = self.final_attn_token_to_image.to_image(queries + points, cells, image.places[-1])
        return self.norm_final_attn(queries + seen), cells

    def goes_by_rows(self, image: ImageSide, points: Tensor, cells: Tensor | None) -> bool:
        """Whether :meth:`by_rows` serves tokens (P, T, C)."""
        if (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled('cpu')
            or points.device.type != 'cpu'
            or points.dtype not in (torch.float32, torch.float64)
            or not points.numel()
        ):
            return False
        same = all(
            tensor is None or tensor.dtype == points.dtype
            for tensor in (image.cells, cells, image.places[-1])
        )
        return same and self.final_attn_token_to_image.folds(points.shape[1])

    def by_rows(
        self,
        images: list[ImageSide],
        points: Tensor,
        cells: Tensor | None,
        valid: Tensor | None,
        wanted: list[int] | None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`forward` on the CPU without gradients, the maps prompt after prompt and a few rows at a time (:mod:`.rows`).

        Args:
            images: for each prompt the :class:`ImageSide` of its one image. Where ``query`` is None its map
                is not projected.
            points, cells, valid, wanted: as in :meth:`forward`; ``cells`` are overwritten.
            out: (P, L, C) or more prompts, to write the maps to where ``cells`` is None.

        Returns:
            as :meth:`forward`.
        """
        everything: list[slice | Tensor] = [slice(None)] * len(points)
        there = everything if valid is None else [one.nonzero()[:, 0] for one in valid]
        given = [side.cells[0] for side in images if side.cells is not None] if cells is None else list(cells)
        maps = (
            cells
            if cells is not None
            else points.new_empty(len(points), *given[0].shape)
            if out is None
            else out[: len(points)]
        )
        to, queries = list(maps), self.layers[0].among_tokens(points, points, valid)
        seen = self._first_look(images, queries + points, given, cells is None, there)
        for index, layer in enumerate(self.layers):
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.mlp(queries))
            answer = layer.cross_attn_image_to_token
            key, wide = answer.folded(queries + points, answer.k_proj, answer.q_proj)
            values = answer.values_for_cells(answer.heads(answer.v_proj(queries))).view(wide.shape)
            if index + 1 < self.depth:
                following = self.layers[index + 1]
                queries, asking = following.among_tokens(queries, points, valid), there
                to_image = following.cross_attn_token_to_image
            else:
                to_image, asking = self.final_attn_token_to_image, there
                if wanted is not None:
                    queries, points, asking = queries[:, wanted], points[:, wanted], everything
            query, wide_query = to_image.folded(queries + points, to_image.q_proj, to_image.k_proj)
            means = torch.zeros_like(wide_query)
            for one, side in enumerate(images):
                projected = side.query if cells is None and index == 0 else None
                keys = _of(key, one, there), side.places[2 * index + 1] if projected is None else projected[0]
                asked = Folded(
                    _of(query, one, asking),
                    side.places[2 * index + 2],
                    _of(wide_query, one, asking).flatten(0, 1),
                )
                means[one][:, asking[one]] = answer_and_look(
                    given[one],
                    Folded(*keys, _of(wide, one, there).flatten(0, 1) if projected is None else None),
                    _of(values, one, there).flatten(0, 1),
                    layer.norm4,
                    asked,
                    to[one],
                )
            given = to
            seen = to_image.from_seen(means)
        return self.norm_final_attn(queries + seen), maps

    def _first_look(
        self,
        images: list[ImageSide],
        tokens: Tensor,
        maps: list[Tensor],
        shared: bool,
        there: list[slice | Tensor],
    ) -> Tensor:
        """What the tokens (P, T, C) see in the first layer; ``maps`` (L, C) of the prompts, those of the images where they are shared."""
        attention, seen, start = self.layers[0].cross_attn_token_to_image, [], 0
        while start < len(tokens):
            side, end = images[start], start + 1
            while end < len(tokens) and images[end] is side:
                end += 1
            some = tokens[start:end]
            if shared and side.key is not None:
                seen.append(attention.to_shared_image(some, side.key, side.value, None))
            else:
                near, wide = attention.folded(some, attention.q_proj, attention.k_proj)
                means = torch.zeros_like(wide)
                for one in range(start, end):
                    place, some_there = one - start, there[start:end]
                    asked = Folded(
                        _of(near, place, some_there),
                        side.places[0],
                        _of(wide, place, some_there).flatten(0, 1),
                    )
                    means[place][:, there[one]] = look_at(maps[one], asked)
                seen.append(attention.from_seen(means))
            start = end
        return torch.cat(seen)


def _of(tokens: Tensor, prompt: int, there: list[slice | Tensor]) -> Tensor:
    """(heads, T, d): a prompt's of (P, heads, T, d), without tokens that are not there."""
    return tokens[prompt][:, there[prompt]]
