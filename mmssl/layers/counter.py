"""Whole numbers that a module counts on the host and keeps in its state dict."""

import torch
from torch import nn


class HostCounters(nn.Module):
    """A module with integer attributes that are saved as tensors (1,) and never live on the device.

    A buffer would have to be read back from the device wherever Python needs its value (a schedule, a slice).
    Subclasses name theirs in ``COUNTERS`` and set them in the constructor. A state dict that lacks one, as a
    released file does, loads and leaves it as it is.
    """

    COUNTERS: tuple[str, ...] = ()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.COUNTERS:
            destination[prefix + name] = torch.tensor([getattr(self, name)], dtype=torch.int64)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        own = {prefix + name: name for name in self.COUNTERS}
        mine: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, mine, error_msgs
        )
        unexpected_keys += [key for key in mine if key not in own]
        for key, name in own.items():
            if key in state_dict:
                setattr(self, name, int(state_dict[key]))
