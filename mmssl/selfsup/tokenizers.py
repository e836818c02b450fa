"""Visual tokenizers for BEiT."""

from mmssl.config import RANDOM
from mmssl.selfsup.dalle import DALLEEncoder, map_pixels
from mmssl.selfsup.dalle_file import read_dalle
from mmssl.selfsup.kmeans_tokenizer import KMeansTokenizer
from mmssl.selfsup.tokenizer_base import Tokenizer

__all__ = ['RANDOM', 'DALLEEncoder', 'KMeansTokenizer', 'Tokenizer', 'map_pixels', 'read_dalle']
