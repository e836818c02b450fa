"""Batch norm over all ranks that also works on the CPU."""

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
    def backward(ctx, grad_output: Tensor) -> Tensor:
        grad_output = grad_output.clone()
        dist.all_reduce(grad_output)
        return grad_output


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks, computed from two sums."""

    # torch's SyncBatchNorm refuses tensors on the CPU, where gloo ranks train

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...), in training by the statistics of all ranks."""
        if not self.training or world()[1] == 1:
            return self._local(x)
        channels = (1, -1, *[1] * (x.ndim - 2))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = _SumOverRanks.apply(x.new_full((1,), x.numel() / x.shape[1]))
        mean = _SumOverRanks.apply(x.sum(axes)) / count
        centred = x - mean.view(channels)
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), weight)
        out = centred * (variance + self.eps).rsqrt().view(channels)
        return out * self.weight.view(channels) + self.bias.view(channels) if self.affine else out

    def _local(self, x: Tensor) -> Tensor:
        if self.training and self.track_running_stats:
            self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            tracked = self.training and self.track_running_stats
            momentum = 1 / float(self.num_batches_tracked) if tracked else 0.0
        use_batch = self.training or self.running_mean is None
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, use_batch, momentum, self.eps
        )


def convert_sync_batchnorm(module: nn.Module) -> None:
    """Replace every SyncBatchNorm of torch in a module by :class:`SyncBatchNorm`, keeping its tensors."""
    for part in module.modules():
        if type(part) is nn.SyncBatchNorm:
            part.__class__ = SyncBatchNorm
