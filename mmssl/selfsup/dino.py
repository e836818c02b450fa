"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, arXiv:2104.14294).

For each pair of different crops, the student's output on one is trained to match the teacher's output on the
other. The student gets two global crops and several local ones, the teacher the global ones; the teacher is a
moving average of the student.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.layers.vit import ViT
from mmssl.layers.weight_norm import WeightNormLinear
from mmssl.losses.dino import GLOBAL_CROPS, DINOLoss, promote_to_float32
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import ARCH, Small, forward
from mmssl.selfsup.views import concatenate_by_size, image_features


@MODELS.register_module()
class DINOViT(ViT):
    """Vision Transformer with DINO's initialisation: (B, 3, H, W) to the class token (B, C).

    Everything is drawn from N(0, 0.02), and the position table is learned. Crops of another size than
    ``img_size`` run with a resized table (bicubic), through which the gradient flows.

    Args:
        *args: Passed on to :class:`~mmssl.layers.vit.ViT`.
        out_type: 'cls_token', or another output type of :class:`~mmssl.layers.vit.ViT`.
        num_cls_tokens: With 'cls_token': concatenate the normalised class tokens of this many last blocks, as
            the paper's linear probe of ViT-S does with 4.
        with_avg_patches: With 'cls_token': append the mean of the last block's patch tokens, as the paper's
            linear probe of ViT-B does.
        **kwargs: Passed on to :class:`~mmssl.layers.vit.ViT`.
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
                f'num_cls_tokens={num_cls_tokens} of a ViT with {self.num_layers} layers; '
                f'give 1 to {self.num_layers}'
            )
        self.num_cls_tokens = num_cls_tokens
        self.with_avg_patches = with_avg_patches
        # what the probes join needs more than the class token of the last block
        self.joins_tokens = (
            out_type == 'cls_token'
            and self.out_indices == [self.num_layers - 1]
            and (num_cls_tokens > 1 or with_avg_patches)
        )
        if self.joins_tokens:
            self.out_indices = list(range(self.num_layers - num_cls_tokens, self.num_layers))

    def reset_parameters(self) -> None:
        """Draw the released initialisation; the patch projection is drawn as torch draws a convolution."""
        self.patch_embed.projection.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for table in (self.pos_embed, self.cls_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """As :class:`~mmssl.layers.vit.ViT`; with 'cls_token' (B, C), or (B, n * C) for n joined tokens."""
        outputs = super().forward(x)
        if not self.joins_tokens:
            return outputs
        *inner, last = outputs  # (B, 1 + N, C); ViT has normalised the last one
        tokens = [self.ln1(block[:, 0]) if self.final_norm else block[:, 0] for block in inner]
        tokens.append(last[:, 0])
        if self.with_avg_patches:
            tokens.append(last[:, 1:].mean(dim=1))
        return (torch.cat(tokens, dim=1),)

    def _output(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens if self.joins_tokens else super()._output(tokens, grid)


def init_linear(layer: nn.Linear) -> None:
    """Draw the weight from N(0, 0.02) and set the bias to 0."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@MODELS.register_module()
class DINOHead(BaseModule):
    """Projection head: MLP, L2 normalisation, weight-normalised linear layer (section 3.1 and appendix C).

    Args:
        in_dim: Channels of the backbone's output; inside a :class:`DINO` with a ViT the backbone's.
        out_dim: Number K of outputs.
        use_bn: Batch norm between the layers of the MLP.
        norm_last_layer: Keep the rows of the last layer at length 1, which is more stable; ViT-S does better
            without.
        nlayers: Layers of the MLP.
        hidden_dim: Channels inside the MLP.
        bottleneck_dim: Channels of the MLP's output.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(  # noqa: PLR0913 - the released signature
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
        sizes = dict(
            in_dim=in_dim,
            out_dim=out_dim,
            nlayers=nlayers,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
        )
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f'{name}={value} of DINOHead must be at least 1')
        self.in_dim = in_dim
        self.out_dim = out_dim
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(nlayers - 1):
            layers.append(nn.Linear(width, hidden_dim))
            if use_bn:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
            width = hidden_dim
        layers.append(nn.Linear(width, bottleneck_dim))
        self.mlp = nn.Sequential(*layers) if nlayers > 1 else layers[0]
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, fixed_length=norm_last_layer)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw linear layers from N(0, 0.02), with biases 0."""
        for module in self.mlp.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                init_linear(module)
        self.last_layer.reset_parameters()

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, in_dim), or what a backbone returns (see :func:`image_features`), to logits (B, out_dim)."""
        x = promote_to_float32(self.mlp(image_features(x)))
        return self.last_layer(F.normalize(x, dim=-1))


@MODELS.register_module()
class DINO(ScheduledSupervisor):
    """DINO: ``DINO(backbone=mmssl.DINOViT, head=mmssl.DINOHead)``, or with any backbone of the toolboxes.

    Args:
        backbone: Config, or built.
        head: Config, or built. ``in_dim`` defaults to the width of a ViT.
        num_crops: Views of an image, two global ones first.
        warmup_teacher_temp: See :class:`~mmssl.losses.DINOLoss`.
        teacher_temp: See :class:`~mmssl.losses.DINOLoss`.
        warmup_teacher_temp_epochs: See :class:`~mmssl.losses.DINOLoss`.
        student_temp: See :class:`~mmssl.losses.DINOLoss`.
        center_momentum: See :class:`~mmssl.losses.DINOLoss`.
        momentum: Initial momentum of the teacher, raised to ``final_momentum`` on a cosine schedule. 0.996
            for batches of 512 and above; closer to 1 for smaller ones, such as 0.9995 for 256.
        final_momentum: 1, or None for a constant momentum.
        freeze_last_layer: Epochs at the start in which the last layer of the head is not trained.
        evaluate: Network whose features ``extract_feat`` returns: 'teacher' (as in the paper) or 'student'.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.
    """

    def __init__(  # noqa: PLR0913 - set in configs, the names of the released code
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
        if evaluate not in ('teacher', 'student'):
            raise ValueError(f"evaluate={evaluate!r} of DINO must be 'teacher' or 'student'")
        if freeze_last_layer < 0:
            raise ValueError(
                f'freeze_last_layer={freeze_last_layer} of DINO must be a number of epochs, 0 or more'
            )
        backbone = build(backbone, MODELS)
        width = backbone.embed_dims if isinstance(backbone, ViT) else None
        if isinstance(head, dict) and width:
            head = {'in_dim': width, **head}
        refuse_unused('DINO', kwargs, {'neck': None}, 'the head reads the backbone')
        super().__init__(backbone, head=head, **kwargs)
        if width and self.head.in_dim != width:
            raise ValueError(
                f'head has in_dim={self.head.in_dim}, but the backbone has {width} channels; leave in_dim out'
            )
        self.num_crops = num_crops
        self.freeze_last_layer = freeze_last_layer
        self.evaluate = evaluate
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
        self.teacher = MomentumEncoder(self.student, momentum, final_momentum)

    @property
    def student(self) -> nn.Sequential:
        """Backbone and head that are trained."""
        return nn.Sequential(self.backbone, self.head)

    @property
    def evaluated(self) -> nn.Module:
        """Backbone whose features ``extract_feat`` returns."""
        return self.teacher.module[0] if self.evaluate == 'teacher' else self.backbone

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the teacher and the student."""
        return [(self.teacher, self.student)]

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W) from the teacher's or the student's backbone, see ``evaluate``."""
        return self.evaluated(inputs)

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: ``num_crops`` views (B, 3, H, W), normalised, two global ones first.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        crops = concatenate_by_size(self.views(inputs, self.num_crops))
        global_crops = crops[0][: GLOBAL_CROPS * len(inputs[0])]
        if len(global_crops) < GLOBAL_CROPS * len(inputs[0]):
            raise ValueError(
                f'the two global views of DINO have sizes {tuple(inputs[0].shape[-2:])} and '
                f'{tuple(inputs[1].shape[-2:])}; they must be equal'
            )
        teacher_output = self.teacher(global_crops)
        student_output = self.head(torch.cat([image_features(self.backbone(batch)) for batch in crops]))
        return dict(loss=self.dino_loss(student_output, teacher_output, self.clock.epoch))

    def before_update(self) -> None:
        """Cancel the gradient of the last layer in the first epochs (section 3.1 and appendix C)."""
        counts_epochs = self.freeze_last_layer or self.dino_loss.warmup_teacher_temp_epochs
        if counts_epochs and not self.clock.steps_per_epoch:
            raise RuntimeError(
                'DINO counts epochs, for its last layer and its temperature, and their length is unknown: '
                'call set_schedule(iterations_per_epoch, max_iterations) of the model; in a run '
                'mmssl.MethodHook does so'
            )
        if self.clock.epoch < self.freeze_last_layer:
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    def after_update(self) -> None:
        """Move the teacher (algorithm 1, last lines)."""
        self.update_teachers()

    def set_schedule(self, iterations_per_epoch: int, max_iterations: int) -> None:
        """As for every method; raise ValueError if the warm-up of the temperature is longer than the run."""
        super().set_schedule(iterations_per_epoch, max_iterations)
        self.dino_loss.check_length(max_iterations / iterations_per_epoch)


VIT = dict(arch=ARCH, img_size=32, patch_size=8)
HEAD = dict(type='mmssl.DINOHead', out_dim=16, hidden_dim=32, bottleneck_dim=8)
SMALL = {
    'DINOViT': Small(VIT, forward, (2, 32)),
    'DINOHead': Small(
        dict(in_dim=3, out_dim=16, hidden_dim=32, bottleneck_dim=8, norm_last_layer=False),
        lambda model, images: model((images,)),
        (2, 16),
    ),
    'DINO': Small(
        dict(backbone=dict(type='mmssl.DINOViT', **VIT), head=HEAD, num_crops=3),
        lambda model, images: model.loss([images, images.flip(3), images[..., :16, :16]])['loss'],
    ),
}
