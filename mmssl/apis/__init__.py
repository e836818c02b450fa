"""The package from Python: models by name, and an inferencer a system.

    from mmssl.apis import DetectionInferencer, FeatureInferencer, PromptInferencer, SegmentationInferencer,
    get_model, list_models

``import mmssl.apis`` is light: torch and the toolboxes are imported when a name is first used.
"""

import importlib

_WHERE = {
    'get_model': 'models',
    'list_models': 'models',
    'FeatureInferencer': 'features',
    'DetectionInferencer': 'detection',
    'SegmentationInferencer': 'segmentation',
    'PromptInferencer': 'prompting',
    'export_backbone': 'export',
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        from mmssl.hints import nearest

        raise AttributeError(f'mmssl.apis has no {name!r}{nearest(name, _WHERE)}')
    value = getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
