"""Columns of a convolution at chosen positions, with the arguments of mmcv's operators."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(  # noqa: PLR0913  mmcv's signature
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gather the pixels under the kernel at N positions.

    Args:
        im: (1, C, H, W).
        mask_h_idx: (N,), rows of the output of the convolution.
        mask_w_idx: (N,), columns.
        col: (C * kernel_h * kernel_w, N), filled.
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        pad_h: Vertical padding.
        pad_w: Horizontal padding.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = torch.arange(kernel_h, device=im.device).view(-1, 1, 1) + mask_h_idx
    columns = torch.arange(kernel_w, device=im.device).view(-1, 1) + mask_w_idx
    # a mask may have positions beyond the last output, whose kernel leaves the padded map
    inside = (rows < padded.shape[1]) & (columns < padded.shape[2])
    rows, columns = rows.clamp(max=padded.shape[1] - 1), columns.clamp(max=padded.shape[2] - 1)
    col.copy_((padded[:, rows, columns] * inside).flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write the columns ``col`` (channels, N) to N positions of ``im`` (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
