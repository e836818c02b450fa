"""Hooks, optimizers, schedules and the runners."""

from mmssl.engine.amp import AmpOptimWrapper, EachOptimWrapper
from mmssl.engine.checkpoint_hook import CheckpointHook
from mmssl.engine.knn_hook import KNNHook
from mmssl.engine.method_hook import MethodHook
from mmssl.engine.nonfinite import NonFiniteHook
from mmssl.engine.optim import LARC, LARS, MergedOptimWrapperConstructor
from mmssl.engine.progress import ProgressHook
from mmssl.engine.reconstruction_hook import ReconstructionHook
from mmssl.engine.sanity import SanityHook
from mmssl.engine.schedules import CosineWeightDecay, WarmupCosineLR

__all__ = [
    'LARC',
    'LARS',
    'AmpOptimWrapper',
    'CheckpointHook',
    'CosineWeightDecay',
    'EachOptimWrapper',
    'KNNHook',
    'MergedOptimWrapperConstructor',
    'MethodHook',
    'NonFiniteHook',
    'ProgressHook',
    'ReconstructionHook',
    'SanityHook',
    'WarmupCosineLR',
]
