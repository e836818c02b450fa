"""Self-distillation loss of DINO (Caron et al., ICCV 2021, arXiv:2104.14294)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.distributed import sum_over_ranks, world
from mmssl.ops.switch import always, fast_form

GLOBAL_CROPS = 2


class DINOLoss(nn.Module):
    """Cross entropy between the centred, sharpened teacher and the student, over pairs of different crops.

    The paper's section 3.1 and algorithm 1. Centring and sharpening by a low temperature keep the teacher
    from giving the same output for every image.

    Args:
        out_dim: Number K of outputs.
        ncrops: Crops of an image that the student gets; the teacher gets the first two of them.
        warmup_teacher_temp: Temperature of the teacher in the first epoch.
        teacher_temp: Temperature of the teacher after the warm-up, reached in equal steps per epoch.
        warmup_teacher_temp_epochs: Epochs of the warm-up; 0 for none.
        nepochs: Epochs of the run; None if unknown.
        student_temp: Temperature of the student.
        center_momentum: Momentum of the centre.

    Attributes:
        center: (1, K), moving average of the teacher's mean output over the batches of all processes.
    """

    center: Tensor

    def __init__(  # noqa: PLR0913 - the released signature
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
        self.ncrops = ncrops
        self.warmup_teacher_temp = warmup_teacher_temp
        self.teacher_temp = teacher_temp
        self.warmup_teacher_temp_epochs = warmup_teacher_temp_epochs
        self.student_temp = student_temp
        self.center_momentum = center_momentum
        self._check_settings()
        self.check_length(nepochs)
        self.register_buffer('center', torch.zeros(1, out_dim))

    def forward(self, student_output: Tensor, teacher_output: Tensor, epoch: int) -> Tensor:
        """Compute the loss; in training mode the centre is updated afterwards.

        Args:
            student_output: (ncrops * B, K), crop after crop.
            teacher_output: (2 * B, K), crop after crop.
            epoch: Number of the epoch, from 0.

        Returns:
            scalar, the mean over B and over all pairs of a teacher's crop and a different crop of the
            student's.
        """
        self._check_outputs(student_output, teacher_output)
        student_output = promote_to_float32(student_output)
        teacher_output = promote_to_float32(teacher_output.detach())
        log_probs = F.log_softmax(student_output / self.student_temp, dim=-1)
        targets = F.softmax((teacher_output - self.center) / self.temperature(epoch), dim=-1)
        loss = cross_entropy_of_pairs(log_probs, targets, self.ncrops)
        if self.training:
            self.update_center(teacher_output)
        return loss

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor) -> None:
        """Move the centre towards the mean output (equation 4) of all processes, (2 * B, K) of this one."""
        total = sum_over_ranks(teacher_output.sum(dim=0, keepdim=True))
        mean = total / (len(teacher_output) * world()[1])
        center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        if center.dtype == self.center.dtype:
            self.center.copy_(center)
        else:
            self.center = center

    def temperature(self, epoch: int) -> float:
        """Temperature of the teacher in an epoch, counted from 0."""
        if epoch >= self.warmup_teacher_temp_epochs:
            return self.teacher_temp
        steps = max(1, self.warmup_teacher_temp_epochs - 1)
        return self.warmup_teacher_temp + (self.teacher_temp - self.warmup_teacher_temp) * epoch / steps

    def check_length(self, nepochs: float | None) -> None:
        """Raise ValueError where the warm-up of the temperature is negative or longer than the run."""
        warmup = self.warmup_teacher_temp_epochs
        if warmup < 0 or (nepochs is not None and warmup > math.ceil(nepochs)):
            length = '' if nepochs is None else f' in a run of {math.ceil(nepochs)} epochs'
            raise ValueError(f'warmup_teacher_temp_epochs={warmup}{length}: give 0 to the number of epochs')

    def _check_settings(self) -> None:
        if self.ncrops < GLOBAL_CROPS:
            raise ValueError(
                f'ncrops={self.ncrops} of DINO: the student gets at least the {GLOBAL_CROPS} crops of the '
                f'teacher; give {GLOBAL_CROPS} + the number of local crops'
            )
        for name in ('warmup_teacher_temp', 'teacher_temp', 'student_temp'):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f'{name}={getattr(self, name)} of DINO must be above 0; the paper has 0.04 to 0.07 '
                    'for the teacher, 0.1 for the student'
                )
        if not 0 <= self.center_momentum <= 1:
            raise ValueError(
                f'center_momentum={self.center_momentum} of DINO must be between 0 and 1; the paper has 0.9'
            )

    def _check_outputs(self, student_output: Tensor, teacher_output: Tensor) -> None:
        batch = len(teacher_output) // GLOBAL_CROPS
        if len(teacher_output) != GLOBAL_CROPS * batch or len(student_output) != self.ncrops * batch:
            raise ValueError(
                f'the student has {len(student_output)} outputs and the teacher {len(teacher_output)}; '
                f'{self.ncrops} * B and {GLOBAL_CROPS} * B are needed'
            )


@fast_form('mmssl.losses.fast.dino:cross_entropy_of_pairs', when=always)
def cross_entropy_of_pairs(log_probs: Tensor, targets: Tensor, ncrops: int) -> Tensor:
    """Mean of -sum(q log p) over B and over all pairs of different crops (algorithm 1, function H).

    Args:
        log_probs: (ncrops * B, K) of the student, crop after crop.
        targets: (2 * B, K) of the teacher, crop after crop.
        ncrops: Crops of the student.

    Returns:
        scalar.
    """
    total, pairs = log_probs.new_zeros(()), 0
    for teacher_crop, q in enumerate(targets.chunk(GLOBAL_CROPS)):
        for student_crop, log_p in enumerate(log_probs.chunk(ncrops)):
            if student_crop != teacher_crop:
                total = total - (q * log_p).sum(dim=-1).mean()
                pairs += 1
    return total / pairs


def promote_to_float32(x: Tensor) -> Tensor:
    """Return half-precision tensors in float32, others unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
