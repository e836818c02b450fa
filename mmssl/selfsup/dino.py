"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, arXiv:2104.14294).

A student sees two large and several small crops of an image, a teacher the large ones alone; for every pair
of different crops the student learns to say of its crop what the teacher says of the other. The teacher is a
moving average of the student. Two opposite forces keep the teacher from saying the same of every image: its
outputs are centred, which evens them out, and sharpened by a low temperature.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.distributed import sum_over_ranks, world
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.vit import ViT
from mmssl.layers.weight_norm import WeightNormLinear
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor

GLOBAL_CROPS = 2


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@MODELS.register_module()
class DINOViT(ViT):
    """ViT as DINO begins it: everything from N(0, 0.02), the position table learned; (B, 3, H, W) to the class token (B, C).

    mmpretrain's VisionTransformer computes every token of the last block, although the class token alone is
    used. Crops of another size than ``img_size`` run with the table resized (bicubic), with gradient.

    Args:
        out_type: 'cls_token', or another of :class:`mmssl.layers.vit.ViT`.
        num_cls_tokens: with 'cls_token': join those of so many last blocks, each after the norm; the paper
            probes ViT-S with 4.
        with_avg_patches: with 'cls_token': join the mean of the last block's patches too; the paper probes
            ViT-B so.
        others: as in :class:`mmssl.layers.vit.ViT`.
    """

    def __init__(
        self,
        *args,
        out_type: str = 'cls_token',
        num_cls_tokens: int = 1,
        with_avg_patches: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **dict(kwargs, out_type=out_type))
        if not 1 <= num_cls_tokens <= self.num_layers:
            raise ValueError(
                f'num_cls_tokens={num_cls_tokens} of a ViT of {self.num_layers} layers; give 1 to {self.num_layers}'
            )
        self.num_cls_tokens, self.with_avg_patches = num_cls_tokens, with_avg_patches

    def reset_parameters(self) -> None:
        """The released initialisation; the patch projection is drawn as torch draws a convolution."""
        self.patch_embed.projection.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for table in (self.pos_embed, self.cls_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """As :class:`ViT`; with 'cls_token' (B, C), or (B, n * C) of several, and the last block computes nothing else."""
        if self.out_type != 'cls_token' or self.out_indices != [self.num_layers - 1]:
            return super().forward(x)
        patches, grid = self.patch_embed(x)
        positions = self.positions(grid)
        # the class token goes last: the order means nothing to attention, and a block can be run for its last
        # tokens alone
        first = (self.cls_token + positions[:, :1]).expand(len(patches), -1, -1)
        tokens = self.drop_after_pos(torch.cat([patches + positions[:, 1:], first], dim=1))
        alone = 0 if self.with_avg_patches else patches.shape[1]
        joined = []
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, alone) if index == self.num_layers - 1 else layer(tokens)
            if index >= self.num_layers - self.num_cls_tokens:
                joined.append(self._norm(tokens[:, -1]))
        if self.with_avg_patches:
            joined.append(self._norm(tokens[:, :-1]).mean(dim=1))
        return (torch.cat(joined, dim=1) if len(joined) > 1 else joined[0],)

    def _norm(self, tokens: Tensor) -> Tensor:
        return self.ln1(tokens) if self.final_norm else tokens


@MODELS.register_module()
class DINOHead(BaseModule):
    """Projection head (section 3.1, 'Network architecture', and appendix C): an MLP, unit length, a weight-normed linear layer.

    mmpretrain has one in its projects/ folder only, on a weight normalisation that cannot be pickled.

    Args:
        in_dim: width of the backbone's output; inside a :class:`DINO` with a ViT the backbone's.
        out_dim: number K of outputs.
        use_bn: batch norm between the layers of the MLP.
        norm_last_layer: keep the rows of the last layer at length 1, the safer choice; ViT-S does better
            without.
        nlayers: layers of the MLP.
        hidden_dim, bottleneck_dim: widths inside and at the end of the MLP.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        use_bn: bool = False,
        norm_last_layer: bool = True,
        nlayers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        for name, value in (
            ('in_dim', in_dim),
            ('out_dim', out_dim),
            ('nlayers', nlayers),
            ('hidden_dim', hidden_dim),
            ('bottleneck_dim', bottleneck_dim),
        ):
            if value < 1:
                raise ValueError(f'{name}={value} of DINOHead must be at least 1')
        self.in_dim, self.out_dim = in_dim, out_dim
        widths = [in_dim, *[hidden_dim] * (nlayers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for index, (width, following) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers.append(nn.Linear(width, following))
            if index < nlayers - 1:
                layers += [nn.BatchNorm1d(following), nn.GELU()] if use_bn else [nn.GELU()]
        self.mlp = nn.Sequential(*layers) if nlayers > 1 else layers[0]
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, fixed_length=norm_last_layer)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear layers from N(0, 0.02), biases 0."""
        for module in self.mlp.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer.reset_parameters()

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, in_dim), or what a backbone returns (see :func:`image_features`), to logits (B, out_dim)."""
        return self.last_layer(F.normalize(_at_least_float32(self.mlp(image_features(x))), dim=-1))


def image_features(output: Tensor | Sequence[Tensor]) -> Tensor:
    """One vector an image from a backbone's output: (B, C) as it is, (B, C, h, w) averaged, the first of tokens (B, N, C)."""
    last = output if isinstance(output, Tensor) else output[-1]
    if last.ndim == 4:
        return last.mean(dim=(2, 3))
    return last[:, 0] if last.ndim == 3 else last


class DINOLoss(nn.Module):
    """Cross-entropy between the centred and sharpened teacher and the student, over all pairs of different crops (section 3.1).

    Args:
        out_dim: number K of outputs.
        ncrops: crops of an image that the student sees; the teacher sees the first two of them.
        warmup_teacher_temp, teacher_temp: the teacher's temperature goes from the first to the second in
            equal steps an epoch.
        warmup_teacher_temp_epochs: epochs until it is there; ``teacher_temp`` from the start when 0.
        nepochs: of the training; None if it is not known.
        student_temp: temperature of the student.
        center_momentum: of the moving average that is the centre.

    Attributes:
        center: (1, K), moving average of the teacher's mean output over the batches of all processes.
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        ncrops: int,
        warmup_teacher_temp: float,
        teacher_temp: float,
        warmup_teacher_temp_epochs: int,
        nepochs: int | None,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
    ):
        super().__init__()
        if ncrops < GLOBAL_CROPS:
            raise ValueError(
                f'ncrops={ncrops} of DINO: the student sees the {GLOBAL_CROPS} crops of the teacher at least; '
                f'give {GLOBAL_CROPS} + the number of small crops'
            )
        for name, value in (
            ('warmup_teacher_temp', warmup_teacher_temp),
            ('teacher_temp', teacher_temp),
            ('student_temp', student_temp),
        ):
            if not value > 0:
                raise ValueError(
                    f'{name}={value} of DINO must be above 0; the paper has 0.04 to 0.07 for the teacher, 0.1 for the student'
                )
        if not 0 <= center_momentum <= 1:
            raise ValueError(
                f'center_momentum={center_momentum} of DINO must be between 0 and 1; the paper has 0.9'
            )
        self.ncrops, self.student_temp, self.center_momentum = ncrops, student_temp, center_momentum
        self.warmup_teacher_temp, self.teacher_temp = warmup_teacher_temp, teacher_temp
        self.warmup_teacher_temp_epochs = warmup_teacher_temp_epochs
        self.register_buffer('center', torch.zeros(1, out_dim))
        self.check_length(nepochs)

    def check_length(self, nepochs: float | None) -> None:
        """ValueError where the warm-up of the temperature is longer than the training, or below 0."""
        warmup = self.warmup_teacher_temp_epochs
        if warmup < 0 or (nepochs is not None and warmup > math.ceil(nepochs)):
            length = '' if nepochs is None else f' of a training of {math.ceil(nepochs)} epochs'
            raise ValueError(f'warmup_teacher_temp_epochs={warmup}{length}: give 0 to the number of epochs')

    def temperature(self, epoch: int) -> float:
        """The teacher's, in an epoch counted from 0."""
        if epoch >= self.warmup_teacher_temp_epochs:
            return self.teacher_temp
        steps = max(1, self.warmup_teacher_temp_epochs - 1)
        return self.warmup_teacher_temp + (self.teacher_temp - self.warmup_teacher_temp) * epoch / steps

    def forward(self, student_output: Tensor, teacher_output: Tensor, epoch: int) -> Tensor:
        """The loss; in training mode the centre moves afterwards.

        Args:
            student_output: (ncrops * B, K), crop after crop.
            teacher_output: (2 * B, K), likewise.
            epoch: counted from 0.

        Returns:
            scalar, the mean over B and over all pairs of a teacher's crop and another crop of the student's.
        """
        batch = len(teacher_output) // GLOBAL_CROPS
        if len(teacher_output) != GLOBAL_CROPS * batch or len(student_output) != self.ncrops * batch:
            raise ValueError(
                f'the student has {len(student_output)} outputs and the teacher {len(teacher_output)}; {self.ncrops} * B and '
                f'{GLOBAL_CROPS} * B are needed'
            )
        teacher_output = _at_least_float32(teacher_output.detach())
        target = F.softmax((teacher_output - self.center) / self.temperature(epoch), dim=-1)
        loss = _cross_entropy_of_pairs(
            _at_least_float32(student_output) / self.student_temp, target, self.ncrops
        )
        if self.training:
            self.update_center(teacher_output)
        return loss

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor) -> None:
        """Move the centre towards the mean output of all processes, (2 * B, K) of this one."""
        total = sum_over_ranks(teacher_output.sum(dim=0, keepdim=True))
        mean = total / (len(teacher_output) * world()[1])
        center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        if center.dtype == self.center.dtype:
            self.center.copy_(center)
        else:
            self.center = center


def _cross_entropy_of_pairs(logits: Tensor, target: Tensor, ncrops: int) -> Tensor:
    """Mean of -sum(q log p) over B and all pairs of different crops; one log-softmax a crop, and no product a pair.

    Args:
        logits: (ncrops * B, K), crop after crop.
        target: (2 * B, K), likewise.
    """
    log_p, target = (
        F.log_softmax(logits, dim=-1).unflatten(0, (ncrops, -1)),
        target.unflatten(0, (GLOBAL_CROPS, -1)),
    )
    # a large crop is told the other one's target, a small one both
    total = (target.flip(0) * log_p[:GLOBAL_CROPS]).sum()
    if ncrops > GLOBAL_CROPS:
        total = total + (target.sum(dim=0) * log_p[GLOBAL_CROPS:].sum(dim=0)).sum()
    return -total / (log_p.shape[1] * GLOBAL_CROPS * (ncrops - 1))


@MODELS.register_module()
class DINO(ScheduledSupervisor):
    """DINO: ``DINO(backbone=mmssl.DINOViT, head=mmssl.DINOHead)``, or any backbone of the hosts.

    mmpretrain's project never moves its teacher, freezes no last layer, and has neither the schedules nor the
    clipping of the paper.

    Args:
        backbone, head: configs, or built parts. ``in_dim`` of the head is that of a ViT where it is left out.
        num_crops: views of an image, two large ones first.
        warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs, student_temp, center_momentum: as in
            :class:`DINOLoss`.
        momentum: of the teacher in the first step, from where it goes to ``final_momentum`` along half a
            cosine. 0.996 for batches of 512 and above; nearer to 1 for smaller ones, as 0.9995 for 256.
        final_momentum: 1, or None for a constant momentum.
        freeze_last_layer: epochs from the start in which the last layer of the head is not trained.
        evaluate: whose features ``extract_feat`` gives, 'teacher' (as the paper) or 'student'.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``).
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        head: dict | nn.Module,
        num_crops: int = 10,
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 0,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        final_momentum: float | None = 1.0,
        freeze_last_layer: int = 1,
        evaluate: str = 'teacher',
        **kwargs,
    ):
        backbone = build(backbone, MODELS)
        width = getattr(backbone, 'embed_dims', None) if isinstance(backbone, ViT) else None
        if isinstance(head, dict) and width:
            head = {'in_dim': width, **head}
        super().__init__(backbone, head=head, **kwargs)
        if width and self.head.in_dim != width:
            raise ValueError(
                f'head has in_dim={self.head.in_dim}, but the backbone is {width} wide; leave in_dim out'
            )
        if evaluate not in ('teacher', 'student'):
            raise ValueError(f"evaluate={evaluate!r} of DINO must be 'teacher' or 'student'")
        if freeze_last_layer < 0:
            raise ValueError(
                f'freeze_last_layer={freeze_last_layer} of DINO must be a number of epochs, 0 or more'
            )
        self.num_crops, self.freeze_last_layer, self.evaluate = num_crops, freeze_last_layer, evaluate
        self.dino_loss = DINOLoss(
            self.head.out_dim,
            num_crops,
            warmup_teacher_temp,
            teacher_temp,
            warmup_teacher_temp_epochs,
            None,
            student_temp,
            center_momentum,
        )
        self.teacher = MomentumEncoder(nn.Sequential(self.backbone, self.head), momentum, final_momentum)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """The teacher, and the student that it follows."""
        return [(self.teacher, nn.Sequential(self.backbone, self.head))]

    def set_schedule(self, iterations_per_epoch: int, max_iterations: int) -> None:
        """As for every method; ValueError where the warm-up of the temperature is longer than the training."""
        super().set_schedule(iterations_per_epoch, max_iterations)
        self.dino_loss.check_length(max_iterations / iterations_per_epoch)

    @property
    def evaluated(self) -> nn.Module:
        """The backbone that evaluations look at."""
        return self.teacher.module[0] if self.evaluate == 'teacher' else self.backbone

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone, the teacher's or the student's as ``evaluate`` says."""
        return self.evaluated(inputs)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: ``num_crops`` views (B, 3, H, W), normalised, two large ones first.
            data_samples: ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        crops = join_equal_sizes(self.views(inputs, self.num_crops))
        large = crops[0][: GLOBAL_CROPS * len(inputs[0])]
        if len(large) < GLOBAL_CROPS * len(inputs[0]):
            raise ValueError(
                f'the two large views of DINO have sizes {tuple(inputs[0].shape[-2:])} and {tuple(inputs[1].shape[-2:])}; '
                'they must be equal'
            )
        teacher_output = self.teacher(large)
        student_output = self.head(torch.cat([image_features(self.backbone(batch)) for batch in crops]))
        return dict(loss=self.dino_loss(student_output, teacher_output, self.clock.epoch))

    def before_update(self) -> None:
        """In the first epochs the last layer gets no gradient (section 3.1 and appendix C)."""
        if not self.clock.steps_per_epoch and (
            self.freeze_last_layer or self.dino_loss.warmup_teacher_temp_epochs
        ):
            raise RuntimeError(
                'DINO counts epochs, for its last layer and its temperature, and nobody said how long one is: call '
                'set_schedule(iterations_per_epoch, max_iterations) of the model; in a run mmssl.MethodHook does so'
            )
        if self.clock.epoch < self.freeze_last_layer:
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    def after_update(self) -> None:
        """The teacher follows the student."""
        ((teacher, student),) = self.momentum_pairs()
        teacher.update(student)


def join_equal_sizes(views: Sequence[Tensor]) -> list[Tensor]:
    """Views (B, 3, H, W) to batches (n * B, 3, H, W), one for every run of views of one size, in order."""
    runs: list[list[Tensor]] = []
    for view in views:
        if runs and runs[-1][0].shape[-2:] == view.shape[-2:]:
            runs[-1].append(view)
        else:
            runs.append([view])
    return [torch.cat(run) for run in runs]
