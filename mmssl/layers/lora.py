"""Low-rank adaptation (arXiv:2106.09685): W x + (alpha / rank) B A x, with only A and B trained."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import MismatchError


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank update; ``weight`` and ``bias`` are frozen and keep their names.

    For a layer that computes queries, keys and values at once, ``parts=3`` and ``tuned=(0, 2)`` update
    queries and values only, as the paper does. B starts at zero, so that the layer starts unchanged. Maps
    (..., in_features) to (..., out_features).

    Args:
        layer: Layer to replace; its parameters are shared.
        rank: Rank of the update.
        alpha: Numerator of the scale alpha / rank; the rank if None.
        parts: Number of blocks of the output.
        tuned: Indices of the blocks that are updated.
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
                f'{layer.out_features} outputs in parts={parts}, tuned={tuned}: parts must divide the '
                'outputs and tuned name some of them'
            )
        nn.Module.__init__(self)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.weight = layer.weight
        self.bias = layer.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.parts = parts
        self.tuned = tuple(tuned)
        self.scale = (rank if alpha is None else alpha) / rank
        options = dict(device=layer.weight.device, dtype=layer.weight.dtype)
        self.lora_a = nn.Parameter(torch.empty(len(tuned), rank, layer.in_features, **options))
        self.lora_b = nn.Parameter(torch.empty(len(tuned), layer.out_features // parts, rank, **options))
        self.register_state_dict_post_hook(_describe_scale)
        self.reset_lora()

    def reset_lora(self) -> None:
        """Draw A as a linear layer draws its weight (Kaiming, uniform), and set B to zero."""
        for part in self.lora_a:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def update(self) -> Tensor:
        """(out_features, in_features), what is added to the weight."""
        products = self.scale * self.lora_b @ self.lora_a
        zero = torch.zeros_like(products[0])
        blocks = [
            products[self.tuned.index(part)] if part in self.tuned else zero for part in range(self.parts)
        ]
        return torch.cat(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the updated weight."""
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


def _describe_scale(module: LoRALinear, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    # torch saves it beside the weights, in _metadata
    local_metadata['lora_scale'] = module.scale


def _lora_scale(state_dict: Mapping, name: str) -> float | None:
    metadata = getattr(state_dict, '_metadata', None) or {}
    scale = (metadata.get(name) or {}).get('lora_scale')
    return float(scale) if isinstance(scale, (int, float)) else None


def merge_loaded_lora(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Merge the low-rank updates of a state dict that is being loaded into layers without such updates.

    A pre-hook of ``load_state_dict``: without it the updates would be unknown keys, and the layer would be
    loaded as it was before training.

    Raises:
        MismatchError: The file does not say the scale of an update.
    """
    for key in [key for key in state_dict if key.startswith(prefix) and key.endswith('.lora_a')]:
        name = key.removesuffix('.lora_a')
        try:
            layer = module.get_submodule(name[len(prefix) :])
        except AttributeError:
            continue  # the loader reports it
        if isinstance(layer, LoRALinear) or f'{name}.lora_b' not in state_dict:
            continue
        scale = _lora_scale(state_dict, name)
        if scale is None:
            raise MismatchError(
                f'{key}: the model has no low-rank updates, and the file does not say their scale. Merge '
                'them first: build the model with its LoRA, load the file, and save '
                'mmssl.layers.lora.plain_state_dict(model)'
            )
        down, up = state_dict.pop(key), state_dict.pop(f'{name}.lora_b')
        weight = state_dict[f'{name}.weight']
        blocks = scale * up @ down
        merged = weight.clone()
        parts = (0, 2) if len(blocks) == 2 else (0,)
        for part, block in zip(parts, blocks, strict=True):
            merged[part * len(block) : (part + 1) * len(block)] += block.to(weight.dtype)
        state_dict[f'{name}.weight'] = merged


def add_lora(
    module: nn.Module, rank: int = 4, alpha: float | None = None, targets: tuple[str, ...] = ('qkv',)
) -> list[str]:
    """Give linear layers of a module low-rank updates and freeze everything else in it.

    Args:
        module: Module whose linear layers are replaced in place.
        rank: As in :class:`LoRALinear`.
        alpha: As in :class:`LoRALinear`.
        targets: Last parts of the names of the layers; 'qkv' is updated in queries and values.

    Returns:
        Names of the layers.

    Raises:
        ValueError: No linear layer has such a name.
    """
    module.requires_grad_(False)
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition('.')[2] in targets
    ]
    if not names:
        raise ValueError(
            f'{type(module).__name__} has no linear layer named {" or ".join(targets)}; name some with '
            'lora=dict(targets=...)'
        )
    for name in names:
        parent, _, last = name.rpartition('.')
        layer = module.get_submodule(name)
        split: dict[str, Any] = dict(parts=3, tuned=(0, 2)) if last == 'qkv' else {}
        setattr(module.get_submodule(parent), last, LoRALinear(layer, rank, alpha, **split))
    return names


def merge_lora(module: nn.Module) -> nn.Module:
    """Replace layers with low-rank updates by plain ones that compute the same, in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            parent, _, last = name.rpartition('.')
            setattr(module.get_submodule(parent), last, layer.merged())
    return module


def plain_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict after :func:`merge_lora`, without changing the module."""
    state = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, LoRALinear):
            prefix = f'{name}.' if name else ''
            state[f'{prefix}weight'] = (layer.weight + layer.update()).detach()
            del state[f'{prefix}lora_a'], state[f'{prefix}lora_b']
    return state


def trained_fraction(module: nn.Module) -> float:
    """Fraction of the parameters that require gradients."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trained in sizes if trained) / sum(size for size, _ in sizes)
