"""The mask decoder on the CPU without gradients: so few prompts at a time that they stay in the cache."""

import collections

from torch import Tensor, nn

from mmssl.promptable.fast import batched_decoder, row_blocks
from mmssl.promptable.fast.batched_decoder import mask_vectors, requested_tokens
from mmssl.promptable.fast.image_context import (
    ImageContext,
    has_stock_layers,
    image_context,
    image_tokens,
    position_tokens,
    project_image,
    shares_dense_embedding,
)
from mmssl.promptable.fast.upscaling import masks_of_tokens_in_blocks

# prompts that are decoded at a time
PROMPTS = 4
# prompts of an image for which projecting it pays, if the positional encodings are projected anyway
MIN_PROMPTS_TO_PROJECT = 3


def predict_masks(  # noqa: PLR0913  the arguments of the plain form
    decoder: nn.Module,
    image_embeddings: Tensor,
    image_pe: Tensor,
    sparse_prompt_embeddings: Tensor,
    dense_prompt_embeddings: Tensor,
    mask_slice: slice = slice(None),
    image_index: Tensor | None = None,
    sparse_valid: Tensor | None = None,
):
    """Fast form of :meth:`mmssl.promptable.SAMMaskDecoder.predict_masks`."""
    if not len(sparse_prompt_embeddings) or not has_stock_layers(decoder):
        return NotImplemented
    tokens, valid = decoder.add_output_tokens(sparse_prompt_embeddings, sparse_valid)
    prompts, grid = len(tokens), image_embeddings.shape[-2:]
    if image_index is not None:
        index = image_index.tolist()
    else:
        index = list(range(prompts)) if len(image_embeddings) > 1 else [0] * prompts
    shared = shares_dense_embedding(dense_prompt_embeddings)
    dense = dense_prompt_embeddings[:1] if shared else None
    in_blocks = row_blocks.serves(decoder.transformer, tokens, image_embeddings, dense_prompt_embeddings)
    contexts = ImageContexts(decoder.transformer, image_embeddings, image_pe, dense, index, in_blocks)
    mask_indices = list(range(decoder.num_mask_tokens)[mask_slice])
    requested = requested_tokens(mask_indices)
    logits = tokens.new_empty(prompts, len(mask_indices), 4 * grid[0], 4 * grid[1])
    iou = tokens.new_empty(prompts, len(mask_indices))
    buffer = None
    if in_blocks and shared:
        buffer = tokens.new_empty(min(prompts, PROMPTS), grid[0] * grid[1], decoder.transformer_dim)
    for rows in chunks(index, same_image=not in_blocks and shared):
        points, present = without_padding(tokens[rows], None if valid is None else valid[rows])
        images = index[rows]
        image = None
        if not shared:
            embeddings = image_embeddings[images if len(set(images)) > 1 else images[:1]]
            image = image_tokens(embeddings, dense_prompt_embeddings[rows])
        if in_blocks:
            sides = [contexts.of(index_of_image) for index_of_image in images]
            out, image = row_blocks.two_way(
                decoder.transformer, sides, points, image, present, requested, buffer
            )
        else:
            context = contexts.of(images[0])
            out, image = batched_decoder.two_way(
                decoder.transformer, context, points, image, None, present, requested
            )
        masks_of_tokens_in_blocks(
            decoder, image, mask_vectors(decoder, out, mask_indices), grid, logits[rows]
        )
        iou[rows] = decoder.iou_prediction_head(out[:, 0])[:, mask_indices]
    return logits, iou


class ImageContexts:
    """Contexts of several images, each computed once if the prompts come in the order of the images.

    Args:
        transformer: A :class:`mmssl.promptable.two_way.TwoWayTransformer`.
        image_embeddings: (B, C, h, w).
        image_pe: (1, C, h, w).
        dense: (1, C, h, w) dense embedding that all prompts share; None if every prompt has its own.
        index: Image of each prompt.
        may_skip_projection: Leave images unprojected that have few prompts.
    """

    def __init__(
        self,
        transformer: nn.Module,
        image_embeddings: Tensor,
        image_pe: Tensor,
        dense: Tensor | None,
        index: list[int],
        may_skip_projection: bool,
    ):
        self.transformer = transformer
        self.image_embeddings = image_embeddings
        self.dense = dense
        self.prompt_counts = collections.Counter(index)
        self.may_skip_projection = may_skip_projection
        self.positions = position_tokens(image_pe)
        self.last_image = -1
        if dense is not None and len(self.prompt_counts) == 1:
            first = index[0]
            if len(image_embeddings) > 1:
                image_embeddings = image_embeddings[first : first + 1]
            self.last_context = image_context(transformer, image_embeddings, image_pe, dense)
            self.last_image = first
        else:
            self.last_context = image_context(transformer, image_embeddings, image_pe, None)

    def of(self, image: int) -> ImageContext:
        """Context of an image."""
        if self.dense is None or image == self.last_image:
            return self.last_context
        projected = self.last_context.positions
        tokens = image_tokens(self.image_embeddings[image : image + 1], self.dense)
        if self.may_skip_projection and self.prompt_counts[image] < MIN_PROMPTS_TO_PROJECT:
            context = ImageContext(tokens, None, None, None, projected)
        else:
            context = project_image(self.transformer, tokens, self.positions, projected)
        self.last_image = image
        self.last_context = context
        return context


def chunks(index: list[int], same_image: bool) -> list[slice]:
    """Runs of at most ``PROMPTS`` prompts, in order; each of one image only if ``same_image``."""
    starts = [0]
    for prompt in range(1, len(index)):
        full = prompt - starts[-1] == PROMPTS
        if full or (same_image and index[prompt] != index[prompt - 1]):
            starts.append(prompt)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(index)], strict=True)]


def without_padding(tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Tokens (P, T, C) and their validity (P, T), without tokens that are valid for no prompt."""
    if valid is None:
        return tokens, None
    used = valid.any(dim=0)
    present = valid[:, used]
    return tokens[:, used], None if present.all() else present
