"""The mask decoder with folded attention, all prompts at once; on every device, also in training."""

import torch
from torch import Tensor, nn

from mmssl.promptable.fast.folded_attention import (
    image_to_tokens,
    shared_image_to_tokens,
    tokens_to_image,
    tokens_to_shared_image,
)
from mmssl.promptable.fast.image_context import (
    ImageContext,
    has_stock_layers,
    image_context,
    image_tokens,
    shares_dense_embedding,
)
from mmssl.promptable.fast.upscaling import masks_of_tokens


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
    grid = image_embeddings.shape[-2:]
    image = dense = None
    if shares_dense_embedding(dense_prompt_embeddings):
        dense = dense_prompt_embeddings[:1]
    else:
        embeddings = image_embeddings if image_index is None else image_embeddings[image_index]
        image = image_tokens(embeddings, dense_prompt_embeddings)
        image_index = None
    context = image_context(decoder.transformer, image_embeddings, image_pe, dense)
    indices = list(range(decoder.num_mask_tokens)[mask_slice])
    requested = requested_tokens(indices)
    out, image = two_way(decoder.transformer, context, tokens, image, image_index, valid, requested)
    masks = masks_of_tokens(decoder, image, mask_vectors(decoder, out, indices), grid)
    return masks, decoder.iou_prediction_head(out[:, 0])[:, mask_slice]


def requested_tokens(mask_indices: list[int]) -> list[int]:
    """Indices of the IoU token and of the mask tokens of some masks."""
    return [0, *(1 + index for index in mask_indices)]


def mask_vectors(decoder: nn.Module, tokens: Tensor, mask_indices: list[int]) -> Tensor:
    """Mask vectors (P, M, C / 8) of the hypernetworks, from the :func:`requested_tokens` (P, 1 + M, C)."""
    return torch.stack(
        [
            decoder.output_hypernetworks_mlps[mask](tokens[:, 1 + index])
            for index, mask in enumerate(mask_indices)
        ],
        dim=1,
    )


def two_way(
    transformer: nn.Module,
    context: ImageContext,
    points: Tensor,
    image: Tensor | None = None,
    image_index: Tensor | None = None,
    valid: Tensor | None = None,
    requested: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the two-way transformer with folded attention.

    Args:
        transformer: A :class:`mmssl.promptable.two_way.TwoWayTransformer`.
        context: Context of the images.
        points: (P, T, C) prompt tokens.
        image: (P, L, C) image tokens of each prompt; None if they are those of the context.
        image_index: (P,) the image of each prompt in the context; None for a single image or one for each
            prompt.
        valid: (P, T) bool, False for padding.
        requested: Indices of the prompt tokens to return; None for all.

    Returns:
        Prompt tokens (P, T or len(requested), C) and image tokens (P, L, C).
    """
    queries = points
    for index, layer in enumerate(transformer.layers):
        to_image = layer.cross_attn_token_to_image
        to_token = layer.cross_attn_image_to_token
        queries = layer.attend_to_tokens(queries, points, valid)
        if image is None:
            attended = tokens_to_shared_image(
                to_image, queries + points, context.key, context.value, image_index
            )
        else:
            attended = tokens_to_image(to_image, queries + points, image, context.positions[2 * index])
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        if image is None:
            image = shared_image_to_tokens(
                to_token, context.tokens, context.query, queries + points, queries, valid, image_index
            )
        else:
            positions = context.positions[2 * index + 1]
            image = image_to_tokens(to_token, image, positions, queries + points, queries, valid)
        image = layer.norm4(image)
    if requested is not None:
        # a list as an index would be copied to the device, which waits for it
        queries = torch.stack([queries[:, token] for token in requested], dim=1)
        points = torch.stack([points[:, token] for token in requested], dim=1)
    final = transformer.final_attn_token_to_image
    attended = tokens_to_image(final, queries + points, image, context.positions[-1])
    return transformer.norm_final_attn(queries + attended), image
