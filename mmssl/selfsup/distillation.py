"""Feature distillation: train a backbone to give the features of frozen teachers, without labels.

The features of a teacher are normalised and compared with a linear projection of the student's (Wei et al.,
arXiv:2205.14141). With several teachers each has its own projection (AM-RADIO, arXiv:2312.06709).
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmssl.convert.timm_names import backbone_config
from mmssl.layers.base_vit import BaseViT
from mmssl.layers.input_channels import input_channels
from mmssl.layers.memory_format import memory_format_of
from mmssl.layers.modes import evaluating
from mmssl.losses.dino import promote_to_float32
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor, _build_part
from mmssl.selfsup.small import RESNET, Small, single_view
from mmssl.selfsup.teacher_cache import TeacherCache

CRITERIA = ('cosine', 'smooth_l1')


class Features(NamedTuple):
    """Features of a batch.

    Attributes:
        dense: (B, C, h, w); None if the backbone returns vectors.
        pooled: (B, D): the class token of a backbone that returns tokens, otherwise the mean over positions.
    """

    dense: Tensor | None
    pooled: Tensor


def features_of(backbone: nn.Module, images: Tensor, level: int = -1) -> Features:
    """Run a backbone and bring its outputs into one form.

    Args:
        backbone: Network that returns maps (B, C, h, w), tokens (B, extra + N, C) or vectors (B, C), or a
            tuple of them, one for each level.
        images: (B, 3, H, W), normalised.
        level: Index of the output for ``dense``; ``pooled`` is always from the last one.

    Raises:
        ValueError: There is no such level, or tokens do not form a grid of the aspect of the images.
    """
    outputs = backbone(images)
    outputs = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
    if not -len(outputs) <= level < len(outputs):
        raise ValueError(
            f'level={level}, but {type(backbone).__name__} returns {len(outputs)} output(s); set its '
            'out_indices, or another level'
        )
    extra = getattr(backbone, 'num_extra_tokens', 1)
    last = outputs[-1]
    if last.ndim == 4:
        last = last.mean(dim=(2, 3))
    elif last.ndim == 3:
        last = last[:, 0] if extra else last.mean(dim=1)
    return Features(_to_map(outputs[level], extra, images.shape[2] / images.shape[3]), last)


def _to_map(output: Tensor, extra: int, aspect: float) -> Tensor | None:
    if output.ndim != 3:
        return output if output.ndim == 4 else None
    patches = output[:, extra:].transpose(1, 2)
    rows = max(1, round((patches.shape[2] * aspect) ** 0.5))
    columns, rest = divmod(patches.shape[2], rows)
    if rest:
        raise ValueError(
            f'{patches.shape[2]} tokens are no grid of an image with height / width {aspect:.3g}; use '
            "out_type='featmap'"
        )
    return patches.unflatten(2, (rows, columns))


def align(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate the coarser of two maps (B, C, h, w) bilinearly to the grid of the finer one."""
    if first.shape[2:] == second.shape[2:]:
        return first, second
    if first.shape[2:].numel() < second.shape[2:].numel():
        return F.interpolate(first, second.shape[2:], mode='bilinear', align_corners=False), second
    return first, F.interpolate(second, first.shape[2:], mode='bilinear', align_corners=False)


@MODELS.register_module()
class Distillation(SelfSupervisor):
    """``Distillation(backbone=any backbone, teacher=any backbone)``.

    The teachers are frozen, in evaluation mode, and part of the checkpoint.

    Args:
        backbone: The student: config, or built.
        teacher: Config, built, name of a released backbone in timm such as
            'timm://vit_small_patch14_dinov2.lvd142m', or a list of them. The weights of a config come from
            its ``init_cfg``, such as ``dict(type='Pretrained', checkpoint=FILE)``; a built teacher keeps
            those it has.
        weights: Weight of each teacher; all 1 when None.
        criterion: 'cosine' (1 - cosine similarity), or 'smooth_l1'. The teachers' features are
            layer-normalised without weights in both.
        dense_weight: Weight of the loss on maps, which are brought to the finer of both grids; 0 for none.
        global_weight: Weight of the loss on pooled vectors; 0 for none.
        level: Index of the student's output for the loss on maps: the level that the task reads.
        teacher_channels: Indices of the channels of the images that the teachers get, in their order; all
            when None. The teachers get them as the data preprocessor normalises them.
        teacher_cache: Folder in which the teachers' features of each image are kept, for pipelines whose
            views come again in every epoch; see :class:`~mmssl.selfsup.teacher_cache.TeacherCache`.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.

    Raises:
        ValueError: A setting is out of range, or the channels of student, teachers and images do not agree.
    """

    def __init__(  # noqa: PLR0913 - settings of a config
        self,
        backbone: dict | nn.Module,
        teacher: dict | str | nn.Module | Sequence,
        weights: Sequence[float] | None = None,
        criterion: str = 'cosine',
        dense_weight: float = 1.0,
        global_weight: float = 1.0,
        level: int = -1,
        teacher_channels: Sequence[int] | None = None,
        teacher_cache: str | None = None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        teachers = list(teacher) if isinstance(teacher, (list, tuple, nn.ModuleList)) else [teacher]
        self.weights = [1.0] * len(teachers) if weights is None else list(weights)
        _check_settings(len(teachers), self.weights, criterion, (dense_weight, global_weight))
        self.criterion = criterion
        self.dense_weight = dense_weight
        self.global_weight = global_weight
        self.level = level
        self.teacher_channels = teacher_channels
        teachers = [_released(part) if isinstance(part, str) else part for part in teachers]
        self._from_config = [isinstance(part, dict) for part in teachers]
        self.teachers = nn.ModuleList(_build_part(part) for part in teachers)
        self.teachers.requires_grad_(False).eval()
        for part in self.teachers:
            part.to(memory_format=memory_format_of(part))
            self._check_channels(part)

        self._caches = None
        if teacher_cache:
            self._caches = [TeacherCache(teacher_cache, part, features_of) for part in self.teachers]

        student, *targets = self._widths()
        if dense_weight and None in (student.dense, *(target.dense for target in targets)):
            raise ValueError(
                'student or teacher returns vectors, which have no positions; set dense_weight=0'
            )
        # one linear layer for each teacher
        self.dense_projectors = nn.ModuleList(
            nn.Conv2d(student.dense, target.dense, 1) for target in targets if dense_weight
        )
        self.global_projectors = nn.ModuleList(
            nn.Linear(student.pooled, target.pooled) for target in targets if global_weight
        )

    def _widths(self) -> list[Features]:
        """Numbers of channels of student and teachers, from a run on zeros."""
        return [_width(self.backbone, self.level), *(_width(teacher) for teacher in self.teachers)]

    def _check_channels(self, teacher: nn.Module) -> None:
        images, required = input_channels(self.backbone), input_channels(teacher)
        if self.teacher_channels is None:
            agrees = images == required
        else:
            in_range = all(0 <= index < images for index in self.teacher_channels)
            agrees = in_range and len(self.teacher_channels) == required
        if not agrees:
            raise ValueError(
                f'the student takes {images} channels and the teacher {type(teacher).__name__} {required}, '
                f'but teacher_channels={self.teacher_channels}; give the indices of {required} channels'
            )

    def train(self, mode: bool = True):
        """Set the mode of the student; the teachers stay in evaluation mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def init_weights(self) -> None:
        """Draw the weights of student and projectors, and load those of teachers that came as configs."""
        super().init_weights()
        for teacher, from_config in zip(self.teachers, self._from_config, strict=True):
            if not from_config:
                continue
            cfgs = getattr(teacher, 'init_cfg', None) or []
            cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
            if not any(cfg['type'] == 'Pretrained' for cfg in cfgs):
                print_log(
                    f'the teacher {type(teacher).__name__} starts with random weights; give it '
                    "init_cfg=dict(type='Pretrained', checkpoint=...)",
                    'current',
                    logging.WARNING,
                )
            if hasattr(teacher, 'init_weights'):
                teacher.init_weights()

    @torch.no_grad()
    def targets(self, inputs: Tensor) -> list[Features]:
        """Features of images (B, C, H, W) from every teacher."""
        if self.teacher_channels is not None:
            # slices, as a list of indices makes the CPU wait for the GPU
            inputs = torch.cat([inputs[:, index : index + 1] for index in self.teacher_channels], dim=1)
        if self._caches:
            return [Features(*cache(inputs)) for cache in self._caches]
        return [features_of(teacher, inputs) for teacher in self.teachers]

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, C, H, W), normalised.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``, the weighted sum over the teachers of both losses.
        """
        inputs = inputs.contiguous(memory_format=self.memory_format)
        targets = self.targets(inputs)
        student = features_of(self.backbone, inputs, self.level)
        losses = []
        for index, (target, weight) in enumerate(zip(targets, self.weights, strict=True)):
            if self.dense_weight:
                prediction = self.dense_projectors[index](student.dense)
                losses.append(weight * self.dense_weight * self._dense_distance(prediction, target.dense))
            if self.global_weight:
                prediction = self.global_projectors[index](student.pooled)
                losses.append(weight * self.global_weight * self._distance(prediction, target.pooled))
        return dict(loss=torch.stack(losses).sum())

    def _dense_distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        with no_autocast(prediction):
            maps = align(promote_to_float32(prediction), promote_to_float32(target))
        return self._distance(*(features.permute(0, 2, 3, 1) for features in maps))

    def _distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean distance of predictions (..., D) from features (..., D), which are normalised here."""
        with no_autocast(prediction):
            prediction, target = promote_to_float32(prediction), promote_to_float32(target)
            target = F.layer_norm(target, target.shape[-1:])
            if self.criterion == 'cosine':
                return (1 - F.cosine_similarity(prediction, target, dim=-1)).mean()
            return F.smooth_l1_loss(prediction, target)


def _released(name: str) -> dict:
    """Config of a released backbone with its weights; see :func:`mmssl.apis.get_backbone` for the names.

    Raises:
        UserError: The name is unknown.
    """
    name = name.removeprefix('timm://')
    return dict(backbone_config(name), init_cfg=dict(type='Pretrained', checkpoint=f'timm://{name}'))


def _check_settings(
    count: int, weights: list[float], criterion: str, loss_weights: tuple[float, float]
) -> None:
    if not count or len(weights) != count:
        raise ValueError(
            f'{len(weights)} weights for {count} teachers; give at least one teacher, and as many'
        )
    if min(*weights, *loss_weights) < 0 or not any(loss_weights) or not any(weights):
        raise ValueError(
            f'weights={weights}, dense_weight={loss_weights[0]}, global_weight={loss_weights[1]}: none may '
            'be negative, and nothing is learned if all are 0'
        )
    if criterion not in CRITERIA:
        raise ValueError(f'criterion={criterion!r} of Distillation is unknown; one of {", ".join(CRITERIA)}')


def _width(backbone: nn.Module, level: int = -1) -> Features:
    """Numbers of channels, in place of the features themselves."""
    size = getattr(backbone, 'img_size', 64)
    if isinstance(backbone, BaseViT):
        size = [2 * side for side in backbone.patch_embed.patch_size]
    height, width = (size, size) if isinstance(size, int) else size
    tensor = next(backbone.parameters())
    images = tensor.new_zeros(1, input_channels(backbone), height, width)
    with evaluating(backbone), torch.no_grad():
        dense, pooled = features_of(backbone, images, level)
    return Features(None if dense is None else dense.shape[1], pooled.shape[1])


SMALL = {'Distillation': Small(dict(backbone=RESNET, teacher=RESNET), single_view)}
