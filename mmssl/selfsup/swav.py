"""Swapping assignments between views, SwAV (Caron et al., NeurIPS 2020, arXiv:2006.09882).

Features of a view are compared with prototypes; the Sinkhorn-Knopp algorithm turns the scores of a batch into
codes that share the samples equally among the prototypes; the code of one view is predicted from every other
view of the image.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from mmssl.layers.distributed import sum_over_ranks, world
from mmssl.layers.queue import FeatureQueue
from mmssl.registry import MODELS
from mmssl.selfsup.base import ScheduledSupervisor


def _check_sinkhorn(epsilon: float, iterations: int) -> None:
    if not epsilon > 0:
        raise ValueError(f'epsilon={epsilon} of Sinkhorn must be above 0; the paper takes 0.05')
    if iterations < 1:
        raise ValueError(f'{iterations} iterations of Sinkhorn; it needs at least 1, and the paper takes 3')


def _products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(A, N, M) times (A, M, 1), one by one: a batched product of vectors is ten times slower on the CPU."""
    return torch.stack([matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)])


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes that share the samples of all processes equally among the prototypes (section 3.1, equations 3 to 5).

    Q = diag(u) exp(scores / epsilon) diag(v): each iteration makes the masses of the prototypes equal, then
    those of the samples. The scalings u and v are found by products with the matrix, which stays as it is.
    Before the exponential every prototype's largest score among the samples of all processes is subtracted,
    and then every sample's largest; u and v take that up, and since every row and every column then has an
    entry of 1, a prototype far from all samples still gets its share and nothing overflows.

    Every process makes the same ``iterations + 1`` all-reduces, whatever its scores are; the processes
    together get the codes that one would have got with all samples. mmpretrain's processes get codes of their
    own, or wait for each other where a prototype is empty.

    Args:
        scores: (B, K) of this process's samples, or (A, B, K) for A batches with codes of their own; B may
            differ between processes.
        epsilon: weight of the entropy; the larger, the softer the codes.
        iterations: of Sinkhorn-Knopp.

    Returns:
        shaped as ``scores``, in float32 or wider; each sample's sum is 1.
    """
    _check_sinkhorn(epsilon, iterations)
    if scores.ndim not in (2, 3):
        raise ValueError(f'scores of Sinkhorn have shape {tuple(scores.shape)}, not (samples, prototypes)')
    if scores.ndim == 2:
        return sinkhorn(scores[None], epsilon, iterations)[0]
    with torch.autocast(scores.device.type, enabled=False):
        plan = scores.detach().to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        limits = torch.finfo(plan.dtype)
        highest = plan.amax(1, keepdim=True)
        if world()[1] > 1:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        plan -= highest.clamp_(min=limits.min)
        offset = plan.amax(2, keepdim=True)
        plan.sub_(offset).exp_()
        samples = offset.exp_()
        for _ in range(iterations):
            masses = sum_over_ranks(_products(plan.mT, samples)).clamp_(min=limits.tiny**0.5)
            prototypes = masses.mean(1, keepdim=True) / masses  # the mean keeps both scalings from drifting
            samples = _products(plan, prototypes).reciprocal_()
        return plan.mul_(prototypes.mT).mul_(samples)


class SwAVQueue(FeatureQueue):
    """The last features of all processes' assigned views, of no use until the queue is full (the paper, on small batches).

    Args:
        views: A, number of assigned views; each has its own row of the queue.
        dim: D of a feature.
        length: features a view, over all processes.

    Attributes:
        queue: (A * D, length).
        filled: features that have come in, up to ``length``.
    """

    COUNTERS = ('queue_ptr', 'filled')

    def __init__(self, views: int, dim: int, length: int):
        super().__init__(views * dim, length)
        self.views, self.length = views, length
        self.queue.zero_()
        self.filled = 0

    def share(self) -> Tensor | None:
        """(A, length / world size, D), this process's part; None as long as the queue is not full."""
        if self.filled < self.length:
            return None
        rank, size = world()
        part = self.queue[:, rank * self.length // size : (rank + 1) * self.length // size]
        return part.view(self.views, -1, part.shape[1]).mT

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Put in the features (A, B, D) of this process's assigned views, and those of the other processes."""
        super().enqueue(features.transpose(0, 1).flatten(1))
        self.filled = min(self.filled + features.shape[1] * world()[1], self.length)


@MODELS.register_module()
class SwAVNeck(BaseModule):
    """Average pooling and projection onto the unit sphere: linear, batch norm, ReLU, linear, L2 norm (appendix A).

    mmpretrain's SwAVNeck keeps its batch norm under two names and takes feature maps only.

    Args:
        in_channels, hid_channels, out_channels: widths; ``hid_channels=0`` is one linear layer.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int = 2048,
        out_channels: int = 128,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.out_channels = out_channels
        if hid_channels:
            self.projection_neck = nn.Sequential(
                nn.Linear(in_channels, hid_channels),
                nn.BatchNorm1d(hid_channels),
                nn.ReLU(inplace=True),
                nn.Linear(hid_channels, out_channels),
            )
        else:
            self.projection_neck = nn.Linear(in_channels, out_channels)

    def init_weights(self) -> None:
        """Draw the initial weights anew, as torch does."""
        for module in self.projection_neck.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        super().init_weights()

    def forward(self, x: Sequence[Tensor | tuple[Tensor, ...]]) -> Tensor:
        """Project the views of all sizes together: one batch norm sees them all.

        Args:
            x: outputs of the backbone, one a size of view: (B, C, H, W) or (B, C), or tuples that end in one;
                B counts images times views.

        Returns:
            (sum of B, out_channels), unit vectors in float32 or wider.
        """
        maps = [output[-1] if isinstance(output, (tuple, list)) else output for output in x]
        out = self.projection_neck(
            torch.cat([feature.mean((2, 3)) if feature.ndim == 4 else feature for feature in maps])
        )
        return F.normalize(out.to(torch.promote_types(out.dtype, torch.float32)), dim=1)


@MODELS.register_module()
class SwAVHead(BaseModule):
    """Prototypes and the swapped prediction loss (section 3.1, equations 1 and 2; section 3.2, equation 6).

    mmpretrain's SwAVLoss computes wrong codes on more than one process.

    Args:
        in_channels: D of the features.
        num_prototypes: K.
        temperature: of the prediction.
        epsilon, iterations: of :func:`sinkhorn`.
        crops_for_assign: numbers of the A views that get codes, the large ones.
    """

    def __init__(
        self,
        in_channels: int = 128,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        crops_for_assign: Sequence[int] = (0, 1),
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        _check_sinkhorn(epsilon, iterations)
        if not temperature > 0 or num_prototypes < 1:
            raise ValueError(
                f'SwAVHead: temperature={temperature} and num_prototypes={num_prototypes} must be above 0'
            )
        crops = tuple(crops_for_assign)
        if not crops or len(set(crops)) < len(crops) or min(crops) < 0:
            raise ValueError(f'crops_for_assign={crops}; give the numbers of the large views, such as (0, 1)')
        self.prototypes = nn.Linear(in_channels, num_prototypes, bias=False)
        self.temperature, self.epsilon, self.iterations, self.crops_for_assign = (
            temperature,
            epsilon,
            iterations,
            crops,
        )

    def init_weights(self) -> None:
        """Draw the prototypes anew."""
        self.prototypes.reset_parameters()
        super().init_weights()

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        """Put the prototypes back on the unit sphere, in place."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def assigned(self, tensor: Tensor) -> Tensor:
        """(V, ...) to (A, ...), the rows of the assigned views; a list as an index would make the host wait for the device."""
        return torch.stack([tensor[view] for view in self.crops_for_assign])

    def assign(self, scores: Tensor, queued: Tensor | None = None) -> Tensor:
        """Codes of the assigned views.

        Args:
            scores: (A, B, K).
            queued: (A, Q, D) features of the queue, which take part and get no codes of their own.

        Returns:
            (A, B, K), each sample's sum is 1.
        """
        scores = scores.detach()
        if queued is None:
            return sinkhorn(scores, self.epsilon, self.iterations)
        older = queued @ self.prototypes.weight.detach().T
        return sinkhorn(torch.cat([older, scores], dim=1), self.epsilon, self.iterations)[
            :, queued.shape[1] :
        ]

    def loss(self, features: Tensor, queued: Tensor | None = None) -> Tensor:
        """Cross entropy between the codes of each assigned view and the predictions from all other views.

        Args:
            features: (V, B, D), unit vectors, (B, D) from each view.
            queued: (A, Q, D), see :meth:`assign`.

        Returns:
            scalar, the mean over assigned views, other views and samples.
        """
        views, batch, _ = features.shape
        if views < 2 or max(self.crops_for_assign) >= views:
            raise ValueError(
                f'codes are asked of views {list(self.crops_for_assign)}, but there are {views} views; SwAV needs these and '
                'at least 2'
            )
        with torch.autocast(
            features.device.type, enabled=False
        ):  # the codes magnify what bfloat16 rounds off
            scores = self.prototypes(features.to(self.prototypes.weight.dtype))
            codes = self.assign(self.assigned(scores), queued)
            log_probs = (scores / self.temperature).log_softmax(dim=2)
            others = log_probs.sum(0) - self.assigned(log_probs)
            return -(codes * others).sum() / (len(codes) * (views - 1) * batch)


@MODELS.register_module()
class SwAV(ScheduledSupervisor):
    """SwAV: ``SwAV(backbone, neck=mmssl.SwAVNeck, head=mmssl.SwAVHead)``.

    mmpretrain's SwAV loses its queue when a run is resumed, and its codes are wrong on more than one process.

    Args:
        backbone, neck, head: configs, or built parts.
        freeze_prototypes: optimizer steps at the start during which the prototypes get no gradient (313 in
            the released code for batches of 4096, 5005 for 256).
        queue_length: features a view that the queue keeps over all processes, 0 for none (3840 for batches of
            256).
        queue_start_epoch: epochs done when the queue begins to fill (15).
        others: of mmpretrain's BaseSelfSupervisor.

    Raises:
        ValueError: neck and head do not agree on the width of a feature, or a number below 0.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        freeze_prototypes: int = 313,
        queue_length: int = 0,
        queue_start_epoch: int = 15,
        **kwargs,
    ):
        numbers = {
            'freeze_prototypes': freeze_prototypes,
            'queue_length': queue_length,
            'queue_start_epoch': queue_start_epoch,
        }
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f'{name}={value} of SwAV must not be negative; 0 turns it off')
        super().__init__(backbone, neck, head, **kwargs)
        width, given = (
            self.head.prototypes.in_features,
            getattr(self.neck, 'out_channels', self.head.prototypes.in_features),
        )
        if width != given:
            raise ValueError(
                f'head has in_channels={width}, but the neck gives {given}; set them to the same number'
            )
        self.freeze_prototypes, self.queue_start_epoch = freeze_prototypes, queue_start_epoch
        self.queue = SwAVQueue(len(self.head.crops_for_assign), width, queue_length) if queue_length else None

    def before_update(self) -> None:
        """Cancel the gradients of the prototypes in the first steps."""
        if self.clock.steps < self.freeze_prototypes:
            self.head.prototypes.weight.grad = None

    def _queue_runs(self) -> bool:
        if self.queue is None or not self.training:
            return False
        if self.queue_start_epoch and self.clock.steps_per_epoch is None:
            raise RuntimeError(
                f'the queue starts after {self.queue_start_epoch} epochs of unknown length: call '
                'set_schedule(iterations_per_epoch, max_iterations) of the model; in a run mmssl.MethodHook does so'
            )
        return self.clock.epoch >= self.queue_start_epoch

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: views (B, 3, H, W), normalised, large ones first; views of one size go through the
                backbone together.
            data_samples: ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        views = self.views(inputs)
        batches = sorted({len(view) for view in views}, reverse=True)
        if len(batches) > 1:
            raise ValueError(
                f'SwAV got views of {" and ".join(map(str, batches))} images; every image has all its views'
            )
        if self.training:
            self.head.normalize_prototypes()
        sizes = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
        features = self.neck([self.backbone(torch.cat(group)) for group in sizes]).unflatten(
            0, (len(views), -1)
        )
        queue = self.queue if self._queue_runs() else None
        loss = self.head.loss(features, queue.share() if queue else None)
        if queue:
            queue.enqueue(self.head.assigned(features))
        return dict(loss=loss)
