"""Pictures of detectors: boxes, the position-sensitive score maps of R-FCN, and where a deformable convolution reads."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from mmssl.data.colors import class_color
from mmssl.visualization.attention import COLOURS

HEAT_SHARE = 0.6


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    classes: Sequence[str],
    height: int = 480,
) -> Image.Image:
    """Boxes with their classes and scores over an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels of the image.
        labels: (N,) int, places in ``classes``.
        scores: (N,) in [0, 1], or None for none.
        classes: their names.
        height: of the picture.

    Returns:
        an RGB picture, the image scaled to ``height``; the best box is drawn last.
    """
    scale = height / image.shape[0]
    canvas = Image.fromarray(image).resize(
        (max(1, round(image.shape[1] * scale)), height), Image.Resampling.BICUBIC
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=max(11, height // 34))
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind='stable')
    for number in order:
        left, top, right, bottom = (float(side) * scale for side in boxes[number])
        colour = class_color(int(labels[number]))
        draw.rectangle(
            (left, top, max(left, right), max(top, bottom)), outline=colour, width=max(2, height // 200)
        )
        text = classes[labels[number]] + ('' if scores is None else f' {scores[number]:.2f}')
        box = draw.textbbox((0, 0), text, font=font)
        wide, high = box[2] + 4, box[3] + 3
        left, top = min(max(0, left), max(0, canvas.width - wide)), top - high if top >= high else top
        draw.rectangle((left, top, left + wide, top + high), fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        draw.text((left + 2, top + 1), text, fill='black' if bright > 140 else 'white', font=font)
    return canvas


def sheet(
    pictures: Sequence[Image.Image], titles: Sequence[str] = (), columns: int = 3, gap: int = 8
) -> Image.Image:
    """Pictures side by side on white, in rows of ``columns``, each under its title."""
    header = 24 if titles else 0
    rows = [
        list(range(begin, min(begin + columns, len(pictures)))) for begin in range(0, len(pictures), columns)
    ]
    width = max(sum(pictures[number].width + gap for number in row) for row in rows) + gap
    heights = [max(pictures[number].height for number in row) + header + gap for row in rows]
    out = Image.new('RGB', (width, sum(heights) + gap), 'white')
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=14)
    y = gap
    for row, high in zip(rows, heights, strict=True):
        x = gap
        for number in row:
            if titles:
                draw.text(
                    (x + pictures[number].width / 2, y + header / 2 - 2),
                    titles[number],
                    fill='black',
                    font=font,
                    anchor='mm',
                )
            out.paste(pictures[number], (x, y + header))
            x += pictures[number].width + gap
        y += high
    return out


def record(modules: Sequence[nn.Module], run) -> list[Tensor]:
    """What modules put out, once each, while ``run()`` runs."""
    kept: list = [None] * len(modules)
    handles = [
        module.register_forward_hook(lambda _, args, out, place=place: kept.__setitem__(place, out.detach()))
        for place, module in enumerate(modules)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return kept


def position_sensitive_head(model: nn.Module) -> nn.Module:
    """The box head of an R-FCN; ValueError where a model has none."""
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if not hasattr(head, 'rfcn_cls'):
        raise ValueError(
            f'{type(model).__name__} has no position-sensitive score maps; give a config of configs/rfcn'
        )
    return head


def score_picture(
    image: np.ndarray,
    maps: Tensor,
    stride: int,
    box: Sequence[float] | None = None,
    title: str = '',
    tile: int = 150,
) -> Image.Image:
    """An image, and the k x k score maps of a class over it, each in its place of the grid (R-FCN, figures 3 and 4).

    Args:
        image: (H, W, 3) uint8, RGB, as the network saw it, without padding.
        maps: (k, k, h, w) scores; all are stretched between the least and the largest of them all.
        stride: pixels a cell.
        box: x1, y1, x2, y2 in pixels of the image: outlined in every map, with the bin that is read from it.
        title: over the image.
        tile: height of a map in the picture.

    Returns:
        an RGB picture.
    """
    k, (height, width) = maps.shape[0], image.shape[:2]
    flat = maps.float().flatten(0, 1).unsqueeze(1)
    large = F.interpolate(flat, scale_factor=stride, mode='bilinear', align_corners=False)[
        :, 0, :height, :width
    ]
    large = F.pad(large, (0, width - large.shape[2], 0, height - large.shape[1]))
    heat = ((large - flat.amin()) / (flat.amax() - flat.amin()).clamp(min=1e-12)).numpy()
    positions = np.linspace(0, 1, len(COLOURS))
    grey = image.astype(np.float64).mean(axis=-1, keepdims=True)
    tiles = []
    for number in range(k * k):
        coloured = np.stack(
            [np.interp(heat[number], positions, COLOURS[:, channel]) for channel in range(3)], axis=-1
        )
        tiles.append(
            _outlined(
                (HEAT_SHARE * coloured + (1 - HEAT_SHARE) * grey).round().astype(np.uint8),
                tile,
                box,
                k,
                number,
            )
        )
    gap = 3
    grid = Image.new('RGB', (k * (tiles[0].width + gap) - gap, k * (tile + gap) - gap), 'white')
    for number, picture in enumerate(tiles):
        grid.paste(picture, (number % k * (picture.width + gap), number // k * (tile + gap)))
    whole = _outlined(image, min(640, grid.height), box, k, None)
    return sheet([whole, grid], [title, f'{k} x {k} score maps, {flat.amin():.2f} to {flat.amax():.2f}'])


def _outlined(
    image: np.ndarray, height: int, box: Sequence[float] | None, k: int, number: int | None
) -> Image.Image:
    """An image at a height, with a box, and one of its bins, or all where ``number`` is None."""
    scale = height / image.shape[0]
    canvas = Image.fromarray(image).resize(
        (max(1, round(image.shape[1] * scale)), height), Image.Resampling.BICUBIC
    )
    if box is None:
        return canvas
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = (side * scale for side in box)
    wide, high = (right - left) / k, (bottom - top) / k
    thin, thick = dict(outline='white', width=1), dict(outline=(0, 255, 120), width=2)
    if number is not None:
        draw.rectangle((left, top, right, bottom), **thin)
    for cell in range(k * k) if number is None else [number]:
        x, y = left + cell % k * wide, top + cell // k * high
        draw.rectangle((x, y, x + wide, y + high), **(thin if number is None else thick))
    if number is None:
        draw.rectangle((left, top, right, bottom), **thick)
    return canvas


def deformable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Deformable convolutions by name, ours and mmcv's, in the order of the model; ValueError where there are none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, 'conv_offset') and hasattr(module, 'deform_groups')
    }
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no deformable convolution (mmssl.DeformConv, DCN, DCNv2) to draw'
        )
    return found


def sampling_places(layer: nn.Module, moved: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Where a deformable convolution reads for some of its outputs.

    Args:
        layer: with ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``deform_groups``.
        moved: (C, H', W'), what its ``conv_offset`` gave: offsets, and in version 2 a third more, the taps'
            weights before the sigmoid.
        cells: (N, 2) int, (y, x) of outputs.

    Returns:
        (N, groups, K, 2) places (y, x) in the map that it reads, and (N, groups, K) weights of the taps, 1 in
        version 1.
    """
    groups, (high, wide) = layer.deform_groups, layer.kernel_size
    taps = torch.stack(
        torch.meshgrid(
            torch.arange(high) * layer.dilation[0], torch.arange(wide) * layer.dilation[1], indexing='ij'
        ),
        -1,
    )
    here = moved.float().cpu()[:, cells[:, 0], cells[:, 1]].T
    pairs = 2 * groups * high * wide
    offset = here[:, :pairs].unflatten(1, (groups, high * wide, 2))
    weight = (
        here[:, pairs:].sigmoid().unflatten(1, (groups, high * wide))
        if here.shape[1] > pairs
        else torch.ones(offset.shape[:-1])
    )
    corner = cells * torch.tensor(layer.stride) - torch.tensor(layer.padding)
    return corner[:, None, None] + taps.flatten(0, 1) + offset, weight


def stacked_places(
    layers: Sequence[nn.Module], moved: Sequence[Tensor], cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Where a stack of deformable convolutions reads for one output of the last, following every tap back to the cell next to it.

    As figure 6 of arXiv:1703.06211: what lies between two of them (1 x 1 convolutions, sums) is taken to stay
    in its cell. A group is followed into the group of the same number, one of several: 9 ** levels places a
    group, as with one group.

    Args:
        layers: from the first to the last, on maps of one size.
        moved: what the ``conv_offset`` of each gave, (C, H, W).
        cell: (2,) int, (y, x).

    Returns:
        (N, 2) places in the map that the first one reads, and the group (N,) of the last one's that they
        belong to.
    """
    count = layers[-1].deform_groups
    places, groups = cell[None].float().expand(count, 2), torch.arange(count)
    for layer, given in zip(reversed(layers), reversed(moved), strict=True):
        bounds = torch.tensor(given.shape[1:]) - 1
        cells = torch.minimum(places.round().long().clamp(min=0), bounds)
        found, _ = sampling_places(layer, given, cells)
        places = found[torch.arange(len(found)), groups % layer.deform_groups]
        groups = groups.repeat_interleave(places.shape[1])
        places = places.flatten(0, 1)
    return places, groups


def sampling_picture(
    image: np.ndarray,
    points: Sequence[tuple[float, float]],
    places: Sequence[Tensor],
    groups: Sequence[Tensor],
    stride: int,
    titles: Sequence[str],
    height: int = 420,
) -> Image.Image:
    """Sampled places as dots over an image, one picture a point (arXiv:1703.06211, figure 6).

    Args:
        image: (H, W, 3) uint8, RGB, as the network saw it, without padding.
        points: (x, y) in pixels of the image; a green cross marks each.
        places: of each point (N, 2), (y, x) in cells of the map that is read.
        groups: of each point (N,); a colour a group.
        stride: pixels a cell; cells of padded odd convolutions lie at its multiples.
        titles: one a point.
    """
    scale = height / image.shape[0]
    base = Image.fromarray(image).resize(
        (max(1, round(image.shape[1] * scale)), height), Image.Resampling.BICUBIC
    )
    pictures = []
    for (x, y), found, kind in zip(points, places, groups, strict=True):
        canvas = base.copy()
        draw = ImageDraw.Draw(canvas)
        colours = (
            [(230, 40, 40)]
            if int(kind.max()) == 0
            else [class_color(group) for group in range(int(kind.max()) + 1)]
        )
        radius = 4 if len(found) < 100 else 1.5
        for place, group in zip(found.tolist(), kind.tolist(), strict=True):
            middle = (place[1] * stride * scale, place[0] * stride * scale)
            draw.ellipse(
                (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius),
                fill=colours[group],
                outline='black' if radius > 3 else None,
            )
        for ends in (((-8, 0), (8, 0)), ((0, -8), (0, 8))):
            draw.line([(x * scale + dx, y * scale + dy) for dx, dy in ends], fill=(0, 230, 60), width=3)
        pictures.append(canvas)
    return sheet(pictures, titles)


def stride_of(pixels: int, cells: int) -> int:
    """The power of two by which a map is smaller than an image."""
    return 2 ** max(0, round(math.log2(pixels / cells)))
