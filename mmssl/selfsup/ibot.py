"""iBOT: BERT pre-training of images with an online tokenizer (Zhou et al., ICLR 2022, arXiv:2111.07832).

BEiT's masked patches, without a tokenizer that is trained beforehand: the teacher, a moving average of the
student, sees the whole image, and the softmax of its projection head at a masked patch is the soft token that
the student predicts there. DINO's loss on the class token gives the tokens their meaning.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.distributed import mean_over_ranks
from mmssl.layers.patch import patch_grid
from mmssl.losses.dino import promote_to_float32
from mmssl.losses.ibot import masked_patch_loss
from mmssl.registry import MODELS
from mmssl.selfsup.dino import DINO
from mmssl.selfsup.dinov2 import DINOv2ViT, MaskedPatches, draw_masked_patches, no_patches
from mmssl.selfsup.small import ARCH, Small
from mmssl.selfsup.views import concatenate_by_size


@MODELS.register_module()
class IBOT(DINO):
    """iBOT: ``IBOT(backbone=mmssl.DINOv2ViT, head=mmssl.DINOHead)``.

    Class token and patches share the head.

    Args:
        backbone: Config, or built.
        head: Config, or built. ``in_dim`` defaults to the width of the backbone.
        cls_weight: Weight of the loss of the class token, DINO's; 0 leaves it out, and then one view of an
            image is enough.
        patch_weight: Weight of the loss of masked patches.
        masking: Arguments of :func:`~mmssl.selfsup.dinov2.draw_masked_patches`.
        **kwargs: Passed on to :class:`~mmssl.selfsup.dino.DINO`.

    Attributes:
        patch_center: (1, K), moving average of the teacher's mean output over all patches of all processes.

    Raises:
        ValueError: The backbone has no mask token, or a weight is negative, or both are 0.
    """

    patch_center: Tensor

    def __init__(
        self,
        backbone: dict | nn.Module,
        head: dict | nn.Module,
        cls_weight: float = 1.0,
        patch_weight: float = 1.0,
        masking: dict | None = None,
        **kwargs,
    ):
        super().__init__(backbone, head, **kwargs)
        if not isinstance(self.backbone, DINOv2ViT):
            raise ValueError(
                f'the backbone of IBOT is {type(self.backbone).__name__}, which has no mask token; use '
                'mmssl.DINOv2ViT'
            )
        if min(cls_weight, patch_weight) < 0 or not (cls_weight or patch_weight):
            raise ValueError(
                f'cls_weight={cls_weight} and patch_weight={patch_weight} of IBOT: neither may be negative, '
                'and nothing is learned if both are 0; the paper has 1 and 1'
            )
        self.cls_weight = cls_weight
        self.patch_weight = patch_weight
        self.masking = masking or {}
        self.register_buffer('patch_center', torch.zeros(1, self.head.out_dim))

    def loss(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: Sequence | None = None,
        masked: MaskedPatches | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch (algorithm 1).

        Args:
            inputs: ``num_crops`` views (B, 3, H, W), normalised, two global ones first; with ``cls_weight=0``
                also one batch (B, 3, H, W).
            data_samples: Ignored.
            masked: Masked patches of the global views; drawn if None.

        Returns:
            ``loss_cls`` and ``loss_patch``, scalars; those without weight are left out.
        """
        self.begin_forward()
        global_crops, *local_crops = self._crops(inputs)
        if masked is None:
            height, width = global_crops.shape[2:]
            grid = patch_grid(height, width, self.backbone.patch_embed.patch_size)
            masked = draw_masked_patches(len(global_crops), grid, **self.masking)
        masked = MaskedPatches(*(index.to(global_crops.device, non_blocking=True) for index in masked))

        teacher_cls, teacher_patches = self._teacher_outputs(global_crops)
        cls_tokens, masked_tokens = self.backbone.encode(global_crops, masked, selected=masked)

        losses = {}
        if self.cls_weight:
            local = [self.backbone.encode(crops, selected=no_patches(crops))[0] for crops in local_crops]
            student_cls = self.head(torch.cat([cls_tokens, *local]))
            loss_cls = self.dino_loss(student_cls, teacher_cls, self.clock.epoch)
            losses['loss_cls'] = self.cls_weight * loss_cls
        if self.patch_weight:
            temperature = self.dino_loss.temperature(self.clock.epoch)
            tokens = F.softmax((masked.select(teacher_patches) - self.patch_center) / temperature, dim=-1)
            losses['loss_patch'] = self.patch_weight * masked_patch_loss(
                self.head(masked_tokens), tokens, masked.image, len(global_crops), self.dino_loss.student_temp
            )
            if self.training:
                self._update_patch_center(teacher_patches)
        return losses

    def _crops(self, inputs: Tensor | list[Tensor]) -> list[Tensor]:
        """Join the views of equal size; without a loss of the class token local views are of no use."""
        if self.cls_weight:
            return concatenate_by_size(self.views(inputs, self.num_crops))
        return concatenate_by_size([inputs] if isinstance(inputs, Tensor) else self.views(inputs))[:1]

    @torch.no_grad()
    def _teacher_outputs(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the teacher's head on whole crops: (2 * B, K) and (2 * B, N, K)."""
        backbone, head = self.teacher.module
        cls_tokens, patches = backbone.encode(crops)
        outputs = promote_to_float32(head(patches.flatten(0, 1)))
        return promote_to_float32(head(cls_tokens)), outputs.unflatten(0, patches.shape[:2])

    @torch.no_grad()
    def _update_patch_center(self, teacher_patches: Tensor) -> None:
        """Move the centre towards the mean output over all patches (algorithm 1, C')."""
        mean = mean_over_ranks(teacher_patches.mean(dim=(0, 1))[None])
        self.patch_center.lerp_(mean.to(self.patch_center.dtype), 1 - self.dino_loss.center_momentum)


VIT = dict(type='mmssl.DINOv2ViT', arch=ARCH, img_size=32, patch_size=8)
HEAD = dict(type='mmssl.DINOHead', out_dim=16, hidden_dim=32, bottleneck_dim=8)


SMALL = {
    'IBOT': Small(
        dict(backbone=VIT, head=HEAD, num_crops=3),
        lambda model, images: sum(
            model.loss(
                [images, images.flip(3), images[..., :16, :16]],
                masked=draw_masked_patches(4, (4, 4), rng=random.Random(0)),
            ).values()
        ),
    ),
}
