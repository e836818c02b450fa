"""Losses as plain modules and functions of tensors: they need neither a config nor a runner."""

from mmssl.losses.contrastive import InfoNCELoss, NTXentLoss, info_nce
from mmssl.losses.dino import DINOLoss
from mmssl.losses.ibot import masked_patch_loss
from mmssl.losses.koleo import KoLeoLoss
from mmssl.losses.mutual_information import (
    DonskerVaradhanLoss,
    JSDLoss,
    donsker_varadhan_loss,
    fenchel_dual_loss,
    infonce_loss,
)
from mmssl.losses.nce import NCELoss
from mmssl.losses.redundancy import BarlowTwinsLoss, VICRegLoss
from mmssl.losses.sigreg import SIGRegLoss
from mmssl.losses.sinkhorn import sinkhorn

__all__ = [
    'BarlowTwinsLoss',
    'DINOLoss',
    'DonskerVaradhanLoss',
    'InfoNCELoss',
    'JSDLoss',
    'KoLeoLoss',
    'NCELoss',
    'NTXentLoss',
    'SIGRegLoss',
    'VICRegLoss',
    'donsker_varadhan_loss',
    'fenchel_dual_loss',
    'info_nce',
    'infonce_loss',
    'masked_patch_loss',
    'sinkhorn',
]
