"""Simulated users who click at objects until the mask fits (arXiv:2304.02643, appendix D.1)."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.promptable.prompts import boxes_of, extent, next_click


class Prediction(NamedTuple):
    """Masks of N objects.

    Attributes:
        logits: (N, 1, 4h, 4w) logits of the most confident mask of each object.
        best: (N, H, W) bool, the most confident mask of each object.
        candidates: For each object all masks (M, H, W) bool.
    """

    logits: Tensor
    best: np.ndarray
    candidates: list[np.ndarray]


class ClickSimulation:
    """Evaluates clicks at the centre of the larger error region, and the tight box, at the size of the file.

    The first click gets the most confident of three masks; later ones get the single mask, with all clicks
    and the last logits as the prompt.

    Args:
        clicks: Number of clicks at each object; 9 in the paper.
        box: Evaluate the box too.
        chunk: Number of objects in a call of the decoder.
        box_multimask: The box gets the most confident of three masks, as the first click does, instead of the
            single mask.
        dilation_ratio: Thickness of the contour that boundary IoU compares, as a fraction of the diagonal of
            the image (arXiv:2103.16562).
        keep_masks: Return masks too.
    """

    def __init__(
        self,
        clicks: int = 9,
        box: bool = True,
        chunk: int = 64,
        box_multimask: bool = False,
        dilation_ratio: float = 0.02,
        keep_masks: bool = False,
    ):
        if clicks < 1 or chunk < 1:
            raise ValueError(f'clicks={clicks} and chunk={chunk} of ClickSimulation must be at least 1')
        self.clicks = clicks
        self.box = box
        self.chunk = chunk
        self.box_multimask = box_multimask
        self.dilation_ratio = dilation_ratio
        self.keep_masks = keep_masks

    def __call__(
        self, model, embedding: Tensor, masks: Tensor, img_shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Evaluate the objects of an image.

        Args:
            model: A model with ``encode_prompts``, ``decode`` and ``img_size``.
            embedding: (1, C, h, w).
            masks: (N, H, W) bool at the size of the file, none empty.
            img_shape: (height, width) of the resized image inside the padded square.

        Returns:
            Float32 on the CPU: 'click_ious' (N, clicks), 'best_ious' (N,) of the best of the three first
            masks, 'boundary_ious' (N, clicks), 'areas' (N,), with ``box`` 'box_ious' (N,); with
            ``keep_masks`` 'first_masks' and 'last_masks' (N, H, W) bool and 'points' (N, clicks, 3), x, y and
            label.
        """
        if not len(masks):
            return self._empty_results(masks)
        parts = [
            _Chunk(self, model, embedding, part, img_shape).evaluate() for part in masks.split(self.chunk)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _empty_results(self, masks: Tensor) -> dict[str, Tensor]:
        rows = torch.zeros(0, self.clicks)
        result = {'click_ious': rows, 'boundary_ious': rows, 'best_ious': rows[:, 0], 'areas': rows[:, 0]}
        if self.box:
            result['box_ious'] = rows[:, 0]
        if self.keep_masks:
            points = torch.zeros(0, self.clicks, 3)
            result.update(first_masks=masks.cpu(), last_masks=masks.cpu(), points=points)
        return result


class _Chunk:
    """Objects of an image that are decoded together.

    Args:
        settings: The simulation.
        model: As in :meth:`ClickSimulation.__call__`.
        embedding: As in :meth:`ClickSimulation.__call__`.
        masks: (N, H, W) bool, none empty.
        img_shape: As in :meth:`ClickSimulation.__call__`.
    """

    def __init__(self, settings: ClickSimulation, model, embedding: Tensor, masks: Tensor, img_shape):
        self.settings = settings
        self.model = model
        self.embedding = embedding
        self.masks = masks
        self.img_shape = img_shape
        self.size = tuple(masks.shape[1:])
        self.targets = masks.cpu().numpy()
        if not self.targets.reshape(len(masks), -1).any(1).all():
            raise ValueError('an object without a pixel cannot be clicked at; leave empty masks out')
        scale = [img_shape[1] / self.size[1], img_shape[0] / self.size[0]]
        self.scale = torch.tensor(scale, dtype=torch.float64)

    def evaluate(self) -> dict[str, Tensor]:
        """Click, try the box, and return the results."""
        result = self._click()
        result['areas'] = self.masks.flatten(1).sum(1).float().cpu()
        if self.settings.box:
            count = len(self.masks)
            boxes = boxes_of(self.masks).cpu() * self.scale.repeat(2).float()
            points, labels = torch.zeros(count, 1, 2), torch.zeros(count, 1, dtype=torch.long)
            boxed = self._predict(points, labels, boxes, None, self.settings.box_multimask)
            result['box_ious'] = torch.tensor(_ious(boxed.best, self.targets))
        return result

    def _click(self) -> dict[str, Tensor]:
        count, targets = len(self.masks), self.targets
        contours = [contour(target, self.settings.dilation_ratio) for target in targets]
        best = np.zeros_like(targets)
        clicked = np.zeros_like(targets)
        points, labels = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long)
        logits = None
        click_ious, boundary_ious = [], []
        for index in range(self.settings.clicks):
            new_points, new_labels = self._next_clicks(best, clicked)
            points = torch.cat([points, new_points[:, None]], dim=1)
            labels = torch.cat([labels, new_labels[:, None]], dim=1)
            prediction = self._predict(points, labels, torch.zeros(0, 4), logits, index == 0)
            logits, best = prediction.logits, prediction.best
            if index == 0:
                first = prediction
            click_ious.append(_ious(best, targets))
            outlines = [contour(mask, self.settings.dilation_ratio) for mask in best]
            boundary_ious.append(_ious(outlines, contours))
        best_ious = [
            max(_iou(mask, target) for mask in masks)
            for masks, target in zip(first.candidates, targets, strict=True)
        ]
        result = {
            'click_ious': torch.tensor(click_ious).T,
            'boundary_ious': torch.tensor(boundary_ious).T,
            'best_ious': torch.tensor(best_ious),
        }
        if self.settings.keep_masks:
            result['first_masks'] = torch.from_numpy(first.best)
            result['last_masks'] = torch.from_numpy(best)
            result['points'] = torch.cat([points / self.scale.float(), labels[..., None].float()], dim=2)
        return result

    def _next_clicks(self, best: np.ndarray, clicked: np.ndarray) -> tuple[Tensor, Tensor]:
        """Points (N, 2) of the resized image and labels (N,); marks the pixels in ``clicked`` (N, H, W)."""
        pixels, labels = [], []
        for pred, target, before in zip(best, self.targets, clicked, strict=True):
            click = next_click(pred, target, before)
            # if nothing is wrong, a padding point, which the encoder ignores
            x, y, label = (0, 0, -1) if click is None else click
            if click is not None:
                before[y, x] = True
            pixels.append((x, y))
            labels.append(label)
        points = torch.tensor(pixels, dtype=torch.float64) * self.scale
        return points.float(), torch.tensor(labels)

    def _predict(
        self, points: Tensor, labels: Tensor, boxes: Tensor, logits: Tensor | None, multimask: bool
    ) -> Prediction:
        device, count = self.embedding.device, len(self.masks)
        prompts = (points.to(device), labels.to(device), boxes.to(device), logits)
        sparse, dense = self.model.encode_prompts(*prompts)
        index = torch.zeros(count, dtype=torch.long, device=device)
        masks, ious = self.model.decode(self.embedding, index, sparse, dense, multimask)
        masks = masks.float()
        rows = ious.argmax(1).cpu()
        # one object at a time: three masks of all objects at the size of the file would be large
        candidates = [
            (to_file_size(part[None], self.model.img_size, self.img_shape, self.size)[0] > 0).cpu().numpy()
            for part in masks
        ]
        best = np.stack([part[int(row)] for part, row in zip(candidates, rows, strict=True)])
        return Prediction(masks[torch.arange(count), rows][:, None], best, candidates)


def to_file_size(logits: Tensor, img_size: int, img_shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize low-resolution logits to the padded square, remove the padding, and resize to the file.

    Args:
        logits: (N, M, h, w).
        img_size: Side of the square.
        img_shape: (height, width) of the image in it.
        size: (H, W) of the file.

    Returns:
        (N, M, H, W).
    """
    square = F.interpolate(logits, (img_size, img_size), mode='bilinear', align_corners=False)
    inside = square[..., : img_shape[0], : img_shape[1]]
    return F.interpolate(inside, size, mode='bilinear', align_corners=False)


def contour(mask: np.ndarray, dilation_ratio: float) -> np.ndarray:
    """Pixels of a mask near its border, the edge of the image included (Boundary IoU, arXiv:2103.16562).

    Args:
        mask: (H, W) bool.
        dilation_ratio: Largest distance as a fraction of the diagonal; at least 1 pixel.

    Returns:
        (H, W) bool.
    """
    distance = max(1, round(dilation_ratio * float(np.hypot(*mask.shape))))
    part = extent(mask)
    if not mask[part].size:
        return mask.copy()
    padded = cv2.copyMakeBorder(mask[part].astype(np.uint8), *[distance] * 4, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((2 * distance + 1, 1), np.uint8)
    inside = cv2.erode(cv2.erode(padded, kernel), kernel.T)[distance:-distance, distance:-distance]
    band = mask.copy()
    band[part] &= ~inside.astype(bool)
    return band


def _ious(preds, targets) -> list[float]:
    return [_iou(pred, target) for pred, target in zip(preds, targets, strict=True)]


def _iou(pred: np.ndarray, target: np.ndarray) -> float:
    union = np.count_nonzero(pred | target)
    return np.count_nonzero(pred & target) / union if union else 1.0
