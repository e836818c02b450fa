"""Former home of :mod:`mmssl.data.mask_transforms`."""

import importlib

from mmssl.errors import warn_renamed


def __getattr__(name: str):
    value = getattr(importlib.import_module('mmssl.data.mask_transforms'), name)
    warn_renamed(f'mmssl.promptable.transforms.{name}', f'mmssl.data.mask_transforms.{name}')
    return value
