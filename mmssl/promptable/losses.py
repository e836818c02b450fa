"""Losses of masks (Segment Anything, arXiv:2304.02643, appendix A: focal 20 to dice 1, and the squared error of the predicted IoU).

Every loss is a number a mask, so that the best of several masks can be chosen. One that averages first and
focuses afterwards focuses on nothing: the focal factor belongs to a pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002, equation 5): mean over pixels of -a_t (1 - p_t)^gamma log(p_t).

    Args:
        logits: (..., H, W).
        target: the same shape, or one that broadcasts to it, of 0 and 1 (or bool).
        alpha: a_t of the object; the background's is 1 - alpha. Negative: no weights.
        gamma: focus.

    Returns:
        (...), one a mask.
    """
    target = target.to(logits.dtype)
    signed = logits * (2 * target - 1)  # logit of the right answer
    loss = F.softplus(-signed) * torch.sigmoid(-signed) ** gamma
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * target)
    return loss.mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 |P T| + smooth) / (|P| + |T| + smooth) with P the probabilities (arXiv:1606.04797; V-Net, with MaskFormer's smoothing).

    Args:
        logits, target: as in :func:`focal_loss`.
        smooth: keeps an empty target from dividing by 0.

    Returns:
        (...), one a mask.
    """
    target = target.to(logits.dtype)
    probability = logits.sigmoid()
    common = (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * common + smooth) / (total + smooth)


def mask_iou(pred: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of masks; 1 where both are empty.

    Args:
        pred, target: (..., H, W) bool, of shapes that broadcast.

    Returns:
        (...) float32.
    """
    common = (pred & target).sum((-2, -1))
    union = (pred | target).sum((-2, -1))
    return torch.where(union > 0, common / union.clamp(min=1), 1.0).float()


class MaskLosses(torch.nn.Module):
    """Focal, dice and IoU losses of one round, with the best of several masks for an ambiguous prompt.

    Args:
        focal_weight, dice_weight, iou_weight: 20, 1 and 1 in the paper.
        alpha, gamma: of the focal loss.
        supervise_all_ious: the predicted IoU of every mask learns, not of the chosen one alone; at inference
            all of them are compared.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        supervise_all_ious: bool = True,
    ):
        super().__init__()
        for name, value in (
            ('focal_weight', focal_weight),
            ('dice_weight', dice_weight),
            ('iou_weight', iou_weight),
            ('gamma', gamma),
        ):
            if not value >= 0:
                raise ValueError(f'{name}={value} of MaskLosses must not be negative')
        self.focal_weight, self.dice_weight, self.iou_weight = focal_weight, dice_weight, iou_weight
        self.alpha, self.gamma, self.supervise_all_ious = alpha, gamma, supervise_all_ious

    def forward(self, logits: Tensor, ious: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Losses of N prompts, weighted; of several candidates the one whose focal and dice loss is least learns.

        Args:
            logits: (N, M, H, W) of M candidate masks.
            ious: (N, M) predicted.
            target: (N, H, W) bool.

        Returns:
            'focal', 'dice', 'iou' (N,); 'true_ious' (N, M) without gradient.
        """
        truth = target[:, None]
        focal = self.focal_weight * focal_loss(logits.float(), truth, self.alpha, self.gamma)
        dice = self.dice_weight * dice_loss(logits.float(), truth)
        chosen = (focal + dice).detach().argmin(1, keepdim=True)
        true_ious = mask_iou(logits.detach() > 0, truth)
        squared = (ious.float() - true_ious) ** 2
        iou = self.iou_weight * (
            squared.mean(1) if self.supervise_all_ious else squared.gather(1, chosen).squeeze(1)
        )
        return {
            'focal': focal.gather(1, chosen).squeeze(1),
            'dice': dice.gather(1, chosen).squeeze(1),
            'iou': iou,
            'true_ious': true_ious,
        }
