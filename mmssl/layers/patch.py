"""Images as sequences of patches."""

import torch
from torch import Tensor, nn


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a size that is given as one number or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patch_grid(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of patches in an image.

    Args:
        height: Height of the image.
        width: Width of the image.
        size: (height, width) of a patch.

    Raises:
        ValueError: The image is not divisible into patches; the message names the nearest size that is.
    """
    if height % size[0] or width % size[1] or not height or not width:
        nearest_height = max(1, round(height / size[0])) * size[0]
        nearest_width = max(1, round(width / size[1])) * size[1]
        raise ValueError(
            f'image {height}x{width} does not divide into {size[0]}x{size[1]} patches; '
            f'resize it to {nearest_height}x{nearest_width}'
        )
    return height // size[0], width // size[1]


torch.fx.wrap('patch_grid')  # one node of a graph of torch.fx: it compares sizes


def patchify(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut images into flattened patches, row by row.

    Args:
        images: (B, C, H, W), with H and W divisible by ``size``.
        size: Side of a patch in pixels, or (height, width).

    Returns:
        (B, N, p * q * C) with N = (H / p) * (W / q), channels last inside a patch.
    """
    size = pair(size)
    batch, channels, height, width = images.shape
    rows, columns = patch_grid(height, width, size)
    patches = images.reshape(batch, channels, rows, size[0], columns, size[1])
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, size[0] * size[1] * channels)


def unpatchify(patches: Tensor, size: int | tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Join patches to images; the inverse of :func:`patchify`.

    Args:
        patches: (B, rows * columns, p * q * C).
        size: Side of a patch in pixels, or (height, width).
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


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens of every sample: ``out[b, i] = tokens[b, index[b, i]]``.

    Args:
        tokens: (B, N, C), or (1, N, C) shared by all samples.
        index: (B, K), int64.

    Returns:
        (B, K, C).
    """
    batch, count = index.shape
    # one index_select over the joined batch; torch.gather would need an index of the size of the result
    if tokens.shape[0] != 1:
        index = index + torch.arange(batch, device=index.device).unsqueeze(1) * tokens.shape[1]
    return tokens.flatten(0, 1).index_select(0, index.flatten()).view(batch, count, -1)


class PatchEmbed(nn.Module):
    """Linear projection of patches, stored as the convolution ``projection`` like in mmcv's PatchEmbed.

    Args:
        patch_size: Side of a patch in pixels, or (height, width).
        in_channels: Number of channels of the images.
        embed_dims: Width of the tokens.
        bias: Whether the projection has a bias.
    """

    def __init__(
        self, patch_size: int | tuple[int, int], in_channels: int, embed_dims: int, bias: bool = True
    ):
        super().__init__()
        self.patch_size = pair(patch_size)
        self.projection = nn.Conv2d(
            in_channels, embed_dims, self.patch_size, stride=self.patch_size, bias=bias
        )

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Project images (B, in_channels, H, W) to tokens (B, N, C) and their grid (rows, columns)."""
        height, width = images.shape[-2:]
        grid = patch_grid(height, width, self.patch_size)
        return self.projection(images).flatten(2).transpose(1, 2), grid

    def project_patches(self, patches: Tensor) -> Tensor:
        """Project patches of :func:`patchify`, (..., p * q * in_channels) to (..., C)."""
        weight = self.projection.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(patches, weight, self.projection.bias)
