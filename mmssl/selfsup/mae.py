"""Masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377).

An encoder gets the visible quarter of the patches; a small decoder gets its output and mask tokens, and
predicts the pixels of the masked patches. Tokens stay in the order of the noise that chose them: attention
does not depend on the order as long as every token carries its own position, so nothing is unshuffled in
training.
"""

import torch
from torch import Tensor, nn

from mmssl.layers.masking import block_masking, grid_masking, num_visible, random_masking
from mmssl.layers.patch import gather_tokens, patch_grid, patchify, unpatchify
from mmssl.layers.vit import ViT
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.mae_decoder import DECODER_SIZES, MAEDecoder, Masking
from mmssl.selfsup.mae_targets import MAEHead
from mmssl.selfsup.small import ARCH, Small, single_view

MASK_SAMPLINGS = ('random', 'block', 'grid')


@MODELS.register_module()
class MAEViT(ViT):
    """ViT that encodes only the visible patches (section 3, 'MAE encoder').

    Args:
        arch: As in :class:`~mmssl.layers.vit.ViT`.
        img_size: As in :class:`~mmssl.layers.vit.ViT`.
        patch_size: As in :class:`~mmssl.layers.vit.ViT`.
        mask_ratio: Fraction of masked patches, in (0, 1).
        mask_sampling: 'random'; or 'block', large rectangles, or 'grid', all but every second patch of every
            second row (section 4, 'Mask sampling strategy').
        encode_mask_tokens: Encode mask tokens in place of the masked patches too, which the paper found
            slower and worse (table 1c).
        **kwargs: Passed on to :class:`~mmssl.layers.vit.ViT`. The position table is fixed.
    """

    def __init__(
        self,
        arch: str | dict = 'b',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        mask_ratio: float = 0.75,
        mask_sampling: str = 'random',
        encode_mask_tokens: bool = False,
        **kwargs,
    ):
        self.encode_mask_tokens = encode_mask_tokens
        super().__init__(arch=arch, img_size=img_size, patch_size=patch_size, **kwargs)
        if self.pos_embed is None or self.rope is not None or self.register_tokens is not None:
            raise ValueError(
                'MAEViT has a fixed position table, and neither rotary positions nor registers: leave out '
                'use_abs_pos_emb, rope_cfg and num_registers'
            )
        num_visible(self.patch_resolution[0] * self.patch_resolution[1], mask_ratio)  # checks the ratio
        if mask_sampling not in MASK_SAMPLINGS:
            raise ValueError(
                f'mask_sampling={mask_sampling!r} of MAEViT is unknown; one of {", ".join(MASK_SAMPLINGS)}'
            )
        self.mask_ratio = mask_ratio
        self.mask_sampling = mask_sampling
        if mask_sampling == 'grid':
            grid_masking(1, self.patch_resolution, mask_ratio)  # checks the ratio
        self.pos_embed.requires_grad_(False)
        if encode_mask_tokens:
            self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, self.embed_dims))

    def draw_masking(self, x: Tensor, noise: Tensor | None = None) -> Masking:
        """Draw the masked patches of images (B, 3, H, W); ``noise`` (B, N) in [0, 1) is the draw.

        A grid is the same for all images.
        """
        grid = patch_grid(x.shape[-2], x.shape[-1], self.patch_embed.patch_size)
        if self.mask_sampling == 'grid':
            return Masking(*grid_masking(len(x), grid, self.mask_ratio, x.device), grid)
        if self.mask_sampling == 'block':
            return Masking(*block_masking(len(x), grid, self.mask_ratio, noise, x.device), grid)
        return Masking(*random_masking(len(x), grid[0] * grid[1], self.mask_ratio, noise, x.device), grid)

    def encode_visible(self, patches: Tensor, masking: Masking) -> Tensor:
        """Encode the visible patches.

        Args:
            patches: (B, N, p * q * 3), cut by ``patchify``.
            masking: Which of them are visible.

        Returns:
            (B, 1 + K, C): class token, then the visible patches in the order of ``masking.visible``. With
            ``encode_mask_tokens`` (B, 1 + N, C), the masked patches last.
        """
        positions = self.positions(masking.grid)
        tokens = self.patch_embed.project_patches(gather_tokens(patches, masking.visible))
        of_patches = positions[:, self.num_pos_extra_tokens :]
        tokens = tokens + gather_tokens(of_patches, masking.visible)
        if self.encode_mask_tokens:
            tokens = torch.cat([tokens, self.mask_token + gather_tokens(of_patches, masking.masked)], dim=1)
        if self.cls_token is not None:
            cls_tokens = (self.cls_token + positions[:, :1]).expand(len(tokens), -1, -1)
            tokens = torch.cat([cls_tokens, tokens], dim=1)
        for layer in self.layers:
            tokens = self.run_layer(layer, tokens)
        return self.ln1(tokens) if self.final_norm else tokens

    def forward(self, x: Tensor, mask: bool | None = None, noise: Tensor | None = None):
        """Encode images, masked or whole.

        Args:
            x: (B, 3, H, W), normalised.
            mask: True encodes only the visible patches; None or False is the plain backbone, as other systems
                call it.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            Plain: a tuple as from :class:`~mmssl.layers.vit.ViT`. Masked: latent (B, 1 + K, C), mask (B, N)
            with 1 = masked, and ids_restore (B, N), the position of every patch in the order visible, masked.
        """
        if not mask:
            return super().forward(x)
        masking = self.draw_masking(x, noise)
        latent = self.encode_visible(patchify(x, self.patch_embed.patch_size), masking)
        return latent, masking.mask, masking.ids_restore


@MODELS.register_module()
class MAE(SelfSupervisor):
    """Masked autoencoder: ``MAE(backbone=mmssl.MAEViT, neck=mmssl.MAEDecoder, head=mmssl.MAEHead)``.

    Args:
        backbone: Encoder: config, or built.
        neck: Decoder: config, or built. Grid, patch size and channels default to the backbone's.
        head: Target and loss: config, or built. Patch size and channels default to the backbone's.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.

    Raises:
        ValueError: Backbone, neck and head do not agree on patch size, channels or grid.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, **kwargs):
        encoder = build(backbone, MODELS)
        neck, head = _with_defaults_of(encoder, neck, head)
        super().__init__(backbone=encoder, neck=build(neck, MODELS), head=build(head, MODELS), **kwargs)
        _check_parts(self.backbone, self.neck, self.head)
        if encoder.encode_mask_tokens:
            self.neck.mask_token.requires_grad_(False)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W): the output of the plain backbone."""
        return self.backbone(inputs, mask=False)

    def forward_encoder(self, patches: Tensor, masking: Masking) -> Tensor:
        """Encode the visible ones of the patches (B, N, P) to latent tokens (B, 1 + K, C)."""
        return self.backbone.encode_visible(patches, masking)

    def forward_decoder(self, latent: Tensor, masking: Masking) -> Tensor:
        """Predict the masked patches, (B, M, P), from the latent tokens."""
        return self.neck.predict_masked(latent, masking)

    def forward_loss(self, patches: Tensor, pred: Tensor, masking: Masking) -> Tensor:
        """Compare predictions (B, M, P) with the masked ones of the patches (B, N, P); a scalar."""
        return self.head.loss(pred, gather_tokens(patches, masking.masked))

    def loss(
        self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: Ignored.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            ``dict(loss=scalar)``.
        """
        patches = patchify(inputs, self.head.patch_size)
        if self.head.pca is not None:
            self.head.pca.fit(patches)
        masking = self.backbone.draw_masking(inputs, noise)
        latent = self.forward_encoder(patches, masking)
        pred = self.forward_decoder(latent, masking)
        return dict(loss=self.forward_loss(patches, pred, masking))

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Predict all patches of images.

        Args:
            inputs: (B, 3, H, W), normalised.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            pred (B, N, P), the prediction as the loss compares it, patches row by row; mask (B, N), 1 =
            masked; images (B, 3, H, W), normalised: the input with its masked patches replaced by the
            prediction.
        """
        patches = patchify(inputs, self.head.patch_size)
        masking = self.backbone.draw_masking(inputs, noise)
        pred = self.neck(self.forward_encoder(patches, masking), masking)
        pred = gather_tokens(pred, masking.ids_restore)
        pasted = self.head.paste(pred, patches, masking.mask)
        return pred, masking.mask, unpatchify(pasted, self.head.patch_size, masking.grid)


def _with_defaults_of(encoder: MAEViT, neck, head) -> tuple:
    """Return the configs of decoder and head, completed by the sizes of the encoder."""
    stem = encoder.patch_embed
    if isinstance(neck, dict):
        sizes = {
            'num_patches': encoder.patch_resolution,
            'patch_size': stem.patch_size,
            'embed_dim': encoder.embed_dims,
            'in_chans': stem.projection.in_channels,
        }
        rows, columns = encoder.patch_resolution
        if neck.get('num_patches') == rows * columns:  # the number alone does not give the grid
            neck = {**neck, 'num_patches': (rows, columns)}
        neck = {**sizes, **neck}
    if isinstance(head, dict):
        head = {'patch_size': stem.patch_size, 'in_channels': stem.projection.in_channels, **head}
        if isinstance(neck, dict) and head.get('pca_components'):
            neck = {'predict_feature_dim': head['pca_components'], **neck}
    return neck, head


def _check_parts(encoder: MAEViT, decoder: MAEDecoder, head: MAEHead) -> None:
    sizes = encoder.patch_embed.patch_size, decoder.patch_size, head.patch_size
    if len(set(sizes)) > 1:
        raise ValueError(
            f'backbone, neck and head have patch sizes {sizes[0]}, {sizes[1]}, {sizes[2]}; '
            'give all the same patch_size'
        )
    channels = encoder.patch_embed.projection.in_channels
    height, width = decoder.patch_size
    predicted = decoder.decoder_pred.out_features // (height * width)
    if head.pca is not None:
        if decoder.decoder_pred.out_features != head.target_dim:
            raise ValueError(
                f'neck predicts {decoder.decoder_pred.out_features} values of a patch, and head has '
                f'pca_components={head.target_dim}; set predict_feature_dim={head.target_dim} of the neck'
            )
        predicted = channels
    if {predicted, head.in_channels} - {channels}:
        raise ValueError(
            f'backbone has in_channels={channels}, neck in_chans={predicted} and head '
            f'in_channels={head.in_channels}; set all of them to the number of channels of the images'
        )
    if decoder.decoder_embed.in_features != encoder.embed_dims:
        raise ValueError(
            f'neck has embed_dim={decoder.decoder_embed.in_features}, but the backbone has '
            f'{encoder.embed_dims} channels'
        )
    if decoder.grid != encoder.patch_resolution:
        rows, columns = encoder.patch_resolution
        raise ValueError(
            f'neck has a grid of {decoder.grid[0]}x{decoder.grid[1]} patches, but the backbone cuts '
            f'images of {encoder.img_size} into {rows}x{columns}; set num_patches='
            f'{rows * columns if rows == columns else (rows, columns)}'
        )


SIZES = dict(arch=ARCH, img_size=32, patch_size=8)
SMALL = {
    'MAEViT': Small(SIZES, lambda model, images: model(images, mask=True)[0], (2, 5, 32)),
    'MAEHead': Small(
        dict(patch_size=8, norm_pix=True),
        lambda head, images: head.loss(patchify(images, 8).flip(1), patchify(images, 8)),
    ),
    'MAE': Small(
        dict(
            backbone=dict(type='mmssl.MAEViT', **SIZES),
            neck=dict(type='mmssl.MAEDecoder', **DECODER_SIZES),
            head=dict(type='mmssl.MAEHead', patch_size=8),
        ),
        single_view,
    ),
}
