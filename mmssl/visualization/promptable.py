"""Pictures of promptable segmentation: masks, points and boxes over an image, and how the IoU rises with the clicks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.reconstruction import picture
from mmssl.visualization.segmentation import read_rgb

OPACITY = 0.5
Numbers = np.ndarray | Sequence
POSITIVE, NEGATIVE = (40, 200, 60), (230, 40, 40)


def overlay_masks(
    image: np.ndarray,
    masks: np.ndarray,
    colours: Sequence[Sequence[int]] | None = None,
    opacity: float = OPACITY,
) -> np.ndarray:
    """Masks over an image, large ones below small ones, with their outlines.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: (N, H, W) bool.
        colours: N of 0 to 255; ours when None.
        opacity: share of the colour inside.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: masks of another size than the image.
    """
    masks = np.asarray(masks, dtype=bool)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f'masks of shape {masks.shape} over an image of {image.shape[0]}x{image.shape[1]}; give (N, H, W) at its size'
        )
    return _paint(image, masks.sum((1, 2)), masks.__getitem__, colours, opacity)


def overlay_codes(
    image: np.ndarray,
    codes: Sequence[Mapping],
    colours: Sequence[Sequence[int]] | None = None,
    opacity: float = OPACITY,
) -> np.ndarray:
    """As :func:`overlay_masks`, of compressed run lengths, decoded one at a time: memory does not grow with the number of masks.

    Args:
        image: (H, W, 3) uint8, RGB.
        codes: N dicts with 'size' (H, W) and 'counts'.
        colours, opacity: as there.
    """
    from pycocotools import mask as coco

    codes = [dict(code) for code in codes]
    wrong = [code['size'] for code in codes if tuple(code['size']) != image.shape[:2]]
    if wrong:
        raise ValueError(
            f'run lengths of {wrong[0][0]}x{wrong[0][1]} over an image of {image.shape[0]}x{image.shape[1]}'
        )
    areas = np.array([coco.area(code) for code in codes])
    return _paint(image, areas, lambda number: coco.decode(codes[number]).astype(bool), colours, opacity)


def _paint(image: np.ndarray, areas: np.ndarray, mask_of, colours, opacity: float) -> np.ndarray:
    colours = [class_color(number) for number in range(len(areas))] if colours is None else colours
    out = image.astype(np.float32)
    for number in np.argsort(-areas, kind='stable'):
        whole, colour = mask_of(number), np.asarray(colours[number], dtype=np.float32)
        rows, columns = whole.any(1).nonzero()[0], whole.any(0).nonzero()[0]
        if not len(rows):
            continue
        place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask, part = whole[place], out[place]
        part[mask] = (1 - opacity) * part[mask] + opacity * colour
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        part[mask & ~inner] = colour
    return out.round().astype(np.uint8)


def draw_numbers(
    image: np.ndarray, places: Sequence[tuple[float, float]], numbers: Sequence[int | str]
) -> np.ndarray:
    """Numbers, or short names, in white on black at places (x, y) of an image (H, W, 3) uint8."""
    canvas = Image.fromarray(image)
    draw, font = (
        ImageDraw.Draw(canvas),
        ImageFont.load_default(size=max(11, round(max(image.shape[:2]) / 70))),
    )
    for (x, y), number in zip(places, numbers, strict=True):
        draw.text(
            (x, y),
            str(number),
            fill='white',
            stroke_fill='black',
            stroke_width=max(1, round(max(image.shape[:2]) / 600)),
            font=font,
            anchor='mm',
        )
    return np.asarray(canvas)


def draw_prompts(
    image: np.ndarray,
    points: Numbers | None = None,
    labels: Numbers | None = None,
    boxes: Numbers | None = None,
) -> np.ndarray:
    """Points, green for the object and red for the background, and boxes.

    Args:
        image: (H, W, 3) uint8, RGB.
        points: (N, 2) x and y in pixels.
        labels: (N,) 1 or 0; others are not drawn.
        boxes: (M, 4) left, top, right, bottom.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(max(image.shape[:2]) / 300))
    for box in [] if boxes is None else np.asarray(boxes, dtype=float).reshape(-1, 4):
        draw.rectangle(tuple(box), outline=(255, 220, 0), width=width)
    radius = max(2.0, max(image.shape[:2]) / 110)
    if points is not None:
        labels = np.ones(len(points)) if labels is None else labels
        for (x, y), label in zip(np.asarray(points, dtype=float), labels, strict=True):
            if label in (0, 1):
                draw.ellipse(
                    (x - radius, y - radius, x + radius, y + radius),
                    fill=POSITIVE if label else NEGATIVE,
                    outline='white',
                    width=width,
                )
    return np.asarray(canvas)


def draw_clicks(sample: Mapping, folder: str | Path) -> Path:
    """Image, objects, and masks after the first and the last click of the simulated user, side by side, as NAME.png.

    Args:
        sample: of :class:`mmssl.InteractiveSAM` with ``clicks=dict(keep_masks=True)``, as a dict.
        folder: made when needed.

    Returns:
        the file.

    Raises:
        ValueError: the model has not kept its masks.
    """
    results = sample['pred_instances']
    if 'first_masks' not in results:
        raise ValueError('pictures need the masks; set model.clicks.keep_masks=True')
    image = read_rgb(sample['img_path'])
    count, clicks = results['click_ious'].shape
    points = np.asarray(results['points'])
    tiles = [image, overlay_masks(image, np.asarray(sample['gt_instances']['masks']))]
    for name, last in (('first_masks', 1), ('last_masks', clicks)):
        drawn = points[:, :last].reshape(-1, 3)
        tiles.append(draw_prompts(overlay_masks(image, np.asarray(results[name])), drawn[:, :2], drawn[:, 2]))
    ious = [
        f'{100 * float(results["click_ious"][:, column].mean()):.1f}' if count else '-' for column in (0, -1)
    ]
    titles = ['image', 'objects', f'1 click: {ious[0]} %', f'{clicks} clicks: {ious[1]} %']
    path = Path(folder) / f'{Path(sample["img_path"]).stem}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(np.stack(tiles)[None], height=min(image.shape[0], 360), titles=titles).save(path)
    return path


def click_curve(curves: Mapping[str, Sequence[float]], size: tuple[int, int] = (560, 380)) -> Image.Image:
    """Mean IoU over the number of clicks.

    Args:
        curves: name to the values after 1, 2, ... clicks, in percent.
        size: (width, height) in pixels.

    Returns:
        an RGB picture on white.

    Raises:
        ValueError: no curve, or one without values.
    """
    if not curves or not all(len(values) for values in curves.values()):
        raise ValueError('a curve needs values: give {name: [IoU after 1 click, after 2, ...]}')
    width, height = size
    left, right, top, bottom = 48, width - 16, 16, height - 44
    most = max(len(values) for values in curves.values())
    canvas = Image.new('RGB', size, 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)

    def place(number, value):
        return left + (right - left) * (number - 1) / max(most - 1, 1), bottom - (bottom - top) * value / 100

    for value in range(0, 101, 20):
        y = place(1, value)[1]
        draw.line((left, y, right, y), fill=(220, 220, 220))
        draw.text((left - 6, y), str(value), fill='black', font=font, anchor='rm')
    for number in range(1, most + 1):
        draw.text((place(number, 0)[0], bottom + 6), str(number), fill='black', font=font, anchor='mt')
    draw.text(((left + right) / 2, height - 14), 'clicks', fill='black', font=font, anchor='mm')
    draw.text((left + 4, top - 2), 'mean IoU, %', fill='black', font=font, anchor='lt')
    for index, (name, values) in enumerate(curves.items()):
        colour = class_color(index)
        places = [place(number, value) for number, value in enumerate(values, 1)]
        draw.line(places, fill=colour, width=3)
        for x, y in places:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        y = bottom - 18 * (len(curves) - index)
        draw.rectangle((right - 170, y - 5, right - 160, y + 5), fill=colour)
        draw.text((right - 154, y), name, fill='black', font=font, anchor='lm')
    return canvas
