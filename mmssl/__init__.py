"""mmssl: from images without labels to detection, segmentation and prompting, on OpenMMLab."""

import importlib

__version__ = '0.2.0'

# modules that have moved since 0.1: old name -> new home
_MOVED = {
    'compat': 'hosts.patches',
    'doctor': 'hosts.doctor',
    'launch': 'engine.launch',
    'mim': 'hosts.mim',
    'page': 'demo_page',
    'signals': 'engine.signals',
    'visual': 'visualization',
}


def __getattr__(name: str):
    if name not in _MOVED:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmssl.errors import warn_renamed

    warn_renamed(f'mmssl.{name}', f'mmssl.{_MOVED[name]}')
    return importlib.import_module(f'{__name__}.{_MOVED[name]}')
