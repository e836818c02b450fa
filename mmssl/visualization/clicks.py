"""Figures of interactive segmentation: masks after clicks, and IoU over the number of clicks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.data.pictures import read_rgb
from mmssl.visualization.layout import image_grid
from mmssl.visualization.promptable import draw_prompts, overlay_masks


def draw_clicks(sample: Mapping, folder: str | Path) -> Path:
    """Write NAME.png: image, objects, and masks after the first and the last click of the simulated user.

    Args:
        sample: Output of :class:`mmssl.InteractiveSAM` with ``clicks=dict(keep_masks=True)``, as a dict.
        folder: Folder of the figure; created if missing.

    Returns:
        The file.

    Raises:
        ValueError: The sample has no masks.
    """
    results = sample['pred_instances']
    if 'first_masks' not in results:
        raise ValueError('figures need the masks; set model.clicks.keep_masks=True')
    image = read_rgb(sample['img_path'])
    num_objects, num_clicks = results['click_ious'].shape
    points = np.asarray(results['points'])
    tiles = [image, overlay_masks(image, np.asarray(sample['gt_instances']['masks']))]
    for name, count in (('first_masks', 1), ('last_masks', num_clicks)):
        clicks = points[:, :count].reshape(-1, 3)
        overlay = overlay_masks(image, np.asarray(results[name]))
        tiles.append(draw_prompts(overlay, clicks[:, :2], clicks[:, 2]))
    first, last = (
        f'{100 * float(results["click_ious"][:, column].mean()):.1f}' if num_objects else '-'
        for column in (0, -1)
    )
    titles = ['image', 'objects', f'1 click: {first} %', f'{num_clicks} clicks: {last} %']
    path = Path(folder) / f'{Path(sample["img_path"]).stem}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    image_grid(np.stack(tiles)[None], titles, height=min(image.shape[0], 360)).save(path)
    return path


def click_curve(curves: Mapping[str, Sequence[float]], size: tuple[int, int] = (560, 380)) -> Image.Image:
    """Draw mean IoU over the number of clicks.

    Args:
        curves: Name -> values after 1, 2, ... clicks, in percent.
        size: (width, height) in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: There is no curve, or one without values.
    """
    if not curves or not all(len(values) for values in curves.values()):
        raise ValueError('a curve needs values: give {name: [IoU after 1 click, after 2, ...]}')
    width, height = size
    left, right, top, bottom = 48, width - 16, 16, height - 44
    max_clicks = max(len(values) for values in curves.values())
    canvas = Image.new('RGB', size, 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)

    def position(clicks: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (clicks - 1) / max(max_clicks - 1, 1)
        return x, bottom - (bottom - top) * value / 100

    for value in range(0, 101, 20):
        y = position(1, value)[1]
        draw.line((left, y, right, y), fill=(220, 220, 220))
        draw.text((left - 6, y), str(value), fill='black', font=font, anchor='rm')
    for clicks in range(1, max_clicks + 1):
        draw.text((position(clicks, 0)[0], bottom + 6), str(clicks), fill='black', font=font, anchor='mt')
    draw.text(((left + right) / 2, height - 14), 'clicks', fill='black', font=font, anchor='mm')
    draw.text((left + 4, top - 2), 'mean IoU, %', fill='black', font=font, anchor='lt')
    for index, (name, values) in enumerate(curves.items()):
        color = class_color(index)
        line = [position(clicks, value) for clicks, value in enumerate(values, 1)]
        draw.line(line, fill=color, width=3)
        for x, y in line:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
        y = bottom - 18 * (len(curves) - index)
        draw.rectangle((right - 170, y - 5, right - 160, y + 5), fill=color)
        draw.text((right - 154, y), name, fill='black', font=font, anchor='lm')
    return canvas
