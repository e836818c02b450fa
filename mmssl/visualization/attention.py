"""Pictures of what the class token of a vision transformer attends to (DINO, arXiv:2104.14294, figures 1 and 3)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.evaluation.features import evaluating
from mmssl.layers.transformer import Attention
from mmssl.layers.vit import ViT
from mmssl.visualization.reconstruction import pixel_statistics

# dark violet, magenta, orange, pale yellow: evenly rising in lightness
COLOURS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    dtype=np.float64,
)
HEAT_SHARE = 0.65


def check_attention(backbone: nn.Module) -> None:
    """ValueError where a backbone has no class token, or no attention that is known here."""
    name = type(backbone).__name__
    if not isinstance(backbone, ViT) or type(backbone.layers[-1].attn) is not Attention:
        raise ValueError(
            f'the backbone {name} has no attention of a class token; give a config with a vision transformer of mmssl '
            '(mmssl.ViT, DINOViT, MAEViT, MoCoV3ViT)'
        )
    if backbone.cls_token is None:
        raise ValueError(
            f'the backbone {name} has no class token (with_cls_token=False), whose attention could be drawn'
        )


@torch.no_grad()
def class_attention(backbone: nn.Module, images: Tensor) -> Tensor:
    """Weights by which the class token attends to the patches in the last block.

    Args:
        backbone: a :class:`mmssl.layers.vit.ViT` with a class token.
        images: (B, 3, H, W), normalised, H and W divisible by the patch size.

    Returns:
        (B, heads, rows, columns); with the class token's weight of itself, the weights of a head sum to 1.
    """
    check_attention(backbone)
    attention = backbone.layers[-1].attn
    kept: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    out_type, backbone.out_type = backbone.out_type, 'raw'  # all tokens, the class token first
    try:
        with evaluating(backbone):
            backbone(images)
    finally:
        backbone.out_type = out_type
        handle.remove()
    query, key, _ = attention._heads(attention.qkv(kept[0]), 3)
    weights = (query[:, :, :1] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)[:, :, 0, 1:]
    height, width = backbone.patch_embed.patch_size
    return weights.unflatten(-1, (images.shape[-2] // height, images.shape[-1] // width))


def attention_rows(model: nn.Module, images: Tensor) -> tuple[np.ndarray, list[str]]:
    """Images, and the attention of their class tokens laid over them: the mean over the heads, then every head.

    A map is stretched between its least and its largest weight.

    Args:
        model: an algorithm with a data preprocessor that knows mean and standard deviation; what it evaluates
            (DINO's teacher), or else its ``backbone``, is looked at.
        images: (B, 3, H, W), RGB, 0 to 255.

    Returns:
        (B, 2 + heads, H, W, 3) uint8, and the title of every column.
    """
    mean, std = pixel_statistics(model)
    device = next(model.parameters()).device
    maps = class_attention(backbone_of(model), (images.to(device).float() - mean) / std).float().cpu()
    maps = torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1)
    least, largest = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    maps = (maps - least) / (largest - least).clamp(min=1e-12)
    heat = (
        F.interpolate(maps, size=images.shape[-2:], mode='bilinear', align_corners=False).clamp(0, 1).numpy()
    )
    positions = np.linspace(0, 1, len(COLOURS))
    coloured = np.stack([np.interp(heat, positions, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)[:, None]
    grey = pixels.mean(axis=-1, keepdims=True)
    rows = np.concatenate([pixels, HEAT_SHARE * coloured + (1 - HEAT_SHARE) * grey], axis=1)
    titles = ['input', 'mean', *(f'head {number}' for number in range(1, maps.shape[1]))]
    return rows.round().clip(0, 255).astype(np.uint8), titles


def backbone_of(model: nn.Module) -> nn.Module:
    """What a model evaluates, or its backbone, or the model itself where it has none."""
    return getattr(model, 'evaluated', None) or getattr(model, 'backbone', model)
