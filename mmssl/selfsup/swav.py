"""SwAV: swapping assignments between views (Caron et al., NeurIPS 2020, arXiv:2006.09882).

Features of a view are compared with prototypes; the Sinkhorn-Knopp algorithm turns the scores of a batch into
codes that share the samples equally among the prototypes; the code of one view is predicted from every other
view of the image.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.layers.distributed import world
from mmssl.layers.queue import FeatureQueue
from mmssl.losses.sinkhorn import check_sinkhorn, sinkhorn
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import RESNET, Small
from mmssl.selfsup.views import concatenate_by_size, image_features


class SwAVQueue(FeatureQueue):
    """Feature queue of the assigned views of all ranks; ``local_features()`` is None until it is full.

    Args:
        views: A, number of assigned views; each has rows of its own.
        dim: D of a feature.
        length: Features of each view, over all processes.

    Attributes:
        queue: (A * D, length).
        filled: Features that have been put in, up to ``length``.
    """

    COUNTERS = ('queue_ptr', 'filled')

    def __init__(self, views: int, dim: int, length: int):
        super().__init__(views * dim, length)
        self.views = views
        self.length = length
        self.queue.zero_()
        self.filled = 0

    def local_features(self) -> Tensor | None:
        """(A, length / world size, D), the part of this process; None until the queue is full."""
        if self.filled < self.length:
            return None
        rank, size = world()
        part = self.queue[:, rank * self.length // size : (rank + 1) * self.length // size]
        return part.view(self.views, -1, part.shape[1]).mT

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Put in the features (A, B, D) of the assigned views of this process and of all others."""
        super().enqueue(features.transpose(0, 1).flatten(1))
        self.filled = min(self.filled + features.shape[1] * world()[1], self.length)


@MODELS.register_module()
class SwAVNeck(BaseModule):
    """Projection onto the unit sphere: pooling, linear, batch norm, ReLU, linear, L2 norm (appendix A).

    Args:
        in_channels: Channels of the backbone's output.
        hid_channels: Channels of the hidden layer; 0 for a single linear layer.
        out_channels: Channels of a feature.
        init_cfg: Passed on to mmengine's BaseModule.
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
        """Draw the initial weights as torch does."""
        for module in self.projection_neck.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        super().init_weights()

    def forward(self, x: Sequence[Tensor | tuple[Tensor, ...]]) -> Tensor:
        """Project the views of all sizes together: one batch norm sees them all.

        Args:
            x: Output of the backbone for each size of view: (B, C, H, W) or (B, C), or a tuple that ends in
                one; B counts images times views.

        Returns:
            (sum of B, out_channels), unit vectors in float32 or wider.
        """
        out = self.projection_neck(torch.cat([image_features(output) for output in x]))
        return F.normalize(out.to(torch.promote_types(out.dtype, torch.float32)), dim=1)


@MODELS.register_module()
class SwAVHead(BaseModule):
    """Prototypes and the swapped prediction loss (section 3.1, equations 1 and 2; section 3.2, equation 6).

    Args:
        in_channels: D of the features.
        num_prototypes: K.
        temperature: Temperature of the predictions.
        epsilon: See :func:`~mmssl.losses.sinkhorn`.
        iterations: See :func:`~mmssl.losses.sinkhorn`.
        crops_for_assign: Indices of the A views that get codes, the large ones.
        init_cfg: Passed on to mmengine's BaseModule.
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
        check_sinkhorn(None, epsilon, iterations)
        if not temperature > 0 or num_prototypes < 1:
            raise ValueError(
                f'SwAVHead: temperature={temperature} and num_prototypes={num_prototypes} must be above 0'
            )
        crops = tuple(crops_for_assign)
        if not crops or len(set(crops)) < len(crops) or min(crops) < 0:
            raise ValueError(f'crops_for_assign={crops}; give the indices of the large views, such as (0, 1)')
        self.prototypes = nn.Linear(in_channels, num_prototypes, bias=False)
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.crops_for_assign = crops

    def init_weights(self) -> None:
        """Draw the prototypes."""
        self.prototypes.reset_parameters()
        super().init_weights()

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        """Put the prototypes back on the unit sphere, in place."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def select_assigned(self, tensor: Tensor) -> Tensor:
        """Select the A assigned views of a tensor (V, ...)."""
        # indexing with a list would synchronise CPU and GPU
        return torch.stack([tensor[view] for view in self.crops_for_assign])

    def codes(self, scores: Tensor, queued: Tensor | None = None) -> Tensor:
        """Compute the codes of the assigned views.

        Args:
            scores: (A, B, K).
            queued: (A, Q, D) features of the queue, which take part and get no codes of their own.

        Returns:
            (A, B, K); those of a sample sum to 1.
        """
        scores = scores.detach()
        if queued is not None:
            scores = torch.cat([queued @ self.prototypes.weight.detach().T, scores], dim=1)
        num_queued = 0 if queued is None else queued.shape[1]
        return sinkhorn(scores, self.epsilon, self.iterations)[:, num_queued:]

    def loss(self, features: Tensor, queued: Tensor | None = None) -> Tensor:
        """Cross entropy between the codes of each assigned view and the predictions from all other views.

        Args:
            features: (V, B, D), unit vectors: (B, D) of each of V views.
            queued: (A, Q, D), see :meth:`codes`.

        Returns:
            scalar, the mean over assigned views, other views and samples.
        """
        views, batch, _ = features.shape
        if views < 2 or max(self.crops_for_assign) >= views:
            raise ValueError(
                f'crops_for_assign={list(self.crops_for_assign)}, but there are {views} views; SwAV needs '
                'these and at least 2'
            )
        with no_autocast(features):  # the codes magnify what bfloat16 rounds off
            scores = self.prototypes(features.to(self.prototypes.weight.dtype))
            codes = self.codes(self.select_assigned(scores), queued)
            log_probs = (scores / self.temperature).log_softmax(dim=2)
            log_probs_of_others = log_probs.sum(dim=0) - self.select_assigned(log_probs)
            return -(codes * log_probs_of_others).sum() / (len(codes) * (views - 1) * batch)


@MODELS.register_module()
class SwAV(ScheduledSupervisor):
    """SwAV: ``SwAV(backbone, neck=mmssl.SwAVNeck, head=mmssl.SwAVHead)``.

    Args:
        backbone: Config, or built.
        neck: Config, or built.
        head: Config, or built.
        freeze_prototypes: Optimizer steps at the start in which the prototypes get no gradient (313 in the
            released code for batches of 4096, 5005 for 256).
        queue_length: Features of each view in the queue, over all processes; 0 for no queue (3840 for batches
            of 256).
        queue_start_epoch: Epochs done when the queue begins to fill (15).
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.

    Raises:
        ValueError: Neck and head do not agree on the channels of a feature, or a number is below 0.
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
        lengths = {
            'freeze_prototypes': freeze_prototypes,
            'queue_length': queue_length,
            'queue_start_epoch': queue_start_epoch,
        }
        for name, value in lengths.items():
            if value < 0:
                raise ValueError(f'{name}={value} of SwAV must not be negative; 0 turns it off')
        super().__init__(backbone, neck, head, **kwargs)
        channels = self.head.prototypes.in_features
        if getattr(self.neck, 'out_channels', channels) != channels:
            raise ValueError(
                f'head has in_channels={channels}, but the neck gives {self.neck.out_channels}; set them to '
                'the same number'
            )
        self.freeze_prototypes = freeze_prototypes
        self.queue_start_epoch = queue_start_epoch
        num_assigned = len(self.head.crops_for_assign)
        self.queue = SwAVQueue(num_assigned, channels, queue_length) if queue_length else None

    def before_update(self) -> None:
        """Cancel the gradient of the prototypes in the first steps."""
        if self.clock.steps < self.freeze_prototypes:
            self.head.prototypes.weight.grad = None

    def _queue_is_used(self) -> bool:
        if self.queue is None or not self.training:
            return False
        if self.queue_start_epoch and self.clock.steps_per_epoch is None:
            raise RuntimeError(
                f'the queue starts after {self.queue_start_epoch} epochs of unknown length: call '
                'set_schedule(iterations_per_epoch, max_iterations) of the model; in a run mmssl.MethodHook '
                'does so'
            )
        return self.clock.epoch >= self.queue_start_epoch

    def loss(self, inputs: list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: Views (B, 3, H, W), normalised, large ones first; views of one size go through the
                backbone together.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``.
        """
        self.begin_forward()
        views = self.views(inputs)
        batches = sorted({len(view) for view in views}, reverse=True)
        if len(batches) > 1:
            raise ValueError(
                f'SwAV got views of {" and ".join(map(str, batches))} images; every image needs all views'
            )
        if self.training:
            self.head.normalize_prototypes()
        outputs = [self.backbone(batch) for batch in concatenate_by_size(views)]
        features = self.neck(outputs).unflatten(0, (len(views), -1))
        queue = self.queue if self._queue_is_used() else None
        loss = self.head.loss(features, queue.local_features() if queue else None)
        if queue:
            queue.enqueue(self.head.select_assigned(features))
        return dict(loss=loss)


def _small_loss(model: SwAV, images: Tensor) -> Tensor:
    model.set_schedule(1, 10)
    return model.loss([images, images.flip(3), images[..., :16, :16]])['loss']


SMALL = {
    'SwAVNeck': Small(
        dict(in_channels=3, hid_channels=8, out_channels=4), lambda neck, images: neck([images]), (2, 4)
    ),
    'SwAVHead': Small(
        dict(in_channels=3, num_prototypes=5),
        lambda head, images: head.loss(images.mean(3).transpose(1, 2)),
    ),
    'SwAV': Small(
        dict(
            backbone=RESNET,
            neck=dict(type='mmssl.SwAVNeck', in_channels=64, hid_channels=8, out_channels=4),
            head=dict(type='mmssl.SwAVHead', in_channels=4, num_prototypes=5),
            freeze_prototypes=0,
            queue_length=6,
        ),
        _small_loss,
    ),
}
