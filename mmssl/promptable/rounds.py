"""Rounds of interactive training (Segment Anything, arXiv:2304.02643, section 3 and appendix A).

The first prompt of a mask is a point in it or a noisy box around it. In later rounds a point is drawn where
the last prediction was wrong, and the last logits become a mask prompt.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.promptable.prompts import (
    boxes_of_present,
    error_points,
    noisy_boxes,
    normal,
    pick_pixels,
    silent_rounds,
    uniform,
)
from mmssl.promptable.targets import Targets


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of N masks, of which the first K have boxes.

    Attributes:
        points: (N, P, 2), x and y in pixels; the first point of a prompt with a box is ignored.
        labels: (N, P).
        boxes: (K, 4).
        masks: (N, 1, 4h, 4w) logits; None in the first round.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None

    def rows(self, rows: slice) -> 'Prompts':
        """Prompts of some of the masks."""
        masks = None if self.masks is None else self.masks[rows]
        return Prompts(self.points[rows], self.labels[rows], self.boxes[rows], masks)


def interactive_losses(
    model: nn.Module, embeddings: Tensor, targets: Targets, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Simulate all rounds and return their losses, see :meth:`mmssl.InteractiveSAM.loss`.

    Args:
        model: A :class:`mmssl.InteractiveSAM`.
        embeddings: (B, C, h, w).
        targets: N masks to train.
        generator: Source of all random numbers; that of torch if None.
    """
    masks, image_index = targets.masks, targets.image_index
    count, device = len(masks), masks.device
    side = model.loss_size or model.prompt_encoder.mask_input_size[0]
    small_targets = reduce_masks(masks, side)
    small_valid = reduce_masks(targets.valid, side)[image_index]
    prompts = first_prompts(masks, targets.num_boxes, generator)
    draw = float(uniform(1, 1, torch.device('cpu'), generator))
    silent = silent_rounds(model.rounds, model.silent_rounds, draw)

    losses: dict[str, Tensor] = {}
    prediction = None
    for index in range(model.rounds):
        if prediction is not None and index not in silent:
            draws = uniform(count, 1, device, generator).squeeze(1)
            pixel, label = error_points(prediction > 0, small_targets, small_valid, draws)
            point = (pixel + 0.5) * (model.img_size / side) - 0.5
            prompts = dataclasses.replace(
                prompts,
                points=torch.cat([prompts.points, point[:, None]], dim=1),
                labels=torch.cat([prompts.labels, label[:, None]], dim=1),
            )
        if index == 0:  # boxes and points apart, since only some of them may be ambiguous
            result = _first_round(model, embeddings, image_index, prompts, small_targets)
        else:
            result = run_round(model, embeddings, image_index, prompts, small_targets, False)
        prompts = dataclasses.replace(prompts, masks=result.pop('logits'))
        prediction = resize_logits(prompts.masks, side)[:, 0]
        for name in ('focal', 'dice', 'iou'):
            mean = result[name].mean() / model.rounds
            losses[f'loss_{name}'] = losses.get(f'loss_{name}', 0.0) + mean
        if index == 0:
            losses['iou_first'] = result['true_iou'].mean()
        elif index == model.rounds - 1:
            losses['iou_last'] = result['true_iou'].mean()
    return losses


def first_prompts(targets: Tensor, num_boxes: int, generator: torch.Generator | None) -> Prompts:
    """Draw a point in every mask (N, S, S), and a noisy box around the first ``num_boxes`` of them."""
    count, size, device = len(targets), targets.shape[-1], targets.device
    pixels = pick_pixels(targets, uniform(count, 1, device, generator).squeeze(1)).float()
    boxes = boxes_of_present(targets[:num_boxes])
    boxes = noisy_boxes(boxes, (size, size), normal(num_boxes, 4, device, generator))
    return Prompts(pixels[:, None], torch.ones(count, 1, dtype=torch.long, device=device), boxes)


def _first_round(
    model: nn.Module, embeddings: Tensor, image_index: Tensor, prompts: Prompts, targets: Tensor
) -> dict[str, Tensor]:
    num_boxes = len(prompts.boxes)
    groups = {'box': slice(0, num_boxes), 'point': slice(num_boxes, len(targets))}
    results = [
        run_round(
            model, embeddings, image_index[rows], prompts.rows(rows), targets[rows], name in model.ambiguous
        )
        for name, rows in groups.items()
        if rows.stop > rows.start
    ]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def run_round(
    model: nn.Module,
    embeddings: Tensor,
    image_index: Tensor,
    prompts: Prompts,
    targets: Tensor,
    multimask: bool,
) -> dict[str, Tensor]:
    """Decode prompts and compare the masks with their targets (N, side, side).

    Returns:
        Losses 'focal', 'dice' and 'iou' (N,); of the most confident mask, 'true_iou' (N,) and 'logits'
        (N, 1, 4h, 4w), without gradients.
    """

    def compute(embeddings, masks):
        sparse, dense = model.encode_prompts(prompts.points, prompts.labels, prompts.boxes, masks)
        logits, ious = model.decode(embeddings, image_index, sparse, dense, multimask)
        return logits, ious, model.mask_losses(resize_logits(logits, targets.shape[-1]), ious, targets)

    if model.checkpoint_rounds:
        logits, ious, losses = checkpoint(compute, embeddings, prompts.masks, use_reentrant=False)
    else:
        logits, ious, losses = compute(embeddings, prompts.masks)
    best = ious.detach().argmax(1)
    rows = torch.arange(len(best), device=best.device)
    losses['true_iou'] = losses.pop('true_ious')[rows, best]
    losses['logits'] = logits.detach()[rows, best][:, None].float()
    return losses


def reduce_masks(masks: Tensor, side: int) -> Tensor:
    """Reduce masks to a smaller square.

    A pixel is set if half of what it covers is; if a mask would vanish, if any of it is.

    Args:
        masks: (N, S, S) bool.
        side: Side of the result in pixels.

    Returns:
        (N, side, side) bool.
    """
    if side == masks.shape[-1] or not len(masks):
        return masks[..., :side, :side]
    fraction = F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0]
    reduced = fraction >= 0.5
    return torch.where(reduced.flatten(1).any(1)[:, None, None], reduced, fraction > 0)


def resize_logits(logits: Tensor, side: int) -> Tensor:
    """Resize logits (N, M, h, w), bilinear, to (N, M, side, side)."""
    if logits.shape[-1] == side:
        return logits
    return F.interpolate(logits.float(), (side, side), mode='bilinear', align_corners=False)
