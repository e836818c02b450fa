"""Masks of many prompts on one image whose predicted IoU is high: others are not upscaled."""

import torch
from torch import Tensor, nn

from mmssl.ops.switch import cpu_inference
from mmssl.promptable.checks import check_decoder_outputs
from mmssl.promptable.confident_masks import confidence_mask
from mmssl.promptable.fast import batched_decoder, row_blocks
from mmssl.promptable.fast.batched_decoder import mask_vectors, requested_tokens
from mmssl.promptable.fast.cpu_decoder import PROMPTS
from mmssl.promptable.fast.image_context import has_stock_layers, image_context
from mmssl.promptable.fast.upscaling import masks_of_tokens, masks_of_tokens_in_blocks
from mmssl.promptable.mask_decoder import SAMMaskDecoder


def confident_masks(
    decoder: nn.Module,
    image_embeddings: Tensor,
    image_pe: Tensor,
    sparse_prompt_embeddings: Tensor,
    dense_prompt_embeddings: Tensor,
    min_iou: float | None,
):
    """Fast form of :func:`mmssl.promptable.confident_masks.confident_masks`."""
    if type(decoder) is not SAMMaskDecoder or len(image_embeddings) != 1 or not has_stock_layers(decoder):
        return NotImplemented
    if not len(sparse_prompt_embeddings) or len(dense_prompt_embeddings) != 1:
        return NotImplemented
    transformer, grid = decoder.transformer, image_embeddings.shape[-2:]
    context = image_context(transformer, image_embeddings, image_pe, dense_prompt_embeddings)
    mask_indices = list(range(1, decoder.num_mask_tokens))
    requested = requested_tokens(mask_indices)
    on_cpu = cpu_inference([sparse_prompt_embeddings, image_embeddings])
    logits = [sparse_prompt_embeddings.new_zeros(0, 4 * grid[0], 4 * grid[1])]
    ious = []
    for sparse in sparse_prompt_embeddings.split(PROMPTS if on_cpu else len(sparse_prompt_embeddings)):
        tokens, _ = decoder.add_output_tokens(sparse, None)
        if on_cpu and row_blocks.serves(transformer, tokens, image_embeddings, dense_prompt_embeddings):
            contexts = [context] * len(tokens)
            out, image = row_blocks.two_way(transformer, contexts, tokens, requested=requested)
        else:
            out, image = batched_decoder.two_way(transformer, context, tokens, requested=requested)
        iou = decoder.iou_prediction_head(out[:, 0])[:, 1:]
        confident = confidence_mask(iou, min_iou)
        prompts = confident.any(dim=1)
        vectors = mask_vectors(decoder, out, mask_indices)
        if not prompts.all():
            image, vectors, confident = image[prompts], vectors[prompts], confident[prompts]
        if len(image):
            upscale = masks_of_tokens_in_blocks if on_cpu else masks_of_tokens
            logits.append(upscale(decoder, image, vectors, grid)[confident])
        ious.append(iou)
    results = torch.cat(logits), torch.cat(ious)
    check_decoder_outputs(*results)
    return results
