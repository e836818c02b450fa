"""Self-supervised pre-training: one paper, one file."""

from mmssl.selfsup.beit import BEiT, BEiTHead
from mmssl.selfsup.dino import DINO, DINOHead, DINOLoss, DINOViT
from mmssl.selfsup.infomax import DeepInfoMax, InfoMaxEncoder, InfoMaxNet, PriorDiscriminator
from mmssl.selfsup.mae import MAE, MAEDecoder, MAEHead, MAEViT
from mmssl.selfsup.moby import MoBY
from mmssl.selfsup.moco import MoCo, MoCoV1Neck, MoCoV2Neck
from mmssl.selfsup.mocov3 import MoCoV3, MoCoV3Head, MoCoV3ViT
from mmssl.selfsup.pretext import PretextHead, RelativeLocation, RotationPrediction
from mmssl.selfsup.swav import SwAV, SwAVHead, SwAVNeck
from mmssl.selfsup.tokenizers import DALLEEncoder, KMeansTokenizer

__all__ = [
    'DINO',
    'MAE',
    'BEiT',
    'BEiTHead',
    'DALLEEncoder',
    'DINOHead',
    'DINOLoss',
    'DINOViT',
    'DeepInfoMax',
    'InfoMaxEncoder',
    'InfoMaxNet',
    'KMeansTokenizer',
    'MAEDecoder',
    'MAEHead',
    'MAEViT',
    'MoBY',
    'MoCo',
    'MoCoV1Neck',
    'MoCoV2Neck',
    'MoCoV3',
    'MoCoV3Head',
    'MoCoV3ViT',
    'PretextHead',
    'PriorDiscriminator',
    'RelativeLocation',
    'RotationPrediction',
    'SwAV',
    'SwAVHead',
    'SwAVNeck',
]
