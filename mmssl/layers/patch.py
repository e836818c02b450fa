"""Images as rows of patches."""

import torch
from torch import Tensor, nn



def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patch_grid(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches in an image.

    Raises:
        ValueError: the image does not divide into patches; names the nearest size that does.
    """
    if height % size[0] or width % size[1] or not height or not width:
        nearest = [
            max(1, round(side / step)) * step for side, step in zip((height, width), size, strict=True)
        ]
        raise ValueError(
            f'image {height}x{width} does not divide into {size[0]}x{size[1]} patches; '
            f'resize it to {nearest[0]}x{nearest[1]}'
        )
    return height // size[0], width // size[1]


def patchify(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut images into rows of flattened patches.

    Args:
        images: (B, C, H, W), H and W divisible by ``size``.
        size: side of a patch in pixels, or (height, width).

    Returns:
        (B, N, p * q * C) with N = (H / p) * (W / q), row by row, channels last inside a patch.
    """
    size = pair(size)
    batch, channels, height, width = images.shape
    rows, columns = patch_grid(height, width, size)
    patches = images.reshape(batch, channels, rows, size[0], columns, size[1])
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, size[0] * size[1] * channels)


def unpatchify(patches: Tensor, size: int | tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Put patches back together; the inverse of :func:`patchify`.

    Args:
        patches: (B, rows * columns, p * q * C).
        size: side of a patch in pixels, or (height, width).
        grid: (rows, columns).

    Returns:
        (B, C, rows * p, columns * q).
    """
    size = pair(size)
    batch, count, width = patches.shape
    if count != grid[0] * grid[1]:
        raise ValueError(f'{count} patches do not make a grid of {grid[0]}x{grid[1]}')
    channels = width // (size[0] * size[1])
    images = patches.reshape(batch, *grid, *size, channels).permute(0, 5, 1, 3, 2, 4)
    return images.reshape(batch, channels, grid[0] * size[0], grid[1] * size[1])


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Pick rows of every sample: ``out[b, i] = rows[b, index[b, i]]``.

    One ``index_select`` over the joined batch: no index of the size of the result is built, as
        ``torch.gather`` would need.

    Args:
        rows: (B, N, C), or (1, N, C) shared by all samples.
        index: (B, K), int64.

    Returns:
        (B, K, C).
    """
    batch, count = index.shape
    flat = index
    if rows.shape[0] != 1:
        flat = index + torch.arange(batch, device=index.device).unsqueeze(1) * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, flat.flatten()).view(batch, count, -1)


class PatchEmbed(nn.Module):
    """Linear projection of patches, kept as the convolution ``projection`` (name and shape as in mmcv's PatchEmbed)."""

    def __init__(
        self, patch_size: int | tuple[int, int], in_channels: int, embed_dims: int, bias: bool = True
    ):
        super().__init__()
        self.patch_size = pair(patch_size)
        self.projection = nn.Conv2d(
            in_channels, embed_dims, self.patch_size, stride=self.patch_size, bias=bias
        )

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) to tokens (B, N, C) and their grid (rows, columns)."""
        height, width = images.shape[-2:]
        grid = patch_grid(height, width, self.patch_size)
        return self.projection(images).flatten(2).transpose(1, 2), grid

    def project_rows(self, patches: Tensor) -> Tensor:
        """Project patches that :func:`patchify` cut: (..., p * q * C_in) to (..., C)."""
        weight = self.projection.weight
        return nn.functional.linear(patches, weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1), self.projection.bias)
