"""The model inside its wrappers."""

from mmengine.model import is_model_wrapper


def bare_model(model):
    """Return the model without the wrappers around it (DistributedDataParallel, averaging, ...)."""
    while is_model_wrapper(model):
        model = model.module
    return model


def is_sharded(model) -> bool:
    """Whether the parameters of a model are sharded over the ranks (FSDP, of either form)."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(model, (FSDPModule, FullyShardedDataParallel))
