"""Loss of masked patches of iBOT (Zhou et al., ICLR 2022, arXiv:2111.07832)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.precision import no_autocast


def masked_patch_loss(
    logits: Tensor, targets: Tensor, image: Tensor, num_images: int, student_temp: float = 0.1
) -> Tensor:
    """Cross entropy between the teacher's and the student's outputs on masked patches (equation 2).

    Args:
        logits: (M, K), the student's outputs on the masked patches of all images.
        targets: (M, K), the teacher's distributions there, rows sum to 1.
        image: (M,), image of each patch, from 0.
        num_images: Images B of the batch, those without a masked patch included.
        student_temp: Temperature of the student.

    Returns:
        scalar, the mean over the patches of an image, then over B.
    """
    with no_autocast(logits):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        cross_entropy = -(targets * F.log_softmax(logits / student_temp, dim=-1)).sum(dim=-1)
        patches = torch.zeros(num_images, dtype=logits.dtype, device=logits.device)
        patches = patches.index_add(0, image, torch.ones_like(cross_entropy))
        return (cross_entropy / patches[image]).sum() / num_images
