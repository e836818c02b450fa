"""Masks of point-wise spatial attention (Zhao et al., ECCV 2018) with the arguments of mmcv's operators."""

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.gradients import gradients

COLLECT, DISTRIBUTE = 0, 1


def _expand(mask: Tensor, psa_type: int, mask_size: tuple[int, int], centre: tuple[int, int]) -> Tensor:
    """Place the mask (B, h * w, H, W) of every pixel around it: (B, H * W, H, W)."""
    if psa_type not in (COLLECT, DISTRIBUTE):
        raise ValueError(f'psa_type={psa_type} of psamask must be 0 (collect) or 1 (distribute)')
    batch, _, height, width = mask.shape
    taps, inside = [], []
    for length, limit, middle in zip((height, width), mask_size, centre, strict=True):
        position = torch.arange(length, device=mask.device)
        tap = position[:, None] - position + middle  # of the target, for every pixel
        inside.append((tap >= 0) & (tap < limit))
        taps.append(tap.clamp(0, limit - 1))
    index = taps[0][:, None, :, None] * mask_size[1] + taps[1][None, :, None, :]
    valid = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    pixels = height * width
    index = index.reshape(1, pixels, height, width).expand(batch, -1, -1, -1)
    out = mask.gather(1, index) * valid.reshape(1, pixels, height, width)
    if psa_type == DISTRIBUTE:
        out = out.view(batch, pixels, pixels).transpose(1, 2).reshape(batch, pixels, height, width)
    return out


def psamask_forward(  # noqa: PLR0913  mmcv's signature
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Turn the attention of every pixel to its surroundings into maps of the whole image.

    Args:
        input: (B, h_mask * w_mask, H, W).
        output: (B, H * W, H, W), filled: attention of pixel (h, w) at [:, :, h, w] to collect, at
            [:, h * W + w] to distribute.
        psa_type: 0 to collect, 1 to distribute.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: Height of the surroundings.
        w_mask: Width of the surroundings.
        half_h_mask: Row of the pixel in its surroundings.
        half_w_mask: Column of the pixel in its surroundings.
    """
    output.copy_(_expand(input, psa_type, (h_mask, w_mask), (half_h_mask, half_w_mask)))


def psamask_backward(  # noqa: PLR0913  mmcv's signature
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradient of :func:`psamask_forward` to ``grad_input`` (B, h_mask * w_mask, H, W)."""

    def compute(mask: Tensor) -> Tensor:
        return _expand(mask, psa_type, (h_mask, w_mask), (half_h_mask, half_w_mask))

    # the operator is linear, so that its gradient does not depend on the values of the mask
    grad_input.add_(gradients(compute, [grad_input], grad_output)[0])
