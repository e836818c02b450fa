"""The promptable segmenter: Segment Anything. Needs no toolbox."""

from mmssl.promptable.automatic import SamAutomaticMaskGenerator
from mmssl.promptable.backbone import SAMBackbone
from mmssl.promptable.build_sam import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)
from mmssl.promptable.image_encoder import SAMImageEncoder
from mmssl.promptable.instances import PromptedInstanceSegmentor
from mmssl.promptable.mask_decoder import SAMMaskDecoder
from mmssl.promptable.predictor import SamPredictor
from mmssl.promptable.prompt_encoder import SAMPromptEncoder
from mmssl.promptable.sam import SAM
from mmssl.promptable.tiles import TiledMaskGenerator
from mmssl.promptable.tiny_vit import SAMTinyViT
from mmssl.promptable.training import InteractiveSAM

__all__ = [
    'SAM',
    'InteractiveSAM',
    'PromptedInstanceSegmentor',
    'SAMBackbone',
    'SAMImageEncoder',
    'SAMMaskDecoder',
    'SAMPromptEncoder',
    'SAMTinyViT',
    'SamAutomaticMaskGenerator',
    'SamPredictor',
    'TiledMaskGenerator',
    'build_sam',
    'build_sam_vit_b',
    'build_sam_vit_h',
    'build_sam_vit_l',
    'build_sam_vit_t',
    'sam_model_registry',
]
