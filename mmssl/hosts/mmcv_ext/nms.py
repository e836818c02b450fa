"""Non-maximum suppression with the arguments of mmcv's compiled operators."""

import math

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that remain, best first.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: A box is removed if its overlap with a better one is greater.
        offset: 1 if a box of one pixel has x1 = x2, else 0.

    Returns:
        (M,) int64.
    """
    import torchvision

    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    # sorted as in the compiled operator: torchvision's own order differs among ties
    order = scores.sort(descending=True)[1]
    ranked = as_float32(boxes)[order]
    if offset:
        ranked = torch.cat([ranked[:, :2], ranked[:, 2:] + offset], dim=1)
    ranks = torch.arange(len(order), 0, -1, dtype=ranked.dtype, device=ranked.device)
    # torchvision compares in double, the compiled operator in the type of the boxes: an overlap of exactly
    # the threshold must remain
    threshold = torch.tensor(iou_threshold, dtype=ranked.dtype).item()
    return order[torchvision.ops.nms(ranked, ranks, threshold)]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every box that remains with those that it suppresses.

    Args:
        dets: (N, 5) as x1, y1, x2, y2, score, on the CPU.
        iou_threshold: A box joins the group of a better one if their overlap is at least this.

    Returns:
        Indices of each group, best first.
    """
    boxes = as_float32(dets[:, :4])
    rest = dets[:, 4].sort(descending=True)[1]
    groups = []
    while len(rest):
        joins = _overlap(boxes[rest[0]], boxes[rest], 0) >= iou_threshold
        joins[0] = True  # also without area or at a threshold above 1
        groups.append(rest[joins].tolist())
        rest = rest[~joins]
    return groups


def softnms(  # noqa: PLR0913  mmcv's signature
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (arXiv:1704.04503): lower the scores of boxes that overlap a better one.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2, on the CPU.
        scores: (N,).
        dets: (N, 5), filled with the M boxes that remain and their new scores.
        iou_threshold: Overlap from which on a score decays (naive, linear).
        sigma: Width of the Gaussian.
        min_score: Boxes with lower scores are removed.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: As in :func:`nms`.

    Returns:
        (M,) int64, indices of the boxes, best first.
    """
    order = torch.arange(len(boxes))
    current = scores.clone()
    count = 0
    while count < len(order):
        scores = current[order[count:]]
        # a box without area that overlaps another such box has NaN, which is never greater
        best = count + (0 if scores[0].isnan() else int(scores.nan_to_num(nan=-math.inf).argmax()))
        order[[count, best]] = order[[best, count]]
        chosen, rest = order[count], order[count + 1 :]
        dets[count, :4] = boxes[chosen]
        dets[count, 4] = current[chosen]
        overlap = _overlap(boxes[chosen], boxes[rest], offset)
        if method == 2:
            weight = torch.exp(-(overlap * overlap) / sigma)
        else:
            weight = torch.where(overlap >= iou_threshold, 0 if method == 0 else 1 - overlap, 1)
        current[rest] *= weight
        count += 1
        order = torch.cat([order[:count], _close_gaps(rest, ~(current[rest] < min_score))])
    return order


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Non-maximum suppression of lanes (CLRNet, arXiv:2203.10350) by their distance.

    Args:
        boxes: (N, 5 + R), lanes: the third entry is the first of R rows of points, from 0 to 1, the fifth the
            number of points, the others from the sixth on the columns of the points.
        scores: (N,).
        thresh: A lane is removed if its mean distance from a better one, over the rows that both have, is
            smaller.
        top_k: Number of lanes that remain at most.

    Returns:
        (N,) int64, indices of the lanes that remain, best first, and zeros; their number; and (N,) int64, for
        each lane the number, from 1 on, of the last one that is near, or its own, 0 for none.
    """
    lanes = as_float32(boxes)
    rows = lanes.shape[1] - 5
    start = (lanes[:, 2] * (rows - 1) + 0.5).long()
    end = (start + lanes[:, 4].long() - 1).clamp(max=rows - 1)
    keep, parent = torch.zeros_like(start), torch.zeros_like(start)
    order = scores.sort(descending=True)[1]
    removed = torch.zeros_like(start, dtype=torch.bool)
    row = torch.arange(rows, device=lanes.device)
    count = 0
    for position in range(len(order)):
        if count == top_k or removed[position]:
            continue
        # The compiled operator compares the lane at this position of the input, not of the order: the same
        # for lanes that are sorted already.
        others = order[position + 1 :]
        first, last = torch.maximum(start[position], start[others]), torch.minimum(end[position], end[others])
        shared = (row >= first[:, None]) & (row <= last[:, None])
        distance = ((lanes[others, 5:] - lanes[position, 5:]).abs() * shared).sum(1)
        near = (last >= first) & (first >= 0) & (distance < thresh * (last - first + 1))
        removed[position + 1 :] |= near
        keep[count] = order[position]
        count += 1
        parent[others[near]] = count
        parent[order[position]] = count
    return [keep, torch.tensor(count, device=keep.device), parent]


def _overlap(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Return the intersection over union of ``box`` (4,) with ``boxes`` (N, 4), (N,)."""
    size = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset).clamp(min=0)
    intersection = size[:, 0] * size[:, 1]
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    return intersection / (area + areas - intersection)


def _close_gaps(items: Tensor, remains: Tensor) -> Tensor:
    """Return the items that remain, with the last of them in place of those that are removed.

    So does the compiled operator; ties follow this order.
    """
    count = int(remains.sum())
    head = items[:count].clone()
    head[~remains[:count]] = items[count:][remains[count:]].flip(0)
    return head
