"""Simulated users who click at objects until the mask fits: how a promptable segmenter is evaluated (arXiv:2304.02643, appendix D.1)."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.promptable.prompts import boxes_of, extent, next_click


class ClickSimulation:
    """Clicks at the centre of the larger error region, at the size of the file, and a run with the tight box alone.

    The first click is answered by the most confident of three masks; later ones by the single mask, with all
    clicks and the last logits as the prompt.

    Args:
        clicks: of each object; 9 in the paper.
        box: whether the box is tried too.
        chunk: objects in one decoder call.
        box_multimask: the box is answered by the most confident of three masks as the first click is, not by
            the single one.
        dilation_ratio: thickness of the contour that boundary IoU compares, as a share of the image's
            diagonal (arXiv:2103.16562).
        keep_masks: return masks too.
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
        self.clicks, self.box, self.chunk, self.box_multimask = clicks, box, chunk, box_multimask
        self.dilation_ratio, self.keep_masks = dilation_ratio, keep_masks

    def __call__(
        self, model, embedding: Tensor, masks: Tensor, img_shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Results of the objects of one image.

        Args:
            model: with ``encode_prompts``, ``decode`` and ``img_size``.
            embedding: (1, C, h, w).
            masks: (N, H, W) bool at the size of the file, none empty.
            img_shape: (height, width) of the resized image inside the padded square.

        Returns:
            'click_ious' (N, clicks), 'best_ious' (N,) of the best of the three first masks, 'boundary_ious'
            (N, clicks), 'areas' (N,), with ``box`` 'box_ious' (N,); with ``keep_masks`` 'first_masks' and
            'last_masks' (N, H, W) bool and 'points' (N, clicks, 3), x, y and label. Float32 on the CPU.
        """
        if not len(masks):
            return self._nothing(masks)
        parts = [self._some(model, embedding, part, img_shape) for part in masks.split(self.chunk)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _nothing(self, masks: Tensor) -> dict[str, Tensor]:
        rows = torch.zeros(0, self.clicks)
        result = {'click_ious': rows, 'boundary_ious': rows, 'best_ious': rows[:, 0], 'areas': rows[:, 0]}
        if self.box:
            result['box_ious'] = rows[:, 0]
        if self.keep_masks:
            result.update(
                first_masks=masks.cpu(), last_masks=masks.cpu(), points=torch.zeros(0, self.clicks, 3)
            )
        return result

    def _some(self, model, embedding: Tensor, masks: Tensor, img_shape: tuple[int, int]) -> dict[str, Tensor]:
        device, count, size = embedding.device, len(masks), tuple(masks.shape[1:])
        targets = masks.cpu().numpy()
        if not targets.reshape(count, -1).any(1).all():
            raise ValueError('an object without a pixel cannot be clicked at; leave empty masks out')
        scale = torch.tensor([img_shape[1] / size[1], img_shape[0] / size[0]], dtype=torch.float64)
        index = torch.zeros(count, dtype=torch.long, device=device)
        contours = [contour(target, self.dilation_ratio) for target in targets]

        def run(points, labels, boxes, prompt, multimask):
            sparse, dense = model.encode_prompts(
                points.to(device), labels.to(device), boxes.to(device), prompt
            )
            logits, ious = model.decode(embedding, index, sparse, dense, multimask)
            logits = logits.float()
            best = ious.argmax(1).cpu()
            low = logits[torch.arange(count), best][:, None]
            # one object at a time: three masks of all objects at the size of the file would be large
            full = [
                (to_file_size(part[None], model.img_size, img_shape, size)[0] > 0).cpu().numpy()
                for part in logits
            ]
            pred = np.stack([part[int(number)] for part, number in zip(full, best, strict=True)])
            return low, pred, full

        pred = np.zeros_like(targets)
        clicked = np.zeros_like(targets)
        points, labels = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long)
        nothing, prompt = torch.zeros(0, 4), None
        lists: dict[str, list] = {'click_ious': [], 'boundary_ious': []}
        for number in range(self.clicks):
            clicks = [next_click(*maps) for maps in zip(pred, targets, clicked, strict=True)]
            for row, click in enumerate(clicks):
                if click is not None:
                    clicked[row, click[1], click[0]] = True
            # nothing wrong: a padding point, which the encoder takes for none
            pixels = torch.tensor([click[:2] if click else (0, 0) for click in clicks], dtype=torch.float64)
            points = torch.cat([points, (pixels * scale).float()[:, None]], dim=1)
            labels = torch.cat(
                [labels, torch.tensor([[click[2] if click else -1] for click in clicks])], dim=1
            )
            prompt, pred, candidates = run(points, labels, nothing, prompt, number == 0)
            if number == 0:
                lists['best_ious'] = [
                    max(_iou(mask, target) for mask in three)
                    for three, target in zip(candidates, targets, strict=True)
                ]
                first = pred
            lists['click_ious'].append(
                [_iou(mask, target) for mask, target in zip(pred, targets, strict=True)]
            )
            lists['boundary_ious'].append(
                [
                    _iou(contour(mask, self.dilation_ratio), edge)
                    for mask, edge in zip(pred, contours, strict=True)
                ]
            )
        result = {name: torch.tensor(values) for name, values in lists.items()}
        result = {name: values.T if values.ndim == 2 else values for name, values in result.items()}
        result['areas'] = masks.flatten(1).sum(1).float().cpu()
        if self.box:
            boxes = boxes_of(masks).cpu() * scale.repeat(2).float()
            empty = torch.zeros(count, 1, 2), torch.zeros(count, 1, dtype=torch.long)
            _, boxed, _ = run(*empty, boxes, None, self.box_multimask)
            result['box_ious'] = torch.tensor(
                [_iou(mask, target) for mask, target in zip(boxed, targets, strict=True)]
            )
        if self.keep_masks:
            result.update(
                first_masks=torch.from_numpy(first),
                last_masks=torch.from_numpy(pred),
                points=torch.cat([points / scale.float(), labels[..., None].float()], dim=2),
            )
        return result


def to_file_size(logits: Tensor, img_size: int, img_shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Low-resolution logits at the size of the file: to the square, without its padding, to the file, bilinear.

    Args:
        logits: (N, M, h, w).
        img_size: side of the square.
        img_shape: (height, width) of the image in it.
        size: (H, W) of the file.

    Returns:
        (N, M, H, W).
    """
    square = F.interpolate(logits, (img_size, img_size), mode='bilinear', align_corners=False)[
        ..., : img_shape[0], : img_shape[1]
    ]
    return F.interpolate(square, size, mode='bilinear', align_corners=False)


def contour(mask: np.ndarray, dilation_ratio: float) -> np.ndarray:
    """Pixels of a mask within a distance of its border, the image's border included (Boundary IoU, arXiv:2103.16562).

    Args:
        mask: (H, W) bool.
        dilation_ratio: the distance as a share of the diagonal; at least 1 pixel.

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


def _iou(pred: np.ndarray, target: np.ndarray) -> float:
    union = np.count_nonzero(pred | target)
    return np.count_nonzero(pred & target) / union if union else 1.0
