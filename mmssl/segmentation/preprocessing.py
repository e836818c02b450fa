"""The data preprocessor of segmentors."""

from mmseg.models import SegDataPreProcessor as MMSegDataPreProcessor

from mmssl.layers.preprocessing import FastNormalization
from mmssl.registry import MODELS


@MODELS.register_module()
class SegDataPreProcessor(FastNormalization, MMSegDataPreProcessor):
    """mmseg's SegDataPreProcessor, with faster normalisation: (3, H, W) to (B, 3, H, W)."""
