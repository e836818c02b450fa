"""Targets and loss of masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377)."""

import torch
from mmengine.dist import all_reduce, broadcast
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.patch import pair
from mmssl.registry import MODELS


class PatchPCA(nn.Module):
    """Largest coefficients of a principal component analysis of patches.

    Mean and components are those of the first training batch, of all processes, and belong to the weights.

    Args:
        patch_pixels: P, values of a patch.
        components: K, number of coefficients; 96 in the paper.

    Raises:
        ValueError: K is not from 1 to P.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, patch_pixels: int, components: int):
        super().__init__()
        if not 1 <= components <= patch_pixels:
            raise ValueError(
                f'pca_components={components} of MAEHead must be from 1 to {patch_pixels}, the values of a '
                'patch'
            )
        self.register_buffer('mean', torch.zeros(patch_pixels))
        self.register_buffer('basis', torch.zeros(patch_pixels, components))
        self._is_fitted = False
        self.register_load_state_dict_post_hook(_note_fit)

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Take mean and components of patches (..., P), over all processes; only the first call does."""
        if self._is_fitted:
            return
        flat = patches.flatten(0, -2).double()
        sums = torch.cat([flat.new_full((1,), len(flat)), flat.sum(0), (flat.T @ flat).flatten()])
        all_reduce(sums)
        size = flat.shape[1]
        count, mean = sums[0], sums[1 : size + 1] / sums[0]
        covariance = sums[size + 1 :].view(size, size) / count - torch.outer(mean, mean)
        _, vectors = torch.linalg.eigh(covariance)  # ascending eigenvalues
        basis = vectors.flip(1)[:, : self.basis.shape[1]].contiguous()
        broadcast(basis)  # the signs are free
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self._is_fitted = True

    def forward(self, patches: Tensor) -> Tensor:
        """Return the coefficients (..., K) of patches (..., P)."""
        return (patches - self.mean.to(patches.dtype)) @ self.basis.to(patches.dtype)

    def patches_of(self, coefficients: Tensor) -> Tensor:
        """Return the patches (..., P) that coefficients (..., K) describe."""
        return coefficients @ self.basis.to(coefficients.dtype).T + self.mean.to(coefficients.dtype)


def _note_fit(module: PatchPCA, _) -> None:
    module._is_fitted = bool(module.basis.any())


@MODELS.register_module()
class MAEHead(BaseModule):
    """Reconstruction target and loss (section 3, 'Reconstruction target').

    Args:
        norm_pix: Normalise the pixels of every target patch by its own mean and (unbiased) variance.
        pca_components: Predict this many coefficients of a principal component analysis of patches instead of
            pixels (table 1d; 96 in the paper), see :class:`~mmssl.selfsup.mae_targets.PatchPCA`.
        patch_size: Side of a patch in pixels, or (height, width).
        in_channels: Channels of the images.
        loss: ``dict(type='PixelReconstructionLoss', criterion='L2' or 'L1')``, for configs written for
            mmpretrain.
    """

    def __init__(
        self,
        norm_pix: bool = False,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        loss: dict | None = None,
        pca_components: int | None = None,
    ):
        super().__init__()
        settings = {'type': 'PixelReconstructionLoss', 'criterion': 'L2', **(loss or {})}
        self.criterion = settings.pop('criterion')
        if settings != {'type': 'PixelReconstructionLoss'} or self.criterion not in ('L1', 'L2'):
            raise ValueError("MAE's loss is dict(type='PixelReconstructionLoss', criterion='L2') (or 'L1')")
        if norm_pix and pca_components:
            raise ValueError('norm_pix and pca_components of MAEHead are two targets; give one of them')
        self.norm_pix = norm_pix
        self.patch_size = pair(patch_size)
        self.in_channels = in_channels
        patch_pixels = self.patch_size[0] * self.patch_size[1] * in_channels
        self.target_dim = pca_components or patch_pixels
        self.pca = None if pca_components is None else PatchPCA(patch_pixels, pca_components)

    def target(self, patches: Tensor) -> Tensor:
        """Return what the decoder should predict for patches (..., P)."""
        if self.pca is not None:
            return self.pca(patches)
        if not self.norm_pix:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, pred: Tensor, patches: Tensor) -> Tensor:
        """Compute the mean error over the masked patches.

        Args:
            pred: (B, M, P), prediction of the masked patches.
            patches: (B, M, P), their pixels in the same order.

        Returns:
            scalar, float32 or wider.
        """
        error = pred.to(patches.dtype) - self.target(patches)
        return error.square().mean() if self.criterion == 'L2' else error.abs().mean()

    def paste(self, pred: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        """Replace the masked patches (B, N, P) by their predictions.

        With ``norm_pix`` a prediction is scaled back by the mean and variance of the patch it predicts, which
        only the input knows.
        """
        if self.pca is not None:
            pred = self.pca.patches_of(pred)
        if self.norm_pix:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            pred = pred * (variance + 1e-6).sqrt() + mean
        return torch.where(mask[..., None] > 0, pred.to(patches.dtype), patches)
