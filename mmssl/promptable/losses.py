"""Losses of masks (arXiv:2304.02643, appendix A): focal and dice, 20 to 1, and the squared error of the IoU.

Every loss is a value for each mask, so that the best of several masks can be chosen. The focal factor belongs
to a pixel: a loss that averages first and focuses afterwards focuses on nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002, equation 5): mean over pixels of -a_t (1 - p_t)^gamma log(p_t).

    Args:
        logits: (..., H, W).
        target: The same shape, or one that broadcasts to it, of 0 and 1 (or bool).
        alpha: a_t of the object; that of the background is 1 - alpha. Negative for no weights.
        gamma: Exponent of the focal factor.

    Returns:
        (...), a value for each mask.
    """
    target = target.to(logits.dtype)
    signed = logits * (2 * target - 1)  # logit of p_t
    loss = F.softplus(-signed) * torch.sigmoid(-signed) ** gamma
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * target)
    return loss.mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss (arXiv:1606.04797, smoothed as in MaskFormer): 1 - (2 |P T| + smooth) / (|P| + |T| + smooth).

    Args:
        logits: (..., H, W); P are their probabilities.
        target: As in :func:`focal_loss`.
        smooth: Prevents a division by 0 for an empty target.

    Returns:
        (...), a value for each mask.
    """
    target = target.to(logits.dtype)
    probability = logits.sigmoid()
    common = (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * common + smooth) / (total + smooth)


def mask_iou(pred: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of masks; 1 if both are empty.

    Args:
        pred: (..., H, W) bool.
        target: (..., H, W) bool, of a shape that broadcasts with it.

    Returns:
        (...) float32.
    """
    common = (pred & target).sum((-2, -1))
    union = (pred | target).sum((-2, -1))
    return torch.where(union > 0, common / union.clamp(min=1), 1.0).float()


class MaskLosses(torch.nn.Module):
    """Focal, dice and IoU losses of a round, with the best of several masks for an ambiguous prompt.

    Args:
        focal_weight: Weight of the focal loss; 20 in the paper.
        dice_weight: Weight of the dice loss; 1 in the paper.
        iou_weight: Weight of the loss of the predicted IoU; 1 in the paper.
        alpha: As in :func:`focal_loss`.
        gamma: As in :func:`focal_loss`.
        supervise_all_ious: Train the predicted IoU of every mask instead of that of the chosen one: at
            inference all of them are compared.

    Raises:
        ValueError: A negative weight.
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
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.alpha = alpha
        self.gamma = gamma
        self.supervise_all_ious = supervise_all_ious

    def forward(self, logits: Tensor, ious: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted losses of N prompts, each of the candidate with the lowest focal plus dice loss.

        Args:
            logits: (N, M, H, W) of M candidate masks.
            ious: (N, M), predicted.
            target: (N, H, W) bool.

        Returns:
            'focal', 'dice' and 'iou' (N,); 'true_ious' (N, M) without gradient.
        """
        target = target[:, None]
        focal = self.focal_weight * focal_loss(logits.float(), target, self.alpha, self.gamma)
        dice = self.dice_weight * dice_loss(logits.float(), target)
        best = (focal + dice).detach().argmin(1, keepdim=True)
        true_ious = mask_iou(logits.detach() > 0, target)
        squared = (ious.float() - true_ious) ** 2
        error = squared.mean(1) if self.supervise_all_ious else squared.gather(1, best).squeeze(1)
        return {
            'focal': focal.gather(1, best).squeeze(1),
            'dice': dice.gather(1, best).squeeze(1),
            'iou': self.iou_weight * error,
            'true_ious': true_ious,
        }
