"""Detected boxes over images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.layout import scaled_to_height, text_color


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    classes: Sequence[str],
    height: int = 480,
) -> Image.Image:
    """Draw boxes with their classes and scores over an image, the best one last.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels of the image.
        labels: (N,) int, indices into ``classes``.
        scores: (N,) in [0, 1], or None.
        classes: Names of the classes.
        height: Height of the result, to which the image is resized.

    Returns:
        An RGB image.
    """
    scale = height / image.shape[0]
    canvas = scaled_to_height(image, height)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(11, height // 34))
    for index in range(len(boxes)) if scores is None else np.argsort(scores, kind='stable'):
        left, top, right, bottom = (float(edge) * scale for edge in boxes[index])
        color = class_color(int(labels[index]))
        box = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(box, outline=color, width=max(2, height // 200))
        text = classes[labels[index]] + ('' if scores is None else f' {scores[index]:.2f}')
        text_box = draw.textbbox((0, 0), text, font=font)
        tag_width, tag_height = text_box[2] + 4, text_box[3] + 3
        left = min(max(0, left), max(0, canvas.width - tag_width))
        top = top - tag_height if top >= tag_height else top
        draw.rectangle((left, top, left + tag_width, top + tag_height), fill=color)
        draw.text((left + 2, top + 1), text, fill=text_color(color), font=font)
    return canvas
