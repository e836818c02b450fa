"""Weight normalisation (arXiv:1602.07868)."""

import math

import torch
from torch import Tensor, nn


class _Norm(nn.Module):
    """Lengths ``original0`` (N, 1) and directions ``original1`` (N, K) of the rows of a weight."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.original0 = nn.Parameter(torch.ones(out_features, 1))
        self.original1 = nn.Parameter(torch.empty(out_features, in_features))


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose rows are g * v / |v|.

    The parameters are named as by ``torch.nn.utils.parametrizations.weight_norm``. Weights under the older
    names ``weight_g`` and ``weight_v`` load too.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        fixed_length: Keep g at 1.
    """

    # a layer parametrised by torch's weight_norm cannot be pickled

    def __init__(self, in_features: int, out_features: int, fixed_length: bool = True):
        super().__init__()
        self.parametrizations = nn.ModuleDict({'weight': _Norm(in_features, out_features)})
        self.weight_g.requires_grad_(not fixed_length)
        self.register_load_state_dict_pre_hook(_rename_old_weight_norm)
        self.reset_parameters()

    @property
    def weight_g(self) -> nn.Parameter:
        """Lengths of the rows, (out, 1)."""
        return self.parametrizations['weight'].original0

    @property
    def weight_v(self) -> nn.Parameter:
        """Directions of the rows, (out, in)."""
        return self.parametrizations['weight'].original1

    @property
    def weight(self) -> Tensor:
        """Normalised weight, (out, in)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def reset_parameters(self) -> None:
        """Draw directions as torch initialises a linear layer; set lengths to 1."""
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        nn.init.ones_(self.weight_g)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        return nn.functional.linear(x, self.weight)


def _rename_old_weight_norm(module: WeightNormLinear, state_dict: dict, prefix: str, *_) -> None:
    for old, new in (('weight_g', 'original0'), ('weight_v', 'original1')):
        if prefix + old in state_dict:
            state_dict[f'{prefix}parametrizations.weight.{new}'] = state_dict.pop(prefix + old)
