"""The package from Python: models by name, and one inferencer per system.

    from mmssl.apis import DetectionInferencer, FeatureInferencer, PromptInferencer, SegmentationInferencer,
    get_model, list_models

``import mmssl.apis`` is light: torch and the toolboxes are imported when a name is first used.
"""

import importlib

_MODULES = {
    'get_model': 'mmssl.apis.models',
    'get_backbone': 'mmssl.apis.backbones',
    'list_models': 'mmssl.config.catalogue',
    'FeatureInferencer': 'mmssl.apis.features',
    'DetectionInferencer': 'mmssl.apis.detection',
    'SegmentationInferencer': 'mmssl.apis.segmentation',
    'PromptInferencer': 'mmssl.apis.prompting',
    'init': 'mmssl.apis.starting_config',
    'finetune': 'mmssl.apis.finetune_run',
    'predict': 'mmssl.apis.predict_folder',
    'embed': 'mmssl.apis.embedding',
    'select': 'mmssl.apis.selection',
    'find_duplicates': 'mmssl.apis.duplicates',
    'search': 'mmssl.apis.neighbours',
    'stats': 'mmssl.apis.channel_stats',
    'pack': 'mmssl.apis.packing',
    'frames': 'mmssl.apis.video_frames',
    'export_backbone': 'mmssl.apis.export',
    'export_model': 'mmssl.apis.onnx_models.run',
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        from mmssl.hints import nearest

        raise AttributeError(f'mmssl.apis has no {name!r}{nearest(name, _MODULES)}')
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
