"""Attention of the class token of vision transformers (DINO, arXiv:2104.14294, figures 1 and 3)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.data.pictures import shown_channels
from mmssl.layers.modes import evaluating
from mmssl.layers.transformer import Attention
from mmssl.layers.vit import ViT
from mmssl.visualization.heat import overlay_heat
from mmssl.visualization.reconstruction import pixel_statistics

HEAT_OPACITY = 0.65


def check_attention(backbone: nn.Module) -> None:
    """Check that a backbone has a class token and attention whose weights can be computed.

    Raises:
        ValueError: It does not.
    """
    name = type(backbone).__name__
    if not isinstance(backbone, ViT) or type(backbone.layers[-1].attn) is not Attention:
        raise ValueError(
            f'the backbone {name} has no attention of a class token; give a config with a vision transformer '
            'of mmssl (mmssl.ViT, DINOViT, MAEViT, MoCoV3ViT)'
        )
    if backbone.cls_token is None:
        raise ValueError(
            f'the backbone {name} has no class token (with_cls_token=False) whose attention could be drawn'
        )


@torch.no_grad()
def class_attention(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the attention weights from the class token to the patches in the last block.

    Args:
        backbone: A :class:`mmssl.layers.vit.ViT` with a class token.
        images: (B, 3, H, W), normalized, H and W divisible by the patch size.

    Returns:
        (B, heads, rows, columns). With the class token's weights for itself and registers, the weights of a
        head sum to 1.
    """
    check_attention(backbone)
    attention = backbone.layers[-1].attn
    inputs: list[tuple] = []
    handle = attention.register_forward_pre_hook(lambda _, args: inputs.append(args))
    out_type, backbone.out_type = backbone.out_type, 'raw'  # all tokens, the class token first
    try:
        with evaluating(backbone):
            backbone(images)
    finally:
        backbone.out_type = out_type
        handle.remove()
    query, key, _ = attention.project(*inputs[0])
    logits = query[:, :, :1] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    weights = logits.softmax(dim=-1)[:, :, 0, backbone.num_extra_tokens :]
    patch_height, patch_width = backbone.patch_embed.patch_size
    return weights.unflatten(-1, (images.shape[-2] // patch_height, images.shape[-1] // patch_width))


def attention_rows(model: nn.Module, images: Tensor) -> tuple[np.ndarray, list[str]]:
    """Overlay the attention of the class token on images: the mean over the heads, then every head.

    Each map is scaled linearly from its smallest to its largest weight.

    Args:
        model: An algorithm whose data preprocessor has mean and standard deviation, see :func:`backbone_of`.
        images: (B, C, H, W), RGB or of any channels, 0 to 255.

    Returns:
        (B, 2 + heads, H, W, 3) uint8, and the titles of the columns.
    """
    mean, std = pixel_statistics(model)
    device = next(model.parameters()).device
    maps = class_attention(backbone_of(model), (images.to(device).float() - mean) / std).float().cpu()
    maps = torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    maps = (maps - low) / (high - low).clamp(min=1e-12)
    heat = F.interpolate(maps, size=images.shape[-2:], mode='bilinear', align_corners=False)
    shown = images[:, shown_channels(images.shape[1])]
    pixels = shown.permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)[:, None]
    overlays = overlay_heat(pixels, heat.clamp(0, 1).numpy(), HEAT_OPACITY)
    rows = np.concatenate([pixels, overlays], axis=1)
    titles = ['input', 'mean', *(f'head {head}' for head in range(1, maps.shape[1]))]
    return rows.round().clip(0, 255).astype(np.uint8), titles


def backbone_of(model: nn.Module) -> nn.Module:
    """Return the evaluated part of a model (DINO's teacher), or its backbone, or the model itself."""
    return getattr(model, 'evaluated', None) or getattr(model, 'backbone', model)
