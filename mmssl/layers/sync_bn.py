"""Batch norm over all processes, on the CPU too."""

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.layers.distributed import world


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm(_BatchNorm):
    """torch's refuses tensors on the CPU, where gloo ranks train, and DDP refuses torch's; here two sums carry the statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same shape, normalised by the statistics of all processes in training."""
        if not self.training or world()[1] == 1:
            return self._local(x)
        channels = (1, -1, *[1] * (x.ndim - 2))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = _SumOverRanks.apply(torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype))
        mean = _SumOverRanks.apply(x.sum(axes)) / count
        centred = x - mean.view(channels)
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)
        out = centred * (variance + self.eps).rsqrt().view(channels)
        return out * self.weight.view(channels) + self.bias.view(channels) if self.affine else out

    def _local(self, x: Tensor) -> Tensor:
        if self.training and self.track_running_stats:
            self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked) if self.training and self.track_running_stats else 0.0
        batch = self.training or self.running_mean is None
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch, share, self.eps
        )


def work_on_cpu(module: nn.Module) -> None:
    """Turn every SyncBatchNorm of torch in ``module`` into ours, in place; parameters and statistics stay the same tensors."""
    for part in module.modules():
        if type(part) is nn.SyncBatchNorm:
            part.__class__ = SyncBatchNorm
