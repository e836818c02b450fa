"""Position-sensitive score maps of R-FCN (arXiv:1605.06409, figures 3 and 4)."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mmssl.visualization.heat import overlay_heat
from mmssl.visualization.layout import scaled_to_height, tile_images

HEAT_OPACITY = 0.6
GAP = 3
BIN_COLOR = (0, 255, 120)


def position_sensitive_head(model: nn.Module) -> nn.Module:
    """Return the box head of an R-FCN.

    Raises:
        ValueError: The model has no such head.
    """
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if not hasattr(head, 'rfcn_cls'):
        raise ValueError(
            f'{type(model).__name__} has no position-sensitive score maps; give a config of configs/rfcn'
        )
    return head


def score_map_figure(
    image: np.ndarray,
    maps: Tensor,
    stride: int,
    box: Sequence[float] | None = None,
    title: str = '',
    tile_height: int = 150,
) -> Image.Image:
    """Draw an image, and the k x k score maps of a class over it in a grid.

    Args:
        image: (H, W, 3) uint8, RGB, as the network received it, without padding.
        maps: (k, k, h, w) scores; all are scaled by their common minimum and maximum.
        stride: Pixels of the image per pixel of the maps.
        box: x1, y1, x2, y2 in pixels of the image, drawn into every map together with the bin that is pooled
            from that map.
        title: Title above the image.
        tile_height: Height of each map in the figure.

    Returns:
        An RGB image.
    """
    k = maps.shape[0]
    height, width = image.shape[:2]
    flat = maps.float().flatten(0, 1).unsqueeze(1)
    large = F.interpolate(flat, scale_factor=stride, mode='bilinear', align_corners=False)[:, 0]
    large = large[:, :height, :width]
    large = F.pad(large, (0, width - large.shape[2], 0, height - large.shape[1]))
    low, high = flat.amin(), flat.amax()
    heat = ((large - low) / (high - low).clamp(min=1e-12)).numpy()
    tiles = []
    for index in range(k * k):
        overlay = overlay_heat(image, heat[index], HEAT_OPACITY).round().astype(np.uint8)
        tiles.append(_with_bins(overlay, tile_height, box, k, index))
    step_x, step_y = tiles[0].width + GAP, tile_height + GAP
    grid = Image.new('RGB', (k * step_x - GAP, k * step_y - GAP), 'white')
    for index, tile in enumerate(tiles):
        grid.paste(tile, (index % k * step_x, index // k * step_y))
    whole = _with_bins(image, min(640, grid.height), box, k, None)
    return tile_images([whole, grid], [title, f'{k} x {k} score maps, {low:.2f} to {high:.2f}'])


def _with_bins(
    image: np.ndarray, height: int, box: Sequence[float] | None, k: int, bin_index: int | None
) -> Image.Image:
    """Resize an image to a height and draw a box with one of its k x k bins, or with all if it is None."""
    canvas = scaled_to_height(image, height)
    if box is None:
        return canvas
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = (edge * height / image.shape[0] for edge in box)
    bin_width, bin_height = (right - left) / k, (bottom - top) / k
    thin, thick = dict(outline='white', width=1), dict(outline=BIN_COLOR, width=2)

    def draw_bin(index: int, style: dict) -> None:
        x, y = left + index % k * bin_width, top + index // k * bin_height
        draw.rectangle((x, y, x + bin_width, y + bin_height), **style)

    if bin_index is None:
        for index in range(k * k):
            draw_bin(index, thin)
        draw.rectangle((left, top, right, bottom), **thick)
    else:
        draw.rectangle((left, top, right, bottom), **thin)
        draw_bin(bin_index, thick)
    return canvas
