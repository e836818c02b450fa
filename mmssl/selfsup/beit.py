"""BEiT: BERT pre-training of image transformers (Bao et al., ICLR 2022, arXiv:2106.08254).

Blocks of patches are replaced by a mask token; the transformer predicts, for these patches alone, which of K
visual tokens they are. The tokens come from a tokenizer that is trained beforehand: DALL-E's, or one from the
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
from mmssl.layers.masking import blockwise_mask
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.tokenizers import Tokenizer

__all__ = ['BEiT', 'BEiTHead', 'BEiTViT', 'blockwise_mask']


@MODELS.register_module()
class BEiTHead(BaseModule):
    """Softmax over the visual tokens (section 2.3, equation 2).

    mmpretrain's BEiTV1Head takes the tokens of all patches as scores and selects the masked ones itself,
    which waits for the device.

    Args:
        embed_dims: width C of the backbone.
        num_embed: number K of tokens.
    """

    def __init__(self, embed_dims: int, num_embed: int, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        self.cls_head = nn.Linear(embed_dims, num_embed)
        init_truncated(self.cls_head)

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        init_truncated(self.cls_head)
        super().init_weights()

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) to logits (..., K)."""
        return self.cls_head(features)

    def loss(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Mean cross-entropy; 0 where nothing is masked.

        Args:
            features: (T, C), of the masked patches.
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
        backbone, head: configs, or built parts. What the head's config leaves out, width and number of
            tokens, is the backbone's and the tokenizer's; a BEiTHead when None.
        tokenizer: config, or built. It is kept as ``target_generator``, mmpretrain's name.
        num_masked: most patches that are masked in an image; the paper's 75 of 196 ('approximately 40 %',
            section 2.3), or as large a share of another grid, when None.
        min_masked: least area of a masked rectangle, in patches; 16, or less where ``num_masked`` is less,
            when None.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``). The images must be
            RGB (``to_rgb=True``).

    Raises:
        ValueError: parts that do not agree, or a mask that is impossible.
    """

    def __init__(
        self,
        backbone: dict,
        tokenizer: dict,
        head: dict | None = None,
        num_masked: int | None = None,
        min_masked: int | None = None,
        **kwargs,
    ):
        encoder, codes = build(backbone, MODELS), build(tokenizer, MODELS)
        if not isinstance(codes, Tokenizer):
            raise ValueError(
                f"BEiT: a {type(codes).__name__} is no tokenizer; give tokenizer=dict(type='mmssl.KMeansTokenizer', "
                "checkpoint=FILE) or dict(type='mmssl.DALLEEncoder', checkpoint=FILE)"
            )
        if getattr(encoder, 'mask_token', None) is None:
            raise ValueError(
                'BEiT: the backbone has no mask token; use mmssl.BEiTViT with with_mask_token=True'
            )
        if head is None or isinstance(head, dict):
            head = {
                'type': 'mmssl.BEiTHead',
                'embed_dims': encoder.embed_dims,
                'num_embed': codes.num_tokens,
                **(head or {}),
            }
        super().__init__(encoder, head=head, **kwargs)
        self.target_generator = codes
        outputs, inputs = self.head.cls_head.weight.shape
        if (inputs, outputs) != (encoder.embed_dims, codes.num_tokens):
            raise ValueError(
                f'the head maps {inputs} values to {outputs} tokens; the backbone is {encoder.embed_dims} wide and the '
                f'tokenizer has {codes.num_tokens} tokens'
            )
        rows, columns = encoder.patch_resolution
        self.num_masked = max(1, rows * columns * 75 // 196) if num_masked is None else num_masked
        self.min_masked = min(16, self.num_masked) if min_masked is None else min_masked
        blockwise_mask(
            (rows, columns), self.num_masked, self.min_masked, random.Random(0)
        )  # refuses an impossible mask here

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the backbone for whole images."""
        return self.backbone(inputs)

    def draw_masks(self, batch: int, grid: tuple[int, int], rng=random) -> Tensor:
        """(B, rows, columns), boolean, on the CPU: a mask for each image, drawn from Python's generator."""
        return torch.from_numpy(
            np.stack([blockwise_mask(grid, self.num_masked, self.min_masked, rng) for _ in range(batch)])
        )

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: Sequence | None = None, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: (B, 3, H, W), normalised; or a list of it and of the same crop in the tokenizer's size,
                (B, 3, h, w), normalised too.
            data_samples: their ``mask``, if they have one, is used, as in mmpretrain.
            mask: (B, rows, columns), True = masked; drawn on the host when there is none. A mask that is on
                the device is waited for.

        Returns:
            ``dict(loss=scalar)``.
        """
        views = [inputs] if isinstance(inputs, Tensor) else self.views(inputs)
        if len(views) not in (1, 2):
            raise ValueError(
                f'BEiT takes one view, or two of the same crop, not {len(views)}; see mmssl.LoadBEiTViews'
            )
        images = views[0]
        step = self.backbone.patch_embed.patch_size
        grid = images.shape[-2] // step[0], images.shape[-1] // step[1]
        if mask is None and data_samples and all('mask' in sample for sample in data_samples):
            mask = torch.stack([sample.mask for sample in data_samples])
        mask = self.draw_masks(len(images), grid) if mask is None else mask
        rows = mask.flatten().nonzero().squeeze(1).to(images.device, non_blocking=True)
        tokens = self.tokens(views[-1], rows, grid)
        features = self.backbone.encode_masked(images, mask.to(images.device, non_blocking=True), rows)
        return dict(loss=self.head.loss(features, tokens))

    @torch.no_grad()
    def tokens(self, view: Tensor, rows: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Tokens of patches.

        Args:
            view: (B, 3, h, w), normalised by the model's data preprocessor.
            rows: (T,) numbers of the wanted patches among all B * N; all when None.
            grid: (rows, columns) of the patches of the model's input.

        Returns:
            (T,), int64.
        """
        found = self.target_generator.grid_of(*view.shape[-2:])
        if grid is not None and found != tuple(grid):
            raise ValueError(
                f'the tokenizer makes {found[0]}x{found[1]} tokens of an image of {view.shape[-2]}x{view.shape[-1]}, the '
                f'backbone {grid[0]}x{grid[1]} patches; set second_scale of mmssl.LoadBEiTViews (DALL-E: 8 pixels a token), '
                'or patch_size of the tokenizer'
            )
        return self.target_generator.tokenize(self._pixels(view), rows)

    def _pixels(self, view: Tensor) -> Tensor:
        """Undo the normalisation: RGB in [0, 1]. mmpretrain's TwoNormDataPreprocessor has other numbers for the tokenizer's view."""
        norm = self.data_preprocessor
        if not getattr(norm, '_enable_normalize', False):
            return view / 255
        mean, std = (
            getattr(norm, f'second_{name}', getattr(norm, name)).to(view.dtype) / 255
            for name in ('mean', 'std')
        )
        return torch.addcmul(mean, view, std)
