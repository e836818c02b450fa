"""Hooks, optimizers, optimizer wrappers, schedules and the runners."""

from mmssl.engine.amp import AmpOptimWrapper
from mmssl.engine.checkpoint_hook import CheckpointHook
from mmssl.engine.freeze_hook import FreezeBackboneHook
from mmssl.engine.knn_hook import KNNHook
from mmssl.engine.method_hook import MethodHook
from mmssl.engine.nonfinite import NonFiniteHook
from mmssl.engine.optim import LARC, LARS, MergedOptimWrapperConstructor
from mmssl.engine.optim_wrapper import OptimWrapper
from mmssl.engine.progress import ProgressHook
from mmssl.engine.quality_hook import FeatureQualityHook
from mmssl.engine.reconstruction_hook import ReconstructionHook
from mmssl.engine.sanity import SanityHook
from mmssl.engine.schedules import CosineWeightDecay, WarmupCosineLR

__all__ = [
    'LARC',
    'LARS',
    'AmpOptimWrapper',
    'CheckpointHook',
    'CosineWeightDecay',
    'FeatureQualityHook',
    'FreezeBackboneHook',
    'KNNHook',
    'MergedOptimWrapperConstructor',
    'MethodHook',
    'NonFiniteHook',
    'OptimWrapper',
    'ProgressHook',
    'ReconstructionHook',
    'SanityHook',
    'WarmupCosineLR',
]


def __getattr__(name: str):
    if name == 'EachOptimWrapper':
        from mmssl.errors import warn_renamed

        warn_renamed('mmssl.engine.EachOptimWrapper', 'mmssl.engine.OptimWrapper')
        return OptimWrapper
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
