"""The inputs of one comparison of a fast form with its plain form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A call that the fast form must compute as the plain form does.

    Args:
        name: What is special about it, for the test's name.
        make: Builds the arguments for a data type: a tuple, or a tuple and a dict of keywords. Called once
            for each form, with the same random seed. Gradients are compared for the tensors that require them
            and for the parameters of modules.
        dtypes: Data types to compare in.
        gradients: False runs both forms without gradients, for forms that serve prediction only.
        tolerance: Largest difference in float32, absolute and relative; float64 must agree to 1e-9.
        declined: The fast form returns NotImplemented, so that the plain form runs.
    """

    name: str
    make: Callable[[torch.dtype], Any]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)
    gradients: bool = True
    tolerance: float = 1e-4
    declined: bool = False

    def arguments(self, dtype: torch.dtype) -> tuple[tuple, dict]:
        """The positional and keyword arguments of the call."""
        torch.manual_seed(0)
        made = self.make(dtype)
        if len(made) == 2 and isinstance(made[0], tuple) and isinstance(made[1], dict):
            return made
        return made, {}
