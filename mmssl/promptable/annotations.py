"""Former home of :mod:`mmssl.data.annotations`."""

import importlib

from mmssl.errors import warn_renamed


def __getattr__(name: str):
    value = getattr(importlib.import_module('mmssl.data.annotations'), name)
    warn_renamed(f'mmssl.promptable.annotations.{name}', f'mmssl.data.annotations.{name}')
    return value
