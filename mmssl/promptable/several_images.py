"""Prompts of several images, with any number of points each, in one call of the mask decoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.promptable.protocols import batches_images


class PromptGroup(NamedTuple):
    """Prompts of one image with the same number of points.

    Attributes:
        image: Index of the image.
        points: Coordinates (P, N, 2) and labels (P, N), or None.
        boxes: (P, 4), or None.
        masks: (P, 1, 4h, 4w), or None.
    """

    image: int
    points: tuple[Tensor, Tensor] | None
    boxes: Tensor | None
    masks: Tensor | None


def group_prompts(image: int, record: dict[str, Any]) -> list[PromptGroup]:
    """Split the prompts of an image, see :meth:`mmssl.SAM.decode`, by their number of points."""
    coords, labels = record.get('point_coords'), record.get('point_labels')
    boxes, masks = record.get('boxes'), record.get('mask_inputs')
    if (coords is None) != (labels is None):
        raise ValueError(f'image {image}: point_coords and point_labels come together')
    if coords is None or labels is None or isinstance(coords, Tensor):
        return [PromptGroup(image, None if coords is None else (coords, labels), boxes, masks)]
    if len(coords) != len(labels):
        raise ValueError(f'image {image}: {len(coords)} prompts of points have {len(labels)} of labels')
    return [
        PromptGroup(
            image,
            (coords[row][None], labels[row][None]),
            None if boxes is None else boxes[row : row + 1],
            None if masks is None else masks[row : row + 1],
        )
        for row in range(len(coords))
    ]


def decode_prompts(
    model: nn.Module, image_embeddings: Tensor, prompts: Sequence[dict[str, Any]], multimask_output: bool
) -> list[tuple[Tensor, Tensor]]:
    """Decode the prompts of several images; see :meth:`mmssl.SAM.decode`."""
    groups = [group for image, record in enumerate(prompts) for group in group_prompts(image, record)]
    encoded = [model.prompt_encoder(points=g.points, boxes=g.boxes, masks=g.masks) for g in groups]
    image_pe = model.prompt_encoder.get_dense_pe()
    if batches_images(model.mask_decoder):
        sparse, valid = pad_tokens([sparse for sparse, _ in encoded])
        if any(group.masks is not None for group in groups):
            dense = torch.cat([dense for _, dense in encoded])
        else:  # the same for all prompts
            dense = next((dense[:1] for _, dense in encoded if len(dense)), encoded[0][1])
        sizes = [len(sparse) for sparse, _ in encoded]
        index = torch.tensor([group.image for group in groups], device=sparse.device)
        index = index.repeat_interleave(torch.tensor(sizes, device=sparse.device))
        logits, iou = model.mask_decoder(
            image_embeddings,
            image_pe,
            sparse,
            dense,
            multimask_output,
            image_index=None if len(image_embeddings) == 1 else index,
            sparse_valid=valid,
        )
        results = list(zip(logits.split(sizes), iou.split(sizes), strict=True))
    else:
        results = [
            model.mask_decoder(
                image_embeddings[group.image : group.image + 1], image_pe, sparse, dense, multimask_output
            )
            for group, (sparse, dense) in zip(groups, encoded, strict=True)
        ]
    outputs = []
    for image in range(len(prompts)):
        parts = [result for group, result in zip(groups, results, strict=True) if group.image == image]
        outputs.append((torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])))
    return outputs


def pad_tokens(sparse: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad prompt tokens (P_i, T_i, C) to the longest.

    Returns:
        Tokens (P, T, C), and (P, T) bool, False for padding; None if nothing was padded.
    """
    length = max(tokens.shape[1] for tokens in sparse)
    padded = torch.cat([F.pad(tokens, (0, 0, 0, length - tokens.shape[1])) for tokens in sparse])
    if all(tokens.shape[1] == length for tokens in sparse):
        return padded, None
    valid = [torch.arange(length, device=padded.device) < tokens.shape[1] for tokens in sparse]
    return padded, torch.cat([row.expand(len(tokens), -1) for row, tokens in zip(valid, sparse, strict=True)])


def decode_by_index(
    decoder: nn.Module,
    image_embeddings: Tensor,
    image_pe: Tensor,
    sparse: Tensor,
    dense: Tensor,
    multimask_output: bool,
    image_index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Decode prompts of several images by any mask decoder.

    Args:
        decoder: See :class:`mmssl.promptable.protocols.MaskDecoder`.
        image_embeddings: (B, C, h, w).
        image_pe: (1, C, h, w).
        sparse: (P, T, C).
        dense: (P, C, h, w), or (1, C, h, w) if no prompt has a mask.
        multimask_output: Return the masks for ambiguous prompts instead of the single mask.
        image_index: (P,) int64, the image of each prompt.

    Returns:
        Logits (P, M, 4h, 4w) and predicted IoU (P, M).
    """
    if len(image_embeddings) == 1:
        return decoder(image_embeddings, image_pe, sparse, dense, multimask_output)
    if batches_images(decoder):
        return decoder(image_embeddings, image_pe, sparse, dense, multimask_output, image_index=image_index)
    logits, ious, order = [], [], []
    for image in image_index.unique().tolist():
        rows = (image_index == image).nonzero()[:, 0]
        own = dense if len(dense) == 1 else dense[rows]
        masks, iou = decoder(
            image_embeddings[image : image + 1], image_pe, sparse[rows], own, multimask_output
        )
        logits.append(masks)
        ious.append(iou)
        order.append(rows)
    inverse = torch.cat(order).argsort()
    return torch.cat(logits)[inverse], torch.cat(ious)[inverse]
