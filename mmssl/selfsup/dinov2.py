"""DINOv2: self-distillation of images and of masked patches (Oquab et al., TMLR 2024, arXiv:2304.07193).

The loss of DINO on the class token, that of iBOT on the masked patches of the student's global crops, and
KoLeo, which spreads the features of a batch. The teacher, a moving average of the student, sees whole crops.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.distributed import mean_over_ranks
from mmssl.layers.masked_patches import MaskedPatches, draw_masked_patches, no_patches
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.patch import patch_grid
from mmssl.losses.dino import GLOBAL_CROPS, DINOLoss, cross_entropy_of_pairs, promote_to_float32
from mmssl.losses.ibot import masked_patch_loss
from mmssl.losses.koleo import KoLeoLoss
from mmssl.losses.sinkhorn import sinkhorn
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.dino import DINOViT
from mmssl.selfsup.small import ARCH, Small
from mmssl.selfsup.views import concatenate_by_size


@MODELS.register_module()
class DINOv2ViT(DINOViT):
    """ViT whose masked patches are replaced by a mask token.

    Args:
        *args: Passed on to :class:`~mmssl.selfsup.dino.DINOViT`.
        **kwargs: Passed on to :class:`~mmssl.selfsup.dino.DINOViT`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mask_token = nn.Parameter(torch.zeros(1, self.embed_dims))

    def encode(
        self, x: Tensor, masked: MaskedPatches | None = None, selected: MaskedPatches | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode images, masked or whole.

        Args:
            x: (B, 3, H, W), normalised.
            masked: Patches that are replaced by the mask token.
            selected: M patches whose tokens are returned; the last layer then computes only them and the
                class tokens. All if None.

        Returns:
            Class token (B, C) and patch tokens (B, N, C), or (M, C) of those selected, after the last norm.
        """
        patches, grid = self.patch_embed(x)
        if masked is not None:
            is_masked = masked.mask(*patches.shape[:2]).unsqueeze(2)
            patches = torch.where(is_masked, self.mask_token.to(patches.dtype), patches)
        tokens = self.prepend_tokens(patches, grid)
        rope = None if self.rope is None else self.rope(grid, tokens.device)
        rows = None
        if selected is not None:
            first = torch.arange(len(x), device=x.device) * tokens.shape[1]  # the class tokens
            rows = torch.cat([first, first[selected.image] + self.num_extra_tokens + selected.patch])
        for layer in self.layers[:-1]:
            tokens = self.run_layer(layer, tokens, 0, rope)
        tokens = self.run_layer(self.layers[-1], tokens, 0, rope, rows)
        tokens = self.ln1(tokens) if self.final_norm else tokens
        if selected is None:
            return tokens[:, 0], tokens[:, self.num_extra_tokens :]
        return tokens[: len(x)], tokens[len(x) :]


def gram_loss(features: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all patches (DINOv3, arXiv:2508.10104, equation 2).

    Args:
        features: (B, N, C) of the student.
        reference: (B, N, C) of the Gram teacher, or of other channels.

    Returns:
        scalar.
    """
    grams = [x @ x.transpose(1, 2) for x in (F.normalize(features, dim=-1), F.normalize(reference, dim=-1))]
    return F.mse_loss(*grams)


@MODELS.register_module()
class DINOv2(ScheduledSupervisor):
    """DINOv2: ``DINOv2(backbone=mmssl.DINOv2ViT, head=mmssl.DINOHead)``.

    With ``centering='center'`` each process has the same weight in the centre of the patches, whatever its
    number of masked patches.

    Args:
        backbone: Config, or built.
        head: Head of the class token: config, or built.
        patch_head: Head of the patches: config, or built; the head of the class token if None.
        num_crops: Views of an image, two global ones first.
        centering: 'sinkhorn' or 'center', how the teacher's outputs are balanced.
        warmup_teacher_temp: See :class:`~mmssl.losses.DINOLoss`.
        teacher_temp: See :class:`~mmssl.losses.DINOLoss`.
        warmup_teacher_temp_epochs: See :class:`~mmssl.losses.DINOLoss`.
        student_temp: See :class:`~mmssl.losses.DINOLoss`.
        center_momentum: See :class:`~mmssl.losses.DINOLoss`; of both centres.
        momentum: Initial momentum of the teacher, raised to ``final_momentum`` on a cosine.
        final_momentum: 1, or None for a constant momentum.
        freeze_last_layer: Epochs at the start in which the last layers of the heads are not trained.
        masking: Arguments of :func:`draw_masked_patches`.
        patch_weight: Weight of the loss of masked patches.
        koleo_weight: Weight of KoLeo; 0 leaves it out.
        gram_weight: Weight of :func:`gram_loss` between the student's patches and those of the Gram teacher,
            a copy of the teacher at the start of the run, also where ``load_from`` names one without Gram
            anchoring, or when :meth:`set_gram_teacher` is called; 0 leaves it out.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.
    """

    def __init__(  # noqa: PLR0913 - set in configs, the names of the released code
        self,
        backbone: dict | nn.Module,
        head: dict | nn.Module,
        patch_head: dict | nn.Module | None = None,
        num_crops: int = 10,
        centering: str = 'sinkhorn',
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.07,
        warmup_teacher_temp_epochs: int = 30,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        momentum: float = 0.992,
        final_momentum: float | None = 1.0,
        freeze_last_layer: int = 1,
        masking: dict | None = None,
        patch_weight: float = 1.0,
        koleo_weight: float = 0.1,
        gram_weight: float = 0.0,
        **kwargs,
    ):
        if centering not in ('sinkhorn', 'center'):
            raise ValueError(f"centering={centering!r} of DINOv2 is unknown; one of 'sinkhorn', 'center'")
        backbone = build(backbone, MODELS)
        if not isinstance(backbone, DINOv2ViT):
            raise ValueError(f'the backbone of DINOv2 is {type(backbone).__name__}; use mmssl.DINOv2ViT')
        width = dict(in_dim=backbone.embed_dims)
        super().__init__(backbone, head={**width, **head} if isinstance(head, dict) else head, **kwargs)
        self.patch_head = (
            build({**width, **patch_head} if isinstance(patch_head, dict) else patch_head, MODELS)
            if patch_head is not None
            else None
        )
        temperatures = (
            warmup_teacher_temp,
            teacher_temp,
            warmup_teacher_temp_epochs,
            None,
            student_temp,
        )  # of DINOLoss, in its order
        self.dino_loss = DINOLoss(self.head.out_dim, num_crops, *temperatures, center_momentum)
        self.koleo_loss = KoLeoLoss()
        self.register_buffer('patch_center', torch.zeros(1, (self.patch_head or self.head).out_dim))
        self.num_crops = num_crops
        self.centering = centering
        self.freeze_last_layer = freeze_last_layer
        self.masking = masking or {}
        self.patch_weight = patch_weight
        self.koleo_weight = koleo_weight
        self.gram_weight = gram_weight
        self.teacher = MomentumEncoder(self.student, momentum, final_momentum)
        self.gram_teacher: MomentumEncoder | None = None
        if gram_weight:
            self.set_gram_teacher()
            self.register_load_state_dict_post_hook(_copy_missing_gram_teacher)

    @property
    def student(self) -> nn.ModuleList:
        """Backbone and heads that are trained."""
        heads = [self.head] if self.patch_head is None else [self.head, self.patch_head]
        return nn.ModuleList([self.backbone, *heads])

    @property
    def evaluated(self) -> nn.Module:
        """Backbone whose features ``extract_feat`` returns: the teacher's."""
        return self.teacher.module[0]

    def set_gram_teacher(self) -> None:
        """Make the Gram teacher a copy of the teacher as it is now (DINOv3, section 4.2)."""
        self.gram_teacher = MomentumEncoder(self.teacher.module[0])

    def init_weights(self) -> None:
        """Draw the initial weights; the teachers are copies of the student."""
        super().init_weights()
        if self.gram_teacher is not None:
            self.gram_teacher.copy_from(self.teacher.module[0])

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the teacher and the student."""
        return [(self.teacher, self.student)]

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W) from the teacher's backbone."""
        return self.evaluated(inputs)

    def loss(
        self, inputs: list[Tensor], data_samples: list | None = None, masked: MaskedPatches | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs: ``num_crops`` views (B, 3, H, W), normalised, two global ones first.
            data_samples: Ignored.
            masked: Masked patches of the global crops; drawn if None.

        Returns:
            ``loss_cls``, ``loss_patch``, ``loss_koleo`` and ``loss_gram``, scalars; those without weight are
            left out.
        """
        self.begin_forward()
        global_crops, *local_crops = concatenate_by_size(self.views(inputs, self.num_crops))
        if masked is None:
            height, width = global_crops.shape[2:]
            grid = patch_grid(height, width, self.backbone.patch_embed.patch_size)
            masked = draw_masked_patches(len(global_crops), grid, **self.masking)
        masked = MaskedPatches(*(index.to(global_crops.device, non_blocking=True) for index in masked))

        cls_targets, patch_targets = self._targets(global_crops, masked)
        selected = masked if self.gram_teacher is None else None  # Gram anchoring needs all patches
        cls_tokens, patches = self.backbone.encode(global_crops, masked, selected)
        local_tokens = [self.backbone.encode(crops, None, no_patches(crops))[0] for crops in local_crops]
        logits = promote_to_float32(self.head(torch.cat([cls_tokens, *local_tokens])))
        log_probs = F.log_softmax(logits / self.dino_loss.student_temp, dim=-1)
        losses = dict(loss_cls=cross_entropy_of_pairs(log_probs, cls_targets, self.num_crops))
        patch_head = self.head if self.patch_head is None else self.patch_head
        patch_logits = patch_head(patches if selected else masked.select(patches))
        losses['loss_patch'] = self.patch_weight * masked_patch_loss(
            patch_logits, patch_targets, masked.image, len(global_crops), self.dino_loss.student_temp
        )
        if self.koleo_weight:
            koleo = [self.koleo_loss(tokens) for tokens in cls_tokens.chunk(GLOBAL_CROPS)]
            losses['loss_koleo'] = self.koleo_weight * sum(koleo)
        if self.gram_teacher is not None:
            with torch.no_grad():
                reference = self.gram_teacher.module.encode(global_crops)[1]
            losses['loss_gram'] = self.gram_weight * gram_loss(
                promote_to_float32(patches), promote_to_float32(reference)
            )
        return losses

    @torch.no_grad()
    def _targets(self, global_crops: Tensor, masked: MaskedPatches) -> tuple[Tensor, Tensor]:
        """Balanced outputs of the teacher: (2 * B, K) of the class tokens, (M, K) of the masked patches."""
        backbone, *heads = self.teacher.module
        cls_tokens, patches = backbone.encode(global_crops, None, masked)
        cls_logits = promote_to_float32(heads[0](cls_tokens))
        patch_logits = promote_to_float32(heads[-1](patches))
        temperature = self.dino_loss.temperature(self.clock.epoch)
        if self.centering == 'sinkhorn':
            return sinkhorn(cls_logits, temperature), sinkhorn(patch_logits, temperature)
        targets = (
            F.softmax((cls_logits - self.dino_loss.center) / temperature, dim=-1),
            F.softmax((patch_logits - self.patch_center) / temperature, dim=-1),
        )
        if self.training:
            self.dino_loss.update_center(cls_logits)
            mean = mean_over_ranks(patch_logits.mean(dim=0, keepdim=True))
            self.patch_center.lerp_(mean.to(self.patch_center.dtype), 1 - self.dino_loss.center_momentum)
        return targets

    def before_update(self) -> None:
        """Cancel the gradients of the last layers in the first epochs."""
        if self.clock.epoch < self.freeze_last_layer:
            for head in self.student[1:]:
                for parameter in head.last_layer.parameters():
                    parameter.grad = None

    def after_update(self) -> None:
        """Move the teacher."""
        self.update_teachers()


def _copy_missing_gram_teacher(model: DINOv2, incompatible_keys) -> None:
    """After loading a run without Gram anchoring, begin with its teacher."""
    missing = [key for key in incompatible_keys.missing_keys if key.startswith('gram_teacher.module.')]
    if model.gram_teacher is not None and len(missing) == len(list(model.gram_teacher.module.parameters())):
        model.gram_teacher.copy_from(model.teacher.module[0])


VIT = dict(arch=ARCH, img_size=32, patch_size=8)
HEAD = dict(type='mmssl.DINOHead', out_dim=16, hidden_dim=32, bottleneck_dim=8)


def _masked(crops: int) -> MaskedPatches:
    return draw_masked_patches(crops, (4, 4), rng=random.Random(0))


SMALL = {
    'DINOv2ViT': Small(VIT, lambda model, images: model.encode(images, _masked(2))[0], (2, 32)),
    'DINOv2': Small(
        dict(backbone=dict(type='mmssl.DINOv2ViT', **VIT), head=HEAD, num_crops=3),
        lambda model, images: sum(
            model.loss([images, images.flip(3), images[..., :16, :16]], masked=_masked(4)).values()
        ),
    ),
}
