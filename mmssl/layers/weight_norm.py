"""Weight normalisation as a layer of its own."""

import math

import torch
from torch import Tensor, nn



class _Norm(nn.Module):
    """``original0``, the lengths (N, 1), and ``original1``, the directions (N, K) of the rows of a weight."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.original0 = nn.Parameter(torch.ones(out_features, 1))
        self.original1 = nn.Parameter(torch.empty(out_features, in_features))


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are g * v / |v| (weight normalisation, arXiv:1602.07868).

    The parameters have the names that ``torch.nn.utils.parametrizations.weight_norm`` gives them; a layer
    made by that cannot be pickled. Weights under the older names ``weight_g`` and ``weight_v`` load too.

    Args:
        in_features, out_features: widths.
        fixed_length: g stays 1.
    """

    def __init__(self, in_features: int, out_features: int, fixed_length: bool = True):
        super().__init__()
        self.parametrizations = nn.ModuleDict({'weight': _Norm(in_features, out_features)})
        self.weight_g.requires_grad_(not fixed_length)
        self.register_load_state_dict_pre_hook(_rename_old_weight_norm)
        self.reset_parameters()

    @property
    def weight_g(self) -> nn.Parameter:
        """(out, 1), the lengths."""
        return self.parametrizations['weight'].original0

    @property
    def weight_v(self) -> nn.Parameter:
        """(out, in), the directions."""
        return self.parametrizations['weight'].original1

    @property
    def weight(self) -> Tensor:
        """(out, in), what the layer multiplies with."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def reset_parameters(self) -> None:
        """Directions as torch draws a linear layer; lengths 1."""
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        nn.init.ones_(self.weight_g)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) to (B, out)."""
        return nn.functional.linear(x, self.weight)


def _rename_old_weight_norm(module: WeightNormLinear, state_dict: dict, prefix: str, *_) -> None:
    for old, new in (('weight_g', 'original0'), ('weight_v', 'original1')):
        if prefix + old in state_dict:
            state_dict[f'{prefix}parametrizations.weight.{new}'] = state_dict.pop(prefix + old)
