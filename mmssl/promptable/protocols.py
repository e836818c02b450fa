"""What :class:`mmssl.SAM`, ``SamPredictor`` and ``SamAutomaticMaskGenerator`` need of the parts of a model.

The signatures are those of the package ``segment_anything``, so that its own ``PromptEncoder`` and
``MaskDecoder``, or modules written for it, can be parts of a :class:`mmssl.SAM`.
"""

from typing import Protocol

from torch import Tensor, nn


class ImageEncoder(Protocol):
    """Encodes normalised, padded images (B, 3, S, S) to feature maps (B, C, h, w).

    Attributes:
        img_size: S, side of the padded images in pixels.
        out_chans: C.
        grid: (h, w).
    """

    img_size: int
    out_chans: int
    grid: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, C, h, w)."""


class PromptEncoder(Protocol):
    """Encodes points and boxes to tokens, and masks to feature maps.

    Attributes:
        embed_dim: Number of channels C.
        image_embedding_size: (h, w) of the image embedding.
        input_image_size: (H, W) of the padded image in pixels.
        mask_input_size: (4h, 4w) of masks.
    """

    embed_dim: int
    image_embedding_size: tuple[int, int]
    input_image_size: tuple[int, int]
    mask_input_size: tuple[int, int]

    def get_dense_pe(self) -> Tensor:
        """(1, C, h, w), positional encoding of the image embedding."""

    def __call__(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts.

        Returns:
            Sparse embeddings (P, T, C) of points and boxes, and dense embeddings (P, C, h, w) of masks,
            which are the same for all prompts if ``masks`` is None.
        """


class MaskDecoder(Protocol):
    """Predicts masks and their IoU.

    A decoder whose class sets ``batches_images = True`` also takes ``image_index`` and ``sparse_valid`` as
    :class:`mmssl.SAMMaskDecoder` does, and decodes prompts of several images in one call. Others are called
    once for each image.

    Attributes:
        transformer_dim: Number of channels C.
    """

    transformer_dim: int

    def __call__(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Logits (P, M, 4h, 4w) and predicted IoU (P, M) of P prompts on one image (1, C, h, w).

        Dense embeddings are (P, C, h, w), or (1, C, h, w) if no prompt has a mask.
        """


def batches_images(decoder: nn.Module) -> bool:
    """True if a mask decoder decodes prompts of several images in one call."""
    return getattr(decoder, 'batches_images', False)
