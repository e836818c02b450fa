"""What mmdet's detectors call of mmcv's compiled operators: the inside of the stand-in for ``mmcv._ext``.

From torch, torchvision and our own operators. Every function has the arguments of the compiled one and, where
that fills buffers, fills them. :mod:`mmssl.hosts.compat` puts it in the place of the extension where there is
none. On the CPU and on CUDA; half precision is computed in float32.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.deform_conv import deform_conv2d

# log(max(p, TINY)) of the compiled focal loss: FLT_MIN
TINY = torch.finfo(torch.float32).tiny


def get_compiler_version() -> str:
    """Of the compiled operators."""
    return 'none (mmssl, no compiled operators)'


def get_compiling_cuda_version() -> str:
    """Of the compiled operators."""
    return 'not available'


def _wide(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that stay, best first.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box goes where it overlaps a better one by more.
        offset: 1 where a box of one pixel has x1 = x2, else 0.

    Returns:
        (M,) int64.
    """
    import torchvision

    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    order = scores.sort(descending=True)[
        1
    ]  # as the compiled operator sorts: torchvision's own order differs among ties
    ranked = _wide(boxes)[order]
    if offset:
        ranked = torch.cat([ranked[:, :2], ranked[:, 2:] + offset], dim=1)
    ranks = torch.arange(len(order), 0, -1, dtype=ranked.dtype, device=ranked.device)
    # torchvision compares in double, the compiled operator in the type of the boxes: an overlap of exactly
    # the threshold stays
    threshold = torch.tensor(iou_threshold, dtype=ranked.dtype).item()
    return order[torchvision.ops.nms(ranked, ranks, threshold)]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (arXiv:1704.04503): scores of boxes that overlap a better one decay.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2, on the CPU.
        scores: (N,).
        dets: (N, 5), filled with the M boxes that stay and their new scores.
        iou_threshold: overlap from which on a score decays (naive, linear).
        sigma: width of the Gaussian.
        min_score: a box below it goes.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: as in :func:`nms`.

    Returns:
        (M,) int64, indices of the boxes, best first.
    """
    left, top, right, bottom = boxes.unbind(1)
    areas = (right - left + offset) * (bottom - top + offset)
    order, current = torch.arange(len(boxes)), scores.clone()
    kept = 0
    while kept < len(order):
        scores = current[order[kept:]]
        # a box without area that overlaps another such box has NaN, which is never greater
        best = kept + (0 if scores[0].isnan() else int(scores.nan_to_num(nan=-math.inf).argmax()))
        order[[kept, best]] = order[[best, kept]]
        chosen, rest = order[kept], order[kept + 1 :]
        dets[kept, :4], dets[kept, 4] = boxes[chosen], current[chosen]
        width = (
            torch.minimum(right[chosen], right[rest]) - torch.maximum(left[chosen], left[rest]) + offset
        ).clamp(min=0)
        height = (
            torch.minimum(bottom[chosen], bottom[rest]) - torch.maximum(top[chosen], top[rest]) + offset
        ).clamp(min=0)
        shared = width * height
        overlap = shared / (areas[chosen] + areas[rest] - shared)
        if method == 2:
            weight = torch.exp(-(overlap * overlap) / sigma)
        else:
            weight = torch.where(overlap >= iou_threshold, 0 if method == 0 else 1 - overlap, 1)
        current[rest] *= weight
        kept += 1
        order = torch.cat([order[:kept], _close_gaps(rest, ~(current[rest] < min_score))])
    return order


def _close_gaps(items: Tensor, stays: Tensor) -> Tensor:
    """Items that stay; the last ones fill the places of those that go, as in the compiled operator, where ties follow this order."""
    count = int(stays.sum())
    head = items[:count].clone()
    head[~stays[:count]] = items[count:][stays[count:]].flip(0)
    return head


def _missing_max(pool_mode: int) -> None:
    if pool_mode != 1:
        from mmssl.hosts.compat import missing_operator

        raise missing_operator("roi_align with pool_mode='max'")


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI align (arXiv:1703.06870).

    Args:
        input: (B, C, H, W).
        rois: (N, 5) as batch, x1, y1, x2, y2.
        output: (N, C, aligned_height, aligned_width), filled.
        argmax_y, argmax_x: not touched.
        sampling_ratio: samples along each side of a bin; 0 for as many as it has pixels.
        pool_mode: 1, the mean; the maximum raises ImportError.
        aligned: whether pixels are half a pixel away from their index.
    """
    import torchvision

    _missing_max(pool_mode)
    size, features = (aligned_height, aligned_width), _wide(input)
    output.copy_(
        torchvision.ops.roi_align(
            features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward`, added to ``grad_input`` (B, C, H, W)."""
    import torchvision  # noqa: F401  registers the operator

    _missing_max(pool_mode)
    grad = _wide(grad_output)
    grad_input.add_(
        torch.ops.torchvision._roi_align_backward(
            grad,
            rois.to(grad.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _gradients(grad_output: Tensor, inputs: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """Gradients of a deformable convolution for its inputs, computed anew."""
    with torch.enable_grad():
        leaves = {name: _wide(tensor).detach().requires_grad_() for name, tensor in inputs.items()}
        output = deform_conv2d(**leaves, **options)
        return dict(
            zip(
                leaves,
                torch.autograd.grad(output, list(leaves.values()), grad_output.to(output.dtype)),
                strict=True,
            )
        )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (arXiv:1703.06211).

    Args:
        input: (B, C, H, W).
        weight: (D, C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W'), (y, x) of each tap.
        output: (B, D, H', W'), filled.
        columns, ones: not touched.
    """
    output.copy_(
        deform_conv2d(
            input, offset, weight, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
        )
    )


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` for input and offsets, added to ``grad_input`` and ``grad_offset``."""
    inputs = {'input': input, 'offset': offset, 'weight': weight}
    grads = _gradients(
        grad_output, inputs, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
    )
    grad_input.add_(grads['input'])
    grad_offset.add_(grads['offset'])
    # the caller asks for the weight's next, with the same buffer
    columns.grad_weight = grads['weight']


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` for the weight, times ``scale``, added to ``grad_weight``."""
    found = columns.__dict__.pop('grad_weight', None)
    if found is None:
        inputs = {
            'input': input,
            'offset': offset,
            'weight': grad_weight,
        }  # linear in the weight: its value does not matter
        found = _gradients(
            grad_output, inputs, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
        )['weight']
    grad_weight.add_(found, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (arXiv:1811.11168).

    Args:
        input, weight, offset, output, columns, ones: as in :func:`deform_conv_forward`.
        bias: (D,), of length 0 without ``with_bias``.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W').
    """
    output.copy_(
        deform_conv2d(
            input,
            offset,
            weight,
            mask=mask,
            bias=bias if with_bias else None,
            stride=(stride_h, stride_w),
            padding=(pad_h, pad_w),
            dilation=(dilation_h, dilation_w),
        )
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, added to the five buffers."""
    inputs = {'input': input, 'offset': offset, 'weight': weight, 'mask': mask}
    grads = _gradients(
        grad_output,
        inputs,
        stride=(stride_h, stride_w),
        padding=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
    )
    for buffer, name in (
        (grad_input, 'input'),
        (grad_weight, 'weight'),
        (grad_offset, 'offset'),
        (grad_mask, 'mask'),
    ):
        buffer.add_(grads[name])
    if with_bias:
        grad_bias.add_(_wide(grad_output).sum(dim=(0, 2, 3)))


def _focal(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, which of them should be 1, and weights of the rows; a target past the last class is background, without a weight."""
    logits = _wide(input)
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    rows = logits.new_ones(len(logits), 1)
    if weight.numel():
        rows = F.pad(weight.to(logits.dtype), (0, 1), value=1)[target.clamp(max=logits.shape[1])][:, None]
    return logits.sigmoid(), positive, rows


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (arXiv:1708.02002), equation 5, of every logit.

    Args:
        input: (N, C) logits.
        target: (N,) int64; C is background.
        weight: (C,), weight of a row by its target, or of length 0.
        output: (N, C), filled.
    """
    p, positive, rows = _focal(input, target, weight)
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log(),
        -(1 - alpha) * p**gamma * (1 - p).clamp(min=TINY).log(),
    )
    output.copy_(loss * rows)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of :func:`sigmoid_focal_loss_forward` by each logit, written into ``grad_input`` (N, C)."""
    p, positive, rows = _focal(input, target, weight)
    q = 1 - p
    grad = torch.where(
        positive,
        -alpha * q**gamma * (q - gamma * p * p.clamp(min=TINY).log()),
        -(1 - alpha) * p**gamma * (gamma * q * q.clamp(min=TINY).log() - p),
    )
    grad_input.copy_(grad * rows)


PROVIDED = frozenset(
    name
    for name, value in globals().items()
    if not name.startswith('_') and getattr(value, '__module__', '') == __name__
)
