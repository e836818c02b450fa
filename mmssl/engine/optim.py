"""Parameter groups and optimizers."""

import functools
from collections.abc import Callable, Iterable

import torch
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import Tensor, nn

from mmssl.ops.scale_each import scale_each_
from mmssl.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Constructor that merges parameters with equal settings into one group, with layer-wise learning rates.

    mmengine's makes one group for each parameter (252 for a ViT-B), so that fused and foreach optimizers have
    nothing to fuse.

    ``paramwise_cfg`` takes all keys of mmengine's constructor (``custom_keys``, ``norm_decay_mult``,
    ``flat_decay_mult`` ...) and ``layer_decay_rate``: depth d of D has its learning rate multiplied by rate
    ** (D - 1 - d), with (d, D) from the ``get_layer_depth(name)`` of the model or its backbone (BEiT,
    arXiv:2106.08254, and MAE's fine-tuning).

    Raises:
        ValueError: ``layer_decay_rate`` for a model without ``get_layer_depth``, or an unknown key.
    """

    KEYS = (
        'custom_keys',
        'bias_lr_mult',
        'bias_decay_mult',
        'norm_decay_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'bypass_duplicate',
        'dcn_offset_lr_mult',
        'layer_decay_rate',
    )

    def _validate_cfg(self) -> None:
        unknown = set(self.paramwise_cfg) - set(self.KEYS)
        if unknown:
            raise ValueError(
                f'paramwise_cfg has unknown keys {sorted(unknown)}; known are {", ".join(self.KEYS)}'
            )
        super()._validate_cfg()

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Append the parameter groups of ``module`` to ``params``."""
        if prefix:
            super().add_params(params, module, prefix, **kwargs)
            return
        single: list[dict] = []
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('ERROR')  # mmengine logs a line for every parameter, and warns of every frozen one
        try:
            super().add_params(single, module, prefix, **kwargs)
        finally:
            logger.setLevel(level)
        self._scale_by_depth(single, module)
        merged: dict[tuple, dict] = {}
        for group in single:
            trained = [parameter for parameter in group['params'] if parameter.requires_grad]
            options = {name: value for name, value in group.items() if name != 'params'}
            merged.setdefault(tuple(sorted(options.items())), {'params': [], **options})['params'] += trained
        groups = [group for group in merged.values() if group['params']]
        for group in groups:
            settings = ', '.join(f'{name} {value:.3g}' for name, value in group.items() if name != 'params')
            logger.info(f'parameter group: {len(group["params"])} tensors, {settings or "defaults"}')
        params += groups

    def _scale_by_depth(self, groups: list[dict], module: nn.Module) -> None:
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if rate is None:
            return
        get_layer_depth = _layer_depths(module)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in groups:
            depth, depths = get_layer_depth(names[id(group['params'][0])])
            scale = rate ** (depths - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * scale
            group['lr_scale'] = scale


def _layer_depths(module: torch.nn.Module) -> Callable[[str], tuple[int, int]]:
    """Return the function from the name of a parameter to (depth, number of depths).

    Raises:
        ValueError: Neither the model nor its backbone has one.
    """
    if hasattr(module, 'get_layer_depth'):
        return module.get_layer_depth
    backbone = getattr(module, 'backbone', None)
    if backbone is None or not hasattr(backbone, 'get_layer_depth'):
        raise ValueError(
            'layer_decay_rate needs a model or a backbone with get_layer_depth(name); '
            f'{type(module).__name__} has none'
        )
    return functools.partial(backbone.get_layer_depth, prefix='backbone.')


class _ScaledSGD(torch.optim.Optimizer):
    """SGD with momentum, v = momentum * v + u and p -= lr * v, whose updates u a subclass scales by layer.

    Args:
        params: Parameters or groups.
        **settings: Settings of a group: ``lr``, ``weight_decay``, ``momentum``, ``trust_coefficient``, and
            those of the subclass.

    Raises:
        ValueError: One of these four is negative.
    """

    def __init__(self, params: Iterable, **settings: float):
        for name in ('lr', 'weight_decay', 'momentum', 'trust_coefficient'):
            if not settings[name] >= 0:
                raise ValueError(f'{type(self).__name__}: {name}={settings[name]} must not be negative')
        super().__init__(params, settings)

    def updates(self, group: dict, parameters: list[Tensor]) -> list[Tensor]:
        """Return u of every parameter."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Update the parameters; return the loss that ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group['params'] if parameter.grad is not None]
            if not trained:
                continue
            updates = self.updates(group, trained)
            states = [self.state[parameter] for parameter in trained]
            for state, parameter in zip(states, trained, strict=True):
                if 'momentum_buffer' not in state:
                    state['momentum_buffer'] = torch.zeros_like(parameter)
            velocities = [state['momentum_buffer'] for state in states]
            torch._foreach_mul_(velocities, group['momentum'])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(trained, velocities, alpha=-group['lr'])
        return loss


@OPTIMIZERS.register_module()
class LARS(_ScaledSGD):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888) as MAE, MoCo v3 and SwAV use it.

    Parameters with more than one dimension: u = g + weight_decay * p, scaled by trust_coefficient * |p| /
    |u|; 1-D parameters: u = g, neither scaled nor decayed. Then v = momentum * v + u and p -= lr * v.

    mmpretrain's LARS scales and decays biases, adds the norms of gradient and weight where the paper takes
    the norm of their sum, includes the learning rate in the momentum and synchronises twice for every
    parameter.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: Weight decay.
        momentum: Momentum.
        trust_coefficient: Factor of the scale.

    Raises:
        ValueError: An argument is negative.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float = 0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ):
        super().__init__(
            params, lr=lr, weight_decay=weight_decay, momentum=momentum, trust_coefficient=trust_coefficient
        )

    def updates(self, group: dict, parameters: list[Tensor]) -> list[Tensor]:
        """Return the gradients, decayed and scaled for parameters with more than one dimension."""
        updates = {id(parameter): parameter.grad for parameter in parameters}
        scaled = [parameter for parameter in parameters if parameter.ndim > 1]
        if scaled:
            decayed = torch._foreach_add(
                [parameter.grad for parameter in scaled], scaled, alpha=group['weight_decay']
            )
            norms = torch.stack(torch._foreach_norm(scaled))
            update_norms = torch.stack(torch._foreach_norm(decayed))
            trust = torch.where(
                (norms > 0) & (update_norms > 0), group['trust_coefficient'] * norms / update_norms, 1.0
            )
            scale_each_(decayed, trust)
            updates.update(zip(map(id, scaled), decayed, strict=True))
        return list(updates.values())


@OPTIMIZERS.register_module()
class LARC(_ScaledSGD):
    """SGD with layer-wise rates from the norms of weights and gradients: NVIDIA apex's LARC, as SwAV uses it.

    For every tensor, biases too: r = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps); with
    ``clip`` r = min(r / lr, 1). Then u = r * (g + weight_decay * p), v = momentum * v + u and p -= lr * v.
    For a tensor that is zero or has a zero gradient, u = g.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: Weight decay.
        momentum: Momentum.
        trust_coefficient: Factor of the rate.
        eps: Term that avoids a division by zero.
        clip: Whether to limit the rate to the learning rate.

    Raises:
        ValueError: An argument is negative.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float = 0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        clip: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            trust_coefficient=trust_coefficient,
            eps=eps,
            clip=clip,
        )

    def updates(self, group: dict, parameters: list[Tensor]) -> list[Tensor]:
        """Return the gradients, decayed and scaled."""
        gradients = [parameter.grad for parameter in parameters]
        decay = group['weight_decay']
        norms = torch.stack(torch._foreach_norm(parameters))
        gradient_norms = torch.stack(torch._foreach_norm(gradients))
        rates = group['trust_coefficient'] * norms / (gradient_norms + decay * norms + group['eps'])
        if group['clip']:
            rates = (rates / group['lr']).clamp(max=1.0)
        usual = (norms > 0) & (gradient_norms > 0)
        updates = scale_each_(torch._foreach_mul(parameters, decay), usual.to(norms.dtype))
        torch._foreach_add_(updates, gradients)
        return scale_each_(updates, torch.where(usual, rates, 1.0))
