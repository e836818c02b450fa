"""The data preprocessor of detectors."""

from mmdet.models.data_preprocessors import DetDataPreprocessor as MMDetDataPreprocessor

from mmssl.layers.preprocessing import FastNormalization
from mmssl.registry import MODELS


@MODELS.register_module()
class DetDataPreprocessor(FastNormalization, MMDetDataPreprocessor):
    """mmdet's DetDataPreprocessor, with faster normalisation: (3, H, W) to (B, 3, H, W)."""
