"""Integers that a module counts in Python and keeps in its state dict."""

import torch
from torch import nn


class SavedCounters(nn.Module):
    """Module with integer attributes that are part of its state dict.

    They are saved as tensors (1,). A buffer on a GPU would have to be copied back, with a synchronisation,
    wherever Python needs its value for a schedule or a slice. Subclasses name the attributes in ``COUNTERS``
    and set them in the constructor. Loading a state dict that lacks one, such as a released file, keeps its
    value.
    """

    COUNTERS: tuple[str, ...] = ()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.COUNTERS:
            destination[prefix + name] = torch.tensor([getattr(self, name)], dtype=torch.int64)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        unexpected: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected, error_msgs
        )
        counters = {prefix + name: name for name in self.COUNTERS}
        unexpected_keys += [key for key in unexpected if key not in counters]
        for key, name in counters.items():
            if key in state_dict:
                setattr(self, name, int(state_dict[key]))
