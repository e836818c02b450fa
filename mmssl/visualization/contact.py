"""A contact sheet: samples of a data set with their labels drawn."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.promptable import overlay_masks
from mmssl.visualization.segmentation import legend, overlay

SIDE, GAP, LINE = 224, 10, 18
INK, FAINT = (30, 34, 40), (120, 126, 134)


def draw_sample(
    image: np.ndarray,
    labels: Mapping,
    classes: Sequence[str] = (),
    colours: Sequence[Sequence[int]] = (),
    side: int = SIDE,
) -> Image.Image:
    """An image that fits into a square, with its labels over it.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: 'boxes' (N, 4) with 'names' (N,) int, or 'masks' (N, H, W), or 'map' (H, W); in pixels of the
            image.
        classes: names.
        colours: (R, G, B) a class.
        side: of the square, in pixels.
    """
    if 'map' in labels:
        image = overlay(image, labels['map'], colours)
    elif 'masks' in labels and len(labels['masks']):
        image = overlay_masks(image, labels['masks'])
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    canvas = Image.fromarray(image).resize(
        size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    )
    if 'boxes' in labels:
        _draw_boxes(
            canvas,
            np.asarray(labels['boxes'], dtype=float).reshape(-1, 4) * scale,
            labels['names'],
            classes,
            colours,
        )
    return canvas


def _draw_boxes(
    canvas: Image.Image, boxes: np.ndarray, names: Sequence[int], classes: Sequence[str], colours
) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for box, label in zip(boxes, names, strict=True):
        left, top, right, bottom = (float(side) for side in box)
        colour = tuple(int(value) for value in colours[label])
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
        text = str(classes[label])
        wide, high = font.getlength(text) + 4, 12
        left = min(max(0, left), max(0, canvas.width - wide))
        top = top - high if top >= high else top
        draw.rectangle((left, top, left + wide, top + high), fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        draw.text(
            (left + 2, top + high / 2),
            text,
            fill='black' if bright > 140 else 'white',
            font=font,
            anchor='lm',
        )


def contact_sheet(
    tiles: Sequence[tuple[Image.Image, str, str]],
    title: str,
    subtitle: str = '',
    columns: int = 4,
    swatches: Sequence[tuple[str, Sequence[int]]] = (),
    side: int = SIDE,
) -> Image.Image:
    """Tiles in rows, each in the middle of its cell with two lines below it.

    Args:
        tiles: (picture not larger than the square, line, fainter line).
        title: of the sheet.
        subtitle: below it.
        columns: tiles a row, at most.
        swatches: (name, colour) of a legend at the bottom.
        side: width of the cells, in pixels; they are as high as the highest tile.

    Returns:
        an RGB picture on white.
    """
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    head = 34 + 20 * bool(subtitle)
    high = max([picture.height for picture, _, _ in tiles], default=side)
    cell = high + 2 * LINE + GAP
    width = max(columns * (side + GAP) + GAP, 2 * side)
    strip = (
        legend([name for name, _ in swatches], [colour for _, colour in swatches], width, 12)
        if swatches
        else None
    )
    sheet = Image.new('RGB', (width, head + rows * cell + GAP + (strip.height if strip else 0)), 'white')
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=17), ImageFont.load_default(size=12)
    draw.text((GAP, 19), _cut(title, large, width - 2 * GAP), fill=INK, font=large, anchor='lm')
    if subtitle:
        draw.text((GAP, 41), _cut(subtitle, small, width - 2 * GAP), fill=FAINT, font=small, anchor='lm')
    for number, (picture, line, faint) in enumerate(tiles):
        x, y = GAP + number % columns * (side + GAP), head + GAP // 2 + number // columns * cell
        draw.rectangle((x, y, x + side - 1, y + high - 1), fill=(244, 245, 247))
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (high - picture.height) // 2))
        draw.text((x, y + high + LINE // 2), _cut(line, small, side), fill=INK, font=small, anchor='lm')
        draw.text(
            (x, y + high + LINE + LINE // 2 - 2),
            _cut(faint, small, side),
            fill=FAINT,
            font=small,
            anchor='lm',
        )
    if strip:
        sheet.paste(strip, (0, sheet.height - strip.height))
    return sheet


def _cut(text: str, font, width: float) -> str:
    """The text, its middle taken out where it is too wide."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 4 and font.getlength(f'{text[: keep // 2]}...{text[len(text) - keep // 2 :]}') > width:
        keep -= 1
    return f'{text[: keep // 2]}...{text[len(text) - keep // 2 :]}'


def colours_of(classes: Sequence[str], palette=None) -> list[tuple[int, ...]]:
    """The palette of a data set, or colours of ours where it has none of that length."""
    if palette is not None and not isinstance(palette, str) and len(palette) == len(classes):
        return [tuple(colour) for colour in palette]
    return [class_color(number) for number in range(len(classes))]
