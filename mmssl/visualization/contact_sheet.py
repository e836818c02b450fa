"""Contact sheets: samples of a data set with their labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.layout import text_color
from mmssl.visualization.promptable import overlay_masks
from mmssl.visualization.segmentation import draw_legend, overlay_classes

TILE_SIZE = 224
GAP = 10
LINE_HEIGHT = 18
TITLE_HEIGHT = 34
SUBTITLE_HEIGHT = 20
INK = (30, 34, 40)
FAINT = (120, 126, 134)
TILE_BACKGROUND = (244, 245, 247)


def draw_sample(
    image: np.ndarray,
    labels: Mapping,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
    size: int = TILE_SIZE,
) -> Image.Image:
    """Draw an image with its labels, resized to fit into a square.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: 'boxes' (N, 4) with 'names' (N,) int, or 'masks' (N, H, W), or 'map' (H, W), in pixels of the
            image; or nothing.
        classes: Names of the classes.
        colors: (R, G, B) per class.
        size: Side of the square in pixels.
    """
    if 'map' in labels:
        image = overlay_classes(image, labels['map'], colors)
    elif 'masks' in labels and len(labels['masks']):
        image = overlay_masks(image, labels['masks'])
    scale = size / max(image.shape[:2])
    resized = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    resample = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    canvas = Image.fromarray(image).resize(resized, resample)
    if 'boxes' in labels:
        boxes = np.asarray(labels['boxes'], dtype=float).reshape(-1, 4) * scale
        _draw_boxes(canvas, boxes, labels['names'], classes, colors)
    return canvas


def _draw_boxes(
    canvas: Image.Image, boxes: np.ndarray, labels: Sequence[int], classes: Sequence[str], colors
) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for box, label in zip(boxes, labels, strict=True):
        left, top, right, bottom = (float(edge) for edge in box)
        color = tuple(int(value) for value in colors[label])
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=2)
        text = str(classes[label])
        tag_width, tag_height = font.getlength(text) + 4, 12
        left = min(max(0, left), max(0, canvas.width - tag_width))
        top = top - tag_height if top >= tag_height else top
        draw.rectangle((left, top, left + tag_width, top + tag_height), fill=color)
        draw.text((left + 2, top + tag_height / 2), text, fill=text_color(color), font=font, anchor='lm')


def contact_sheet(
    tiles: Sequence[tuple[Image.Image, str, str]],
    title: str,
    subtitle: str = '',
    columns: int = 4,
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    size: int = TILE_SIZE,
) -> Image.Image:
    """Arrange tiles in rows, each centered in its cell with two lines of text below it.

    Args:
        tiles: (image that fits into the square, line, fainter line).
        title: Title of the sheet.
        subtitle: Line below the title.
        columns: Largest number of tiles per row.
        legend: (name, color) pairs of a legend at the bottom.
        size: Width of a tile in pixels; all are as high as the highest image.

    Returns:
        An RGB image on white.
    """
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    head = TITLE_HEIGHT + (SUBTITLE_HEIGHT if subtitle else 0)
    tile_height = max([image.height for image, _, _ in tiles], default=size)
    row_height = tile_height + 2 * LINE_HEIGHT + GAP
    width = max(columns * (size + GAP) + GAP, 2 * size)
    strip = _legend_strip(legend, width)
    height = head + rows * row_height + GAP + (strip.height if strip else 0)
    sheet = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=17), ImageFont.load_default(size=12)

    def write(x: float, y: float, text: str, max_width: float, font=small, fill=INK) -> None:
        draw.text((x, y), _shortened(text, font, max_width), fill=fill, font=font, anchor='lm')

    write(GAP, 19, title, width - 2 * GAP, font=large)
    if subtitle:
        write(GAP, 41, subtitle, width - 2 * GAP, fill=FAINT)
    for index, (image, line, faint_line) in enumerate(tiles):
        x, y = GAP + index % columns * (size + GAP), head + GAP // 2 + index // columns * row_height
        draw.rectangle((x, y, x + size - 1, y + tile_height - 1), fill=TILE_BACKGROUND)
        sheet.paste(image, (x + (size - image.width) // 2, y + (tile_height - image.height) // 2))
        write(x, y + tile_height + LINE_HEIGHT // 2, line, size)
        write(x, y + tile_height + LINE_HEIGHT + LINE_HEIGHT // 2 - 2, faint_line, size, fill=FAINT)
    if strip:
        sheet.paste(strip, (0, sheet.height - strip.height))
    return sheet


def _legend_strip(legend: Sequence[tuple[str, Sequence[int]]], width: int) -> Image.Image | None:
    if not legend:
        return None
    return draw_legend([name for name, _ in legend], [color for _, color in legend], width, size=12)


def _shortened(text: str, font, width: float) -> str:
    """Replace the middle of a text by '...' if it is wider than ``width``."""
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length > 4 and font.getlength(f'{text[: length // 2]}...{text[len(text) - length // 2 :]}') > width:
        length -= 1
    return f'{text[: length // 2]}...{text[len(text) - length // 2 :]}'


def class_colors(classes: Sequence[str], palette=None) -> list[tuple[int, ...]]:
    """Return a color per class: the data set's palette if it has that length, or generated colors."""
    if palette is not None and not isinstance(palette, str) and len(palette) == len(classes):
        return [tuple(color) for color in palette]
    return [class_color(index) for index in range(len(classes))]
