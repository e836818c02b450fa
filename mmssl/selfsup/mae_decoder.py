"""Decoder of masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377, section 3, 'MAE decoder')."""

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.masking import mask_of
from mmssl.layers.patch import gather_tokens, pair
from mmssl.layers.pos_embed import describe_pos_embed, fit_pos_embed, resize_pos_embed, sincos_2d
from mmssl.layers.transformer import TransformerBlock, init_linear_xavier, norm_eps
from mmssl.registry import MODELS
from mmssl.selfsup.small import Small


class Masking(NamedTuple):
    """Visible and masked patches of a batch, N = K + M patches per image.

    Attributes:
        visible: (B, K) indices of the visible patches.
        masked: (B, M) indices of the masked patches.
        grid: (rows, columns) of the N patches.
    """

    visible: Tensor
    masked: Tensor
    grid: tuple[int, int]

    @property
    def mask(self) -> Tensor:
        """(B, N), 1 = masked."""
        return mask_of(self.masked, self.grid[0] * self.grid[1])

    @property
    def ids_restore(self) -> Tensor:
        """(B, N), the position of every patch in the order visible, masked."""
        return torch.cat([self.visible, self.masked], dim=1).argsort(dim=1)


@MODELS.register_module()
class MAEDecoder(BaseModule):
    """Light transformer from latent tokens to pixels (section 3, 'MAE decoder').

    Args:
        num_patches: N of the training images, or (rows, columns) if the grid is not square; inside a
            :class:`MAE` the backbone's.
        patch_size: Side of a patch in pixels, or (height, width).
        in_chans: Channels of the images.
        embed_dim: Channels of the encoder.
        decoder_embed_dim: Channels of the decoder.
        decoder_depth: Number of blocks.
        decoder_num_heads: Heads of a block.
        mlp_ratio: Hidden channels of a block's MLP per channel.
        norm_cfg: ``dict(type='LN', eps=...)``.
        predict_feature_dim: Channels of the prediction; the pixels of a patch when None.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    COMPILED_BLOCKS = ('decoder_blocks',)

    def __init__(  # noqa: PLR0913 - set in configs, mmpretrain's names
        self,
        num_patches: int | tuple[int, int] = 196,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 1024,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_cfg: dict | None = None,
        predict_feature_dim: int | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.grid = square_grid(num_patches)
        self.patch_size = pair(patch_size)
        eps = norm_eps(norm_cfg)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(self.grid, decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            TransformerBlock(
                decoder_embed_dim, decoder_num_heads, int(mlp_ratio * decoder_embed_dim), eps=eps
            )
            for _ in range(decoder_depth)
        )
        self.ln1 = nn.LayerNorm(decoder_embed_dim, eps=eps)
        patch_pixels = self.patch_size[0] * self.patch_size[1] * in_chans
        self.decoder_pred = nn.Linear(decoder_embed_dim, predict_feature_dim or patch_pixels)
        self.register_load_state_dict_pre_hook(_fit_own_pos_embed)
        self.register_state_dict_post_hook(_describe_own_pos_embed)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier linear layers and the mask token from N(0, 0.02); set the fixed sine-cosine table."""
        self.apply(init_linear_xavier)
        nn.init.normal_(self.mask_token, std=0.02)
        with torch.no_grad():
            self.decoder_pos_embed.copy_(sincos_2d(self.grid, self.decoder_pos_embed.shape[-1]))

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.reset_parameters()
        super().init_weights()

    def embed(self, latent: Tensor, masking: Masking) -> Tensor:
        """Append mask tokens to the latent tokens and add positions.

        Args:
            latent: (B, 1 + K, embed_dim), class token first; or (B, 1 + K + M, embed_dim) of an encoder that
                has mask tokens itself, to which no further ones are appended.
            masking: Which patches are visible and which are masked.

        Returns:
            (B, 1 + K + M, decoder_embed_dim): class token, visible patches, masked patches.
        """
        positions = resize_pos_embed(self.decoder_pos_embed, self.grid, masking.grid)
        tokens = self.decoder_embed(latent)
        num_visible, num_masked = masking.visible.shape[1], masking.masked.shape[1]
        if latent.shape[1] == 1 + num_visible + num_masked:
            order = torch.cat([masking.visible, masking.masked], dim=1)
            patches = tokens[:, 1:] + gather_tokens(positions[:, 1:], order)
            return torch.cat([tokens[:, :1] + positions[:, :1], patches], dim=1)
        visible = tokens[:, 1:] + gather_tokens(positions[:, 1:], masking.visible)
        masked = self.mask_token + gather_tokens(positions[:, 1:], masking.masked)
        return torch.cat([tokens[:, :1] + positions[:, :1], visible, masked], dim=1)

    def forward(self, latent: Tensor, masking: Masking) -> Tensor:
        """Predict all patches, (B, K + M, P) in the order visible, masked; arguments as for :meth:`embed`."""
        tokens = self.embed(latent, masking)
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.ln1(tokens[:, 1:]))

    def predict_masked(self, latent: Tensor, masking: Masking) -> Tensor:
        """Predict the masked patches, (B, M, P); arguments as for :meth:`embed`.

        The loss needs no others, so the last block computes keys and values of all tokens, but everything
        else for the masked ones only.
        """
        tokens = self.embed(latent, masking)
        num_unmasked = 1 + masking.visible.shape[1]
        for block in self.decoder_blocks[:-1]:
            tokens = block(tokens)
        tokens = self.decoder_blocks[-1](tokens, num_unmasked)
        return self.decoder_pred(self.ln1(tokens))


def square_grid(num_patches: int | tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of a number of patches; raise ValueError if it is not a square."""
    if not isinstance(num_patches, int):
        rows, columns = num_patches
        return rows, columns
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise ValueError(f'num_patches {num_patches} is not a square; give the grid as (rows, columns)')
    return side, side


def _fit_own_pos_embed(module: MAEDecoder, state_dict: dict, prefix: str, *_) -> None:
    fit_pos_embed(state_dict, f'{prefix}decoder_pos_embed', module.decoder_pos_embed, module.grid, 1)


def _describe_own_pos_embed(module: MAEDecoder, state_dict: dict, prefix: str, *_) -> None:
    if f'{prefix}decoder_pos_embed' in state_dict:
        describe_pos_embed(state_dict, f'{prefix}decoder_pos_embed', module.grid, 1)


DECODER_SIZES = dict(
    num_patches=16, patch_size=8, embed_dim=32, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2
)


def _small_decode(decoder: MAEDecoder, images: Tensor) -> Tensor:
    order = torch.arange(16).expand(2, 16)
    latent = images.flatten(1)[:, : 5 * 32].view(2, 5, 32)
    return decoder(latent, Masking(order[:, :4], order[:, 4:], (4, 4)))


SMALL = {'MAEDecoder': Small(DECODER_SIZES, _small_decode, (2, 16, 192))}
