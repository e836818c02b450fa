"""Low-rank adaptation; see :mod:`mmssl.layers.lora`."""

from mmssl.layers.lora import (
    LoRALinear,
    add_lora,
    merge_lora,
    plain_state_dict,
    trained_fraction,
)

__all__ = ['LoRALinear', 'add_lora', 'merge_lora', 'plain_state_dict', 'trained_fraction']
