"""Low-rank adaptation (Hu et al., ICLR 2022, arXiv:2106.09685): W x + (alpha / rank) B A x, of which A and B alone learn."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank update; ``weight`` and ``bias`` keep their names, and stay as they are.

    For a layer that makes queries, keys and values at once, ``parts=3`` and ``tuned=(0, 2)`` update queries
    and values only, as the paper does. B starts at zero: the layer starts as it was.

    Maps (..., in_features) to (..., out_features).

    Args:
        layer: to be taken over; its parameters are shared.
        rank: of the update.
        alpha: of the scale alpha / rank; the rank when None.
        parts: blocks of the output.
        tuned: numbers of the blocks that are updated.
    """

    def __init__(
        self,
        layer: nn.Linear,
        rank: int = 4,
        alpha: float | None = None,
        parts: int = 1,
        tuned: tuple[int, ...] = (0,),
    ):
        if rank < 1:
            raise ValueError(f'rank={rank} of LoRALinear must be at least 1')
        if layer.out_features % parts or not set(tuned) <= set(range(parts)):
            raise ValueError(
                f'{layer.out_features} outputs in parts={parts}, tuned={tuned}: parts must divide the outputs and tuned name '
                'some of them'
            )
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.parts, self.tuned, self.scale = parts, tuple(tuned), (rank if alpha is None else alpha) / rank
        place = dict(device=layer.weight.device, dtype=layer.weight.dtype)
        self.lora_a = nn.Parameter(torch.empty(len(tuned), rank, layer.in_features, **place))
        self.lora_b = nn.Parameter(torch.empty(len(tuned), layer.out_features // parts, rank, **place))
        self.reset_lora()

    def reset_lora(self) -> None:
        """A as a linear layer's weight (Kaiming, uniform), B zero."""
        for part in self.lora_a:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def update(self) -> Tensor:
        """(out_features, in_features), what is added to the weight."""
        products = self.scale * self.lora_b @ self.lora_a
        nothing = torch.zeros_like(products[0])
        return torch.cat(
            [
                products[self.tuned.index(part)] if part in self.tuned else nothing
                for part in range(self.parts)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """As a linear layer with the updated weight."""
        return F.linear(x, self.weight + self.update(), self.bias)

    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        layer = nn.Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(self.weight + self.update())
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def extra_repr(self) -> str:
        """Sizes and rank."""
        return f'{super().extra_repr()}, rank={self.lora_a.shape[1]}, tuned={self.tuned} of {self.parts}'


def add_lora(
    module: nn.Module, rank: int = 4, alpha: float | None = None, targets: tuple[str, ...] = ('qkv',)
) -> list[str]:
    """Give the linear layers of a module low-rank updates and freeze everything else in it.

    Args:
        module: of which linear layers are replaced in place.
        rank, alpha: of the updates.
        targets: last parts of the names of the layers; 'qkv' is updated in queries and values.

    Returns:
        names of the layers.

    Raises:
        ValueError: no linear layer has such a name.
    """
    module.requires_grad_(False)
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition('.')[2] in targets
    ]
    if not names:
        raise ValueError(
            f'{type(module).__name__} has no linear layer named {" or ".join(targets)}; name some with lora=dict(targets=...)'
        )
    for name in names:
        parent, _, last = name.rpartition('.')
        layer = module.get_submodule(name)
        split: dict[str, Any] = dict(parts=3, tuned=(0, 2)) if last == 'qkv' else {}
        setattr(module.get_submodule(parent), last, LoRALinear(layer, rank, alpha, **split))
    return names


def merge_lora(module: nn.Module) -> nn.Module:
    """Replace layers with low-rank updates by plain ones that compute the same, in place; returns the module."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            parent, _, last = name.rpartition('.')
            setattr(module.get_submodule(parent), last, layer.merged())
    return module


def plain_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that :func:`merge_lora` would leave, of a module that stays as it is."""
    state = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, LoRALinear):
            prefix = f'{name}.' if name else ''
            state[f'{prefix}weight'] = (layer.weight + layer.update()).detach()
            del state[f'{prefix}lora_a'], state[f'{prefix}lora_b']
    return state


def trained_share(module: nn.Module) -> float:
    """Share of the parameters that learn."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)
