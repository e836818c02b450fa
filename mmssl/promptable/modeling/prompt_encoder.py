""":class:`mmssl.SAMPromptEncoder` and its positional encoding in the official module."""

from mmssl.promptable.prompt_encoder import PositionEmbeddingRandom
from mmssl.promptable.prompt_encoder import SAMPromptEncoder as PromptEncoder

__all__ = ['PositionEmbeddingRandom', 'PromptEncoder']
