"""Former home of :mod:`mmssl.data.mask_datasets`."""

import importlib

from mmssl.errors import warn_renamed


def __getattr__(name: str):
    value = getattr(importlib.import_module('mmssl.data.mask_datasets'), name)
    warn_renamed(f'mmssl.promptable.data.{name}', f'mmssl.data.mask_datasets.{name}')
    return value
