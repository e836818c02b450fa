"""Masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377).

An encoder sees the visible quarter of the patches; a small decoder sees its output and mask tokens, and
predicts the pixels of the masked patches. Tokens are kept in the order of the noise that chose them:
attention does not depend on the order as long as every token carries its own position, so nothing is put back
in place during training.
"""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.masking import mask_of, random_masking
from mmssl.layers.patch import pair, patch_grid, patchify, take_rows, unpatchify
from mmssl.layers.pos_embed import fit_pos_embed, resize_pos_embed, sincos_2d
from mmssl.layers.transformer import TransformerBlock, init_linear_xavier, norm_eps
from mmssl.layers.vit import ViT
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor


@MODELS.register_module()
class MAEViT(ViT):
    """ViT that can encode the visible patches alone (section 3, 'MAE encoder').

    mmpretrain's MAEViT swaps the axes of the position table, masks although told ``mask=False``, takes square
    images only and projects the patches that it then throws away.

    Args:
        mask_ratio: share of masked patches, in (0, 1).
        others: as in :class:`mmssl.layers.vit.ViT`. The position table is fixed.
    """

    def __init__(
        self,
        arch: str | dict = 'b',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        mask_ratio: float = 0.75,
        **kwargs,
    ):
        super().__init__(arch=arch, img_size=img_size, patch_size=patch_size, **kwargs)
        random_masking(
            1, self.patch_resolution[0] * self.patch_resolution[1], mask_ratio, device='cpu'
        )  # refuses an impossible ratio here
        self.mask_ratio = mask_ratio
        self.pos_embed.requires_grad_(False)

    def encode_visible(self, patches: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Encode the visible patches.

        Args:
            patches: (B, N, p * q * 3), cut by ``patchify``.
            visible: (B, K) numbers of the visible patches.
            grid: (rows, columns) of the N patches.

        Returns:
            (B, 1 + K, C): class token, then the visible patches in the order of ``visible``.
        """
        positions = self.positions(grid)
        tokens = self.patch_embed.project_rows(take_rows(patches, visible)) + take_rows(
            positions[:, self.num_extra_tokens :], visible
        )
        if self.cls_token is not None:
            tokens = torch.cat(
                [(self.cls_token + positions[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1
            )
        for layer in self.layers:
            tokens = layer(tokens)
        return self.ln1(tokens) if self.final_norm else tokens

    def forward(self, x: Tensor, mask: bool | None = None, noise: Tensor | None = None):
        """Encode images, masked or whole.

        Args:
            x: (B, 3, H, W), normalised.
            mask: True encodes the visible patches only; None or False is the plain backbone, as other systems
                call it.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            plain: a tuple as from :class:`ViT`; masked: latent (B, 1 + K, C), mask (B, N) with 1 = masked,
                and ids_restore (B, N), the
            position of every patch in the order visible, masked.
        """
        if not mask:
            return super().forward(x)
        grid = patch_grid(x.shape[-2], x.shape[-1], self.patch_embed.patch_size)
        num_patches = grid[0] * grid[1]
        visible, masked = random_masking(len(x), num_patches, self.mask_ratio, noise, x.device)
        latent = self.encode_visible(patchify(x, self.patch_embed.patch_size), visible, grid)
        return latent, mask_of(masked, num_patches), torch.cat([visible, masked], dim=1).argsort(dim=1)


@MODELS.register_module()
class MAEDecoder(BaseModule):
    """Light transformer from latent tokens to pixels (section 3, 'MAE decoder').

    mmpretrain's MAEPretrainDecoder knows square grids only and computes predictions of visible patches, which
    the loss ignores.

    Args:
        num_patches: N of the training images, or (rows, columns) where the grid is not square; inside a
            :class:`MAE` the backbone's.
        patch_size: side of a patch in pixels, or (height, width).
        in_chans: channels of the images.
        embed_dim: width of the encoder.
        decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio: sizes.
        norm_cfg: ``dict(type='LN', eps=...)``.
        predict_feature_dim: width of the prediction; the pixels of a patch when None.
    """

    def __init__(
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
        if isinstance(num_patches, int):
            side = round(num_patches**0.5)
            if side * side != num_patches:
                raise ValueError(
                    f'num_patches {num_patches} is not a square; give the grid as (rows, columns)'
                )
            num_patches = (side, side)
        rows, columns = num_patches
        self.grid = (rows, columns)
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
        self.decoder_pred = nn.Linear(
            decoder_embed_dim, predict_feature_dim or self.patch_size[0] * self.patch_size[1] * in_chans
        )
        self.register_load_state_dict_pre_hook(_fit_own_pos_embed)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier linear layers, the mask token from N(0, 0.02), the fixed sine-cosine table."""
        self.apply(init_linear_xavier)
        nn.init.normal_(self.mask_token, std=0.02)
        with torch.no_grad():
            self.decoder_pos_embed.copy_(sincos_2d(self.grid, self.decoder_pos_embed.shape[-1]))

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        self.reset_parameters()
        super().init_weights()

    def forward(
        self,
        latent: Tensor,
        visible: Tensor,
        masked: Tensor,
        grid: tuple[int, int] | None = None,
        masked_only: bool = False,
    ) -> Tensor:
        """Predict patches.

        Args:
            latent: (B, 1 + K, embed_dim), class token first.
            visible, masked: (B, K) and (B, M) patch numbers, K + M = N.
            grid: (rows, columns) of the N patches; the training grid when None.
            masked_only: run the last block, its norm and the prediction for the masked tokens alone, the only
                ones the loss looks at.

        Returns:
            (B, M, P) in the order of ``masked``, or (B, K + M, P) in the order visible, masked.
        """
        positions = resize_pos_embed(self.decoder_pos_embed, self.grid, grid or self.grid)
        seen = self.decoder_embed(latent)
        tokens = torch.cat(
            [
                seen[:, :1] + positions[:, :1],
                seen[:, 1:] + take_rows(positions[:, 1:], visible),
                self.mask_token + take_rows(positions[:, 1:], masked),
            ],
            dim=1,
        )
        first = 1 + visible.shape[1] if masked_only else 1
        for index, block in enumerate(self.decoder_blocks):
            tokens = (
                block(tokens, first)
                if masked_only and index == len(self.decoder_blocks) - 1
                else block(tokens)
            )
        if tokens.shape[1] > masked.shape[1]:
            tokens = tokens[:, first:]
        return self.decoder_pred(self.ln1(tokens))


def _fit_own_pos_embed(module: MAEDecoder, state_dict: dict, prefix: str, *_) -> None:
    fit_pos_embed(state_dict, f'{prefix}decoder_pos_embed', module.decoder_pos_embed, module.grid, 1)


@MODELS.register_module()
class MAEHead(BaseModule):
    """Reconstruction target and loss (section 3, 'Reconstruction target').

    mmpretrain's MAEPretrainHead takes square images only and computes the target of visible patches too.

    Args:
        norm_pix: normalise the pixels of every target patch by its own mean and (unbiased) variance.
        patch_size: side of a patch in pixels, or (height, width).
        in_channels: of the images.
        loss: ``dict(type='PixelReconstructionLoss', criterion='L2' or 'L1')``, for configs written for
            mmpretrain.
    """

    def __init__(
        self,
        norm_pix: bool = False,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        loss: dict | None = None,
    ):
        super().__init__()
        loss = dict(loss or {})
        criterion = loss.pop('criterion', 'L2')
        if (
            loss.pop('type', 'PixelReconstructionLoss') != 'PixelReconstructionLoss'
            or criterion not in ('L1', 'L2')
            or loss
        ):
            raise ValueError("MAE's loss is dict(type='PixelReconstructionLoss', criterion='L2') (or 'L1')")
        self.norm_pix, self.patch_size, self.in_channels, self.criterion = (
            norm_pix,
            pair(patch_size),
            in_channels,
            criterion,
        )

    def normalise(self, patches: Tensor) -> Tensor:
        """(..., P) pixels of patches to the target of the loss."""
        if not self.norm_pix:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, pred: Tensor, patches: Tensor) -> Tensor:
        """Mean error over the masked patches.

        Args:
            pred, patches: (B, M, P), prediction and pixels of the masked patches, in the same order.

        Returns:
            scalar, float32 or wider.
        """
        error = pred.to(patches.dtype) - self.normalise(patches)
        return error.square().mean() if self.criterion == 'L2' else error.abs().mean()

    def paste(self, pred: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        """(B, N, P) pixels: predictions where masked, the input where visible.

        With ``norm_pix`` a prediction is scaled back by the mean and variance of the patch it stands for,
        which only the input knows.
        """
        if self.norm_pix:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            pred = pred * (variance + 1e-6).sqrt() + mean
        return torch.where(mask.unsqueeze(-1).bool(), pred.to(patches.dtype), patches)


@MODELS.register_module()
class MAE(SelfSupervisor):
    """Masked autoencoder: ``MAE(backbone=mmssl.MAEViT, neck=mmssl.MAEDecoder, head=mmssl.MAEHead)``.

    Args:
        backbone, neck, head: configs, or built parts. What the configs of neck and head leave out, grid,
            width, patch size and channels, is the backbone's.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``).

    Raises:
        ValueError: backbone, neck and head do not agree on patch size or width.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, **kwargs):
        encoder = build(backbone, MODELS)
        stem = encoder.patch_embed
        if isinstance(neck, dict):
            rows, columns = encoder.patch_resolution
            neck = {
                'num_patches': (rows, columns),
                'patch_size': stem.patch_size,
                'embed_dim': encoder.embed_dims,
                'in_chans': stem.projection.in_channels,
                **neck,
            }
            if neck['num_patches'] == rows * columns:  # a number alone does not tell the grid
                neck['num_patches'] = (rows, columns)
        if isinstance(head, dict):
            head = {'patch_size': stem.patch_size, 'in_channels': stem.projection.in_channels, **head}
        super().__init__(backbone=encoder, neck=build(neck, MODELS), head=build(head, MODELS), **kwargs)
        sizes = self.backbone.patch_embed.patch_size, self.neck.patch_size, self.head.patch_size
        if len(set(sizes)) > 1:
            raise ValueError(
                f'backbone, neck and head have patch sizes {sizes[0]}, {sizes[1]}, {sizes[2]}; give all the same patch_size'
            )
        if self.neck.decoder_embed.in_features != self.backbone.embed_dims:
            raise ValueError(
                f'neck has embed_dim={self.neck.decoder_embed.in_features}, but the backbone is '
                f'{self.backbone.embed_dims} wide'
            )
        if self.neck.grid != self.backbone.patch_resolution:
            rows, columns = self.backbone.patch_resolution
            raise ValueError(
                f'neck has a grid of {self.neck.grid[0]}x{self.neck.grid[1]} patches, but the backbone cuts images of '
                f'{self.backbone.img_size} into {rows}x{columns}; set num_patches='
                f'{rows * columns if rows == columns else (rows, columns)}'
            )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone."""
        return self.backbone(inputs, mask=False)

    def _draw(self, inputs: Tensor, noise: Tensor | None):
        grid = patch_grid(inputs.shape[-2], inputs.shape[-1], self.head.patch_size)
        visible, masked = random_masking(
            len(inputs), grid[0] * grid[1], self.backbone.mask_ratio, noise, inputs.device
        )
        return patchify(inputs, self.head.patch_size), visible, masked, grid

    def loss(
        self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: ignored.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            ``dict(loss=scalar)``.
        """
        patches, visible, masked, grid = self._draw(inputs, noise)
        latent = self.backbone.encode_visible(patches, visible, grid)
        pred = self.neck(latent, visible, masked, grid, masked_only=True)
        return dict(loss=self.head.loss(pred, take_rows(patches, masked)))

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Predict all patches of images.

        Args:
            inputs: (B, 3, H, W), normalised.
            noise: (B, N) in [0, 1), the draw of the mask.

        Returns:
            pred (B, N, P), the prediction as the loss sees it, patches row by row; mask (B, N), 1 = masked;
            images (B, 3, H, W),
            normalised: the input with its masked patches replaced by the prediction.
        """
        patches, visible, masked, grid = self._draw(inputs, noise)
        pred = self.neck(self.backbone.encode_visible(patches, visible, grid), visible, masked, grid)
        pred = take_rows(pred, torch.cat([visible, masked], dim=1).argsort(dim=1))
        mask = mask_of(masked, grid[0] * grid[1])
        return pred, mask, unpatchify(self.head.paste(pred, patches, mask), self.head.patch_size, grid)
