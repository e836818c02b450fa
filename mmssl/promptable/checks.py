"""Checks of images, prompts and predictions, with errors that name the value, the reason and the cure."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# pixels that rounding may put a point outside of an image
SLACK = 1e-3
# how far a box may reach out of an image: a share of the longest side, or as many pixels if that is more
BOX_MARGIN = 0.05
MIN_BOX_MARGIN = 8
LABELS = (-1, 0, 1)


def check_image(image: np.ndarray, channels: int = 3) -> None:
    """Raise TypeError or ValueError unless an image is a (H, W, C) uint8 array with pixels.

    Args:
        image: The image.
        channels: C, the channels that the model reads.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f'an image of type {type(image).__name__}; give an array (H, W, 3) of uint8: np.asarray(image) '
            'of a Pillow image, or a resized tensor to set_torch_image'
        )
    if image.size == 0:
        raise ValueError(f'an empty image of shape {image.shape}; was the file read?')
    if image.ndim != 3 or image.shape[2] != channels:
        hint = _shape_hint(image) if channels == 3 else f'the model reads {channels} channels'
        raise ValueError(f'an image of shape {image.shape}; give (H, W, {channels}): {hint}')
    if image.dtype == np.uint8:
        return
    if image.dtype.kind not in 'fiub':
        raise TypeError(f'an image of {image.dtype}; give uint8, 0 to 255')
    low, high = float(image.min()), float(image.max())
    hint = 'bring its values into 0 to 255 first'
    if 0 <= low <= high <= 1:
        hint = '(image * 255).round().astype(np.uint8)'
    elif 0 <= low <= high <= 255:
        hint = 'image.round().astype(np.uint8)'
    raise TypeError(
        f'an image of {image.dtype} with values from {low:g} to {high:g}; give uint8, 0 to 255: {hint}'
    )


def _shape_hint(image: np.ndarray) -> str:
    """How to bring an image of another shape to (H, W, 3)."""
    if image.ndim == 2:
        return 'np.stack([image] * 3, axis=-1)'
    if image.shape[-1] == 1:
        return 'np.repeat(image, 3, axis=-1)'
    if image.shape[-1] == 4:
        return 'image[..., :3]'
    if image.ndim == 3 and image.shape[0] == 3:
        return 'image.transpose(1, 2, 0)'
    return 'one image at a time'


def check_resized_image(
    image: Tensor, original_size: Sequence[int], img_size: int, channels: int = 3
) -> None:
    """Raise ValueError unless a tensor is a resized image (1, C, H, W) of pixels from 0 to 255.

    Args:
        image: The tensor.
        original_size: (height, width) before resizing.
        img_size: Longest side in pixels that the model encodes.
        channels: C, the channels that the model reads.
    """
    shape = tuple(image.shape)
    if len(shape) != 4 or shape[:2] != (1, channels) or min(shape) < 1 or max(shape[2:]) != img_size:
        raise ValueError(
            f'an image of shape {shape}; give (1, {channels}, H, W) with {img_size} as the longer of H and '
            'W, as predictor.transform.apply_image resizes it, or call set_image'
        )
    if len(original_size) != 2 or min(original_size) < 1:
        raise ValueError(
            f'original_image_size={tuple(original_size)}; give (height, width) in pixels before resizing'
        )
    if image.dtype == torch.uint8:
        return
    low, high = (float(value) for value in image.aminmax())
    # whole numbers up to 1 are a dark image, fractions up to 1 one that was divided by 255
    divided = image.is_floating_point() and 0 < high <= 1 and bool((image != image.round()).any())
    if not 0 <= low <= high <= 255 or divided:
        hint = ', image * 255' if 0 <= low <= high <= 1 else ', not normalised: the model does that'
        raise ValueError(f'an image with values from {low:g} to {high:g}; give pixels from 0 to 255{hint}')


def check_resized_points(points: Tensor, labels: Tensor, size: Sequence[int], hint: str) -> None:
    """Raise ValueError if a label is unknown or a point is outside the resized image.

    Args:
        points: (P, N, 2); other shapes are left to the prompt encoder.
        labels: (P, N).
        size: (height, width) of the resized image.
        hint: End of the message.
    """
    if points.shape[:-1] == labels.shape:
        check_labels(labels.cpu().numpy())
        check_points(points[labels != -1].reshape(-1, 2).cpu().numpy(), size, hint=hint)


def check_points_and_labels(coords, labels) -> None:
    """Raise ValueError if there are points without labels, or labels without points."""
    if (coords is None) == (labels is None):
        return
    present, missing = (
        ('point_labels', 'point_coords') if coords is None else ('point_coords', 'point_labels')
    )
    raise ValueError(
        f'{present} without {missing}: every point needs x, y and a label, 1 foreground or 0 background'
    )


def check_labels(labels: np.ndarray) -> None:
    """Raise ValueError if a label is not 1, 0 or -1.

    Labels 2 and 3 are corners of a box to the exported decoder, and nothing to the predictor of
    ``segment_anything``.
    """
    wrong = labels[~np.isin(labels, LABELS)]
    if wrong.size:
        hint = '; corners of a box are given as box or boxes' if np.isin(wrong.flat[0], (2, 3)) else ''
        raise ValueError(
            f'a point has the label {wrong.flat[0]}; give 1 for foreground, 0 for background, -1 for no point'
            f'{hint}'
        )


def check_points(
    points: np.ndarray, size: Sequence[int], what: str = 'point', hint: str = '', margin: float = SLACK
) -> None:
    """Raise ValueError if a point is outside an image.

    Args:
        points: (N, 2), x and y in pixels.
        size: (height, width) of the image.
        what: What the points are, for the message.
        hint: End of the message.
        margin: Pixels by which a point may be outside.
    """
    height, width = size
    inside = (points >= -margin) & (points <= np.array([width + margin, height + margin]))
    wrong = np.flatnonzero(~inside.all(axis=-1)) if len(points) else points
    if len(wrong):
        x, y = points[wrong[0]]
        raise ValueError(
            f'{what} ({x:g}, {y:g}) is outside the image, which is {width} wide and {height} high; give '
            f'(x, y) in pixels, x first{hint}'
        )


def check_boxes(boxes: np.ndarray, size: Sequence[int], hint: str = '') -> None:
    """Raise ValueError if a box is far outside an image or ends before it begins.

    Detectors give boxes that reach a little over the border; they are used as they are.

    Args:
        boxes: (N, 4) left, top, right, bottom in pixels.
        size: (height, width) of the image.
        hint: End of the message.
    """
    margin = max(MIN_BOX_MARGIN, BOX_MARGIN * max(size))
    check_points(boxes.reshape(-1, 2), size, 'corner of a box', hint, margin)
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        raise ValueError(
            f'box {boxes[wrong[0]].tolist()} ends before it begins; give left, top, right, bottom (not width '
            'and height)'
        )


def check_decoder_inputs(
    images: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, image_index: Tensor | None
) -> None:
    """Raise ValueError if image embeddings, their positional encoding and prompts do not fit together."""
    prompts, grid = sparse.shape[0], images.shape[-2:]
    if image_index is None and images.shape[0] not in (1, prompts):
        raise ValueError(
            f'{images.shape[0]} images for {prompts} prompts; give image_index, the image of each prompt'
        )
    if dense.shape[0] not in (1, prompts) or image_pe.shape[-2:] != grid or dense.shape[-2:] != grid:
        raise ValueError(
            f'{prompts} prompts and a map of {tuple(grid)} do not fit dense prompts of shape '
            f'{tuple(dense.shape)} and positions of {tuple(image_pe.shape[-2:])}'
        )


def check_decoder_outputs(*outputs: Tensor) -> None:
    """Raise ValueError on NaN or infinity, which a threshold would turn into empty masks."""
    for output in outputs:
        if output.numel() and not all(torch.isfinite(limit) for limit in torch.aminmax(output.detach())):
            raise ValueError(
                'Segment Anything predicts NaN or infinite masks: the checkpoint, the image or a prompt '
                'contains NaN or infinity'
            )
