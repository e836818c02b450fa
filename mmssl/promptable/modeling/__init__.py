"""The parts of the model under the names and with the signatures of ``segment_anything.modeling``."""

from mmssl.promptable.modeling.image_encoder import ImageEncoderViT
from mmssl.promptable.modeling.mask_decoder import MaskDecoder
from mmssl.promptable.modeling.prompt_encoder import PromptEncoder
from mmssl.promptable.modeling.sam import Sam
from mmssl.promptable.modeling.transformer import TwoWayTransformer

__all__ = ['ImageEncoderViT', 'MaskDecoder', 'PromptEncoder', 'Sam', 'TwoWayTransformer']
