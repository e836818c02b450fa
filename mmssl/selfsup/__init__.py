"""Self-supervised pre-training: one paper, one file."""

from mmssl.selfsup.mae import MAE, MAEDecoder, MAEHead, MAEViT

__all__ = ['MAE', 'MAEDecoder', 'MAEHead', 'MAEViT']
