"""Masks of prompts whose predicted IoU is high."""

import torch
from torch import Tensor, nn

from mmssl.ops.switch import fast_form, inference


@fast_form('mmssl.promptable.fast.confident_masks:confident_masks', when=inference)
def confident_masks(
    decoder: nn.Module,
    image_embeddings: Tensor,
    image_pe: Tensor,
    sparse_prompt_embeddings: Tensor,
    dense_prompt_embeddings: Tensor,
    min_iou: float | None,
) -> tuple[Tensor, Tensor]:
    """Decode prompts on one image and return the masks whose predicted IoU is high.

    Args:
        decoder: See :class:`mmssl.promptable.protocols.MaskDecoder`.
        image_embeddings: (1, C, h, w).
        image_pe: (1, C, h, w).
        sparse_prompt_embeddings: (P, T, C).
        dense_prompt_embeddings: (1, C, h, w).
        min_iou: The predicted IoU must be higher; None for all masks.

    Returns:
        Logits (K, 4h, 4w) of these masks, in the order of the prompts, and predicted IoU (P, M) of all masks.
    """
    logits, ious = decoder(
        image_embeddings=image_embeddings,
        image_pe=image_pe,
        sparse_prompt_embeddings=sparse_prompt_embeddings,
        dense_prompt_embeddings=dense_prompt_embeddings,
        multimask_output=True,
    )
    return logits[confidence_mask(ious, min_iou)], ious


def confidence_mask(ious: Tensor, min_iou: float | None) -> Tensor:
    """(P, M) bool: the predicted IoU (P, M) is higher than ``min_iou``; all True if that is None."""
    return torch.ones_like(ious, dtype=torch.bool) if min_iou is None else ious.float() > min_iou
