"""BEiT: BERT pre-training of image transformers (Bao et al., ICLR 2022, arXiv:2106.08254).

Blocks of patches are replaced by a mask token; the transformer predicts which of K visual tokens these
patches are. The tokens come from a tokenizer that is trained beforehand: DALL-E's, or one fitted to the
user's own images.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.beit_vit import BEiTViT, init_truncated
from mmssl.layers.masking import blockwise_mask, copy_patches, random_patch_mask, split_replacement
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import ARCH, Small
from mmssl.selfsup.tokenizer_base import Tokenizer

__all__ = ['BEiT', 'BEiTHead', 'BEiTViT', 'blockwise_mask']


@MODELS.register_module()
class BEiTHead(BaseModule):
    """Softmax over the visual tokens (section 2.3, equation 2).

    Args:
        embed_dims: Channels C of the backbone.
        num_embed: Number K of tokens.
        init_cfg: Passed on to mmengine's BaseModule.
    """

    def __init__(self, embed_dims: int, num_embed: int, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        self.cls_head = nn.Linear(embed_dims, num_embed)
        init_truncated(self.cls_head)

    def init_weights(self) -> None:
        """Draw the initial weights."""
        init_truncated(self.cls_head)
        super().init_weights()

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) to logits (..., K)."""
        return self.cls_head(features)

    def loss(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Compute the mean cross-entropy; 0 if nothing is masked.

        Args:
            features: (T, C) of the masked patches.
            tokens: (T,), int64.

        Returns:
            scalar, float32 or wider.
        """
        logits = self(features)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return F.cross_entropy(logits, tokens, reduction='sum') / max(1, len(tokens))


@MODELS.register_module()
class BEiT(SelfSupervisor):
    """``BEiT(backbone=mmssl.BEiTViT, tokenizer=mmssl.DALLEEncoder or mmssl.KMeansTokenizer)``.

    Args:
        backbone: Config, or built.
        tokenizer: Config, or built. It is registered as ``target_generator``, mmpretrain's name.
        head: Config, or built; a BEiTHead when None. Its channels and tokens default to those of backbone and
            tokenizer.
        num_masked: Maximum number of masked patches in an image; when None the paper's 75 of 196
            ('approximately 40 %', section 2.3), or the same fraction of another grid.
        min_masked: Minimum area of a masked rectangle, in patches; when None 16, or ``num_masked`` if that is
            less.
        masking: 'block' for rectangles (algorithm 1), 'random' for single patches, as many in every image.
        replacement: Shares of the masked patches that become the mask token, another patch of the batch, or
            stay as they are. BEiT uses the mask token only; BERT (Devlin et al. 2019, section 3.1) uses
            (0.8, 0.1, 0.1). All of them are predicted.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`. The images must be RGB
            (``to_rgb=True``).

    Raises:
        ValueError: The parts do not agree, or the mask is impossible.
    """

    def __init__(
        self,
        backbone: dict,
        tokenizer: dict,
        head: dict | None = None,
        num_masked: int | None = None,
        min_masked: int | None = None,
        masking: str = 'block',
        replacement: tuple[float, float, float] = (1.0, 0.0, 0.0),
        **kwargs,
    ):
        encoder = build(backbone, MODELS)
        target_generator = build(tokenizer, MODELS)
        _check_encoder_and_tokenizer(encoder, target_generator)
        if head is None or isinstance(head, dict):
            head = {
                'type': 'mmssl.BEiTHead',
                'embed_dims': encoder.embed_dims,
                'num_embed': target_generator.num_tokens,
                **(head or {}),
            }
        refuse_unused('BEiT', kwargs, {'neck': None}, 'the head reads the encoder')
        super().__init__(encoder, head=head, **kwargs)
        self.target_generator = target_generator
        outputs, inputs = self.head.cls_head.weight.shape
        if (inputs, outputs) != (encoder.embed_dims, target_generator.num_tokens):
            raise ValueError(
                f'the head maps {inputs} values to {outputs} tokens; the backbone has {encoder.embed_dims} '
                f'channels and the tokenizer {target_generator.num_tokens} tokens'
            )
        rows, columns = encoder.patch_resolution
        self.num_masked = max(1, rows * columns * 75 // 196) if num_masked is None else num_masked
        self.min_masked = min(16, self.num_masked) if min_masked is None else min_masked
        _check_masking(masking, replacement, min_masked)
        self.masking = masking
        by_token, by_patch, unchanged = replacement
        self.replacement = (by_token, by_patch, unchanged)
        self.draw_masks(1, (rows, columns), random.Random(0))  # refuses an impossible mask

    def draw_masks(self, batch: int, grid: tuple[int, int], rng=random) -> Tensor:
        """Draw a mask for each image from Python's generator: (B, rows, columns), boolean, on the CPU."""
        if self.masking == 'random':
            masks = [random_patch_mask(grid, self.num_masked, rng) for _ in range(batch)]
        else:
            masks = [blockwise_mask(grid, self.num_masked, self.min_masked, rng) for _ in range(batch)]
        return torch.from_numpy(np.stack(masks))

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: Sequence | None = None, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised; or a list of it and of the same crop in the tokenizer's size,
                (B, 3, h, w), normalised too.
            data_samples: Their ``mask`` is used if they have one, as in mmpretrain.
            mask: (B, rows, columns), True = masked; drawn on the CPU when None. A mask on a GPU synchronises
                with it.

        Returns:
            ``dict(loss=scalar)``.
        """
        views = [inputs] if isinstance(inputs, Tensor) else self.views(inputs)
        if len(views) not in (1, 2):
            raise ValueError(
                f'BEiT takes one view, or two of the same crop, not {len(views)}; see mmssl.LoadBEiTViews'
            )
        images, tokenizer_images = views[0], views[-1]
        patch_size = self.backbone.patch_embed.patch_size
        grid = images.shape[-2] // patch_size[0], images.shape[-1] // patch_size[1]
        if mask is None and data_samples and all('mask' in sample for sample in data_samples):
            mask = torch.stack([sample.mask for sample in data_samples])
        if mask is None:
            mask = self.draw_masks(len(images), grid)
        rows = mask.flatten().nonzero().squeeze(1)
        images, mask = self.replace_patches(images, mask, rows)
        rows = rows.to(images.device, non_blocking=True)
        tokens = self.tokens(tokenizer_images, rows, grid)
        features = self.backbone.encode_masked(images, mask.to(images.device, non_blocking=True), rows)
        return dict(loss=self.head.loss(features, tokens))

    def replace_patches(self, images: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Copy other patches over some of the masked ones, and leave some as they are.

        Args:
            images: (B, 3, H, W), normalised.
            mask: (B, rows, columns), True = masked.
            rows: (T,), indices of the masked patches among all B * N.

        Returns:
            The images, and the mask of the patches that become the mask token.
        """
        if self.replacement[0] == 1:
            return images, mask
        by_token, by_patch = split_replacement(len(rows), self.replacement)
        by_token, by_patch = by_token.to(rows.device), by_patch.to(rows.device)
        targets = rows[by_patch].to(images.device, non_blocking=True)
        sources = torch.randint(mask.numel(), (len(targets),)).to(images.device, non_blocking=True)
        images = copy_patches(images, sources, targets, self.backbone.patch_embed.patch_size)
        covered = torch.zeros_like(mask).flatten()
        covered[rows[by_token]] = True
        return images, covered.view_as(mask)

    @torch.no_grad()
    def tokens(self, view: Tensor, rows: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the visual tokens of patches.

        Args:
            view: (B, 3, h, w), normalised by the model's data preprocessor.
            rows: (T,) indices of the requested patches among all B * N; all when None.
            grid: (rows, columns) of the patches of the model's input.

        Returns:
            (T,), int64.
        """
        token_grid = self.target_generator.grid_of(*view.shape[-2:])
        if grid is not None and token_grid != tuple(grid):
            raise ValueError(
                f'the tokenizer makes {token_grid[0]}x{token_grid[1]} tokens of an image of '
                f'{view.shape[-2]}x{view.shape[-1]}, the backbone {grid[0]}x{grid[1]} patches; set '
                'second_scale of mmssl.LoadBEiTViews (DALL-E: 8 pixels per token), or patch_size of the '
                'tokenizer'
            )
        return self.target_generator.tokenize(self._pixels(view), rows)

    def _pixels(self, view: Tensor) -> Tensor:
        """Undo the normalisation: RGB in [0, 1]."""
        norm = self.data_preprocessor
        if not getattr(norm, '_enable_normalize', False):
            return view / 255
        # mmpretrain's TwoNormDataPreprocessor has other numbers for the tokenizer's view
        mean, std = (getattr(norm, f'second_{name}', getattr(norm, name)) for name in ('mean', 'std'))
        return torch.addcmul(mean.to(view.dtype) / 255, view, std.to(view.dtype) / 255)


def _check_masking(masking: str, replacement: Sequence[float], min_masked: int | None) -> None:
    if masking not in ('block', 'random'):
        raise ValueError(f"BEiT: masking={masking!r} must be 'block' or 'random'")
    if masking == 'random' and min_masked is not None:
        raise ValueError(
            f"BEiT: min_masked={min_masked} is the area of a rectangle; masking='random' has none"
        )
    if len(replacement) != 3 or min(replacement) < 0 or abs(sum(replacement) - 1) > 1e-6:
        raise ValueError(
            f'BEiT: replacement={tuple(replacement)} must be three shares that sum to 1: mask token, random '
            'patch, unchanged; BERT has (0.8, 0.1, 0.1)'
        )


def _check_encoder_and_tokenizer(encoder: nn.Module, tokenizer: nn.Module) -> None:
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(
            f'BEiT: a {type(tokenizer).__name__} is no tokenizer; give tokenizer='
            "dict(type='mmssl.KMeansTokenizer', checkpoint=FILE) or dict(type='mmssl.DALLEEncoder', "
            'checkpoint=FILE)'
        )
    if getattr(encoder, 'mask_token', None) is None:
        raise ValueError('BEiT: the backbone has no mask token; use mmssl.BEiTViT with with_mask_token=True')


def _small_mask() -> Tensor:
    return torch.arange(32).view(2, 4, 4) % 3 == 0


VIT = dict(arch=ARCH, img_size=32, patch_size=8)
SMALL = {
    'BEiTViT': Small(VIT, lambda model, images: model(images, _small_mask().flatten(1))[0], (2, 32, 4, 4)),
    'BEiTHead': Small(
        dict(embed_dims=3, num_embed=5), lambda head, images: head(images.mean((2, 3))), (2, 5)
    ),
    'BEiT': Small(
        dict(
            backbone=dict(type='mmssl.BEiTViT', **VIT),
            tokenizer=dict(type='mmssl.KMeansTokenizer', checkpoint='random', num_tokens=5, patch_size=8),
        ),
        lambda model, images: model.loss(images, mask=_small_mask())['loss'],
    ),
}
