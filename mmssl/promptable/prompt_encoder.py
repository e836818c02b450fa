"""The prompt encoder of Segment Anything (arXiv:2304.02643, appendix A, 'Prompt encoder')."""

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.ops.precision import no_autocast
from mmssl.promptable.common import LayerNorm2d, constants, reset_weights
from mmssl.registry import MODELS


class PositionEmbeddingRandom(nn.Module):
    """Positional encoding by sines and cosines of random frequencies (arXiv:2006.10739).

    Args:
        num_pos_feats: Number of frequencies; the encoding has twice as many channels.
        scale: Standard deviation of the frequencies.
    """

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None):
        super().__init__()
        self.scale = scale if scale and scale > 0 else 1.0
        self.register_buffer('positional_encoding_gaussian_matrix', torch.empty(2, num_pos_feats))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the frequencies."""
        nn.init.normal_(self.positional_encoding_gaussian_matrix, std=self.scale)

    def encode(self, coords: Tensor) -> Tensor:
        """Encode x and y in [0, 1], (..., 2), to (..., C), at least in float32."""
        frequencies = self.positional_encoding_gaussian_matrix
        dtype = torch.promote_types(frequencies.dtype, torch.float32)
        with no_autocast(coords):
            angles = 2 * math.pi * ((2 * coords.to(dtype) - 1) @ frequencies.to(dtype))
            return torch.cat([angles.sin(), angles.cos()], dim=-1).to(frequencies.dtype)

    _pe_encoding = encode  # the official name, which SamOnnxModel calls

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the pixel centres of a grid of (H, W) to (C, H, W)."""
        frequencies = self.positional_encoding_gaussian_matrix
        dtype = torch.promote_types(frequencies.dtype, torch.float32)
        y, x = ((torch.arange(n, device=frequencies.device, dtype=dtype) + 0.5) / n for n in size)
        coords = torch.stack([x.expand(size[0], -1), y[:, None].expand(-1, size[1])], dim=-1)
        return self.encode(coords).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Encode x and y in pixels, (..., 2), to (..., C); float64 is divided in float64, as released."""
        return self.encode(coords_input / constants((image_size[1], image_size[0]), like=coords_input))


@MODELS.register_module()
class SAMPromptEncoder(BaseModule):
    """Encode points and boxes as tokens, and masks as feature maps.

    Names and arguments are those of the official ``PromptEncoder``.

    Args:
        embed_dim: Number of channels C.
        image_embedding_size: (h, w) of the image embedding.
        input_image_size: (H, W) of the padded image in pixels.
        mask_in_chans: Hidden channels of the layers that embed masks.
        activation: Class of their activations.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        image_embedding_size: tuple[int, int] = (64, 64),
        input_image_size: tuple[int, int] = (1024, 1024),
        mask_in_chans: int = 16,
        activation: type[nn.Module] = nn.GELU,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.embed_dim = embed_dim
        rows, columns = image_embedding_size
        height, width = input_image_size
        self.image_embedding_size = (rows, columns)
        self.input_image_size = (height, width)
        self.mask_input_size = (4 * rows, 4 * columns)
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.num_point_embeddings = 4  # background, foreground, top left and bottom right corner
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, 2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, 2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def init_weights(self) -> None:
        """Reset all weights; an ``init_cfg`` of type 'Pretrained' is loaded afterwards."""
        reset_weights(self)
        super().init_weights()

    def get_dense_pe(self) -> Tensor:
        """(1, C, h, w), positional encoding of the image embedding."""
        return self.pe_layer(self.image_embedding_size)[None]

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points.

        Args:
            coords: (B, N, 2), x and y in pixels of the padded image.
            labels: (B, N): 1 foreground, 0 background, 2 and 3 top left and bottom right corner of a box,
                -1 for no point.

        Returns:
            (B, N, C).
        """
        if coords.ndim != 3 or coords.shape[-1] != 2 or labels.shape != coords.shape[:2]:
            raise ValueError(
                f'points of shape {tuple(coords.shape)} with labels of shape {tuple(labels.shape)}; '
                'give (B, N, 2) and (B, N): B prompts of N points'
            )
        by_label = torch.cat(
            [self.not_a_point_embed.weight, *(embedding.weight for embedding in self.point_embeddings)]
        )
        labels = labels.long()
        positions = self.pe_layer.forward_with_coords(coords + 0.5, self.input_image_size)
        return torch.where(labels.unsqueeze(-1) == -1, 0, positions) + by_label[labels + 1]

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed (B, 4) x1, y1, x2, y2 in pixels as their corners (B, 2, C)."""
        if boxes.shape[-1] != 4 and boxes.shape[-2:] != (2, 2):
            raise ValueError(
                f'boxes of shape {tuple(boxes.shape)}; give (B, 4): x1, y1, x2, y2 in pixels of the padded '
                'image'
            )
        corners = boxes.reshape(-1, 2, 2)
        labels = torch.arange(2, 4, device=boxes.device).expand(corners.shape[0], -1)
        return self.embed_points(corners, labels)

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Embed logits (B, 1, 4h, 4w) as (B, C, h, w)."""
        if masks.ndim != 4 or masks.shape[1] != 1 or tuple(masks.shape[-2:]) != self.mask_input_size:
            height, width = self.mask_input_size
            raise ValueError(
                f'masks of shape {tuple(masks.shape)}; give (B, 1, {height}, {width}): the low-resolution '
                'logits of an earlier prediction'
            )
        return self.mask_downscaling(masks)

    # official names

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """As :meth:`embed_points`; ``pad`` adds a point that is none, which stands for a missing box."""
        embedded = self.embed_points(points, labels)
        if not pad:
            return embedded
        return torch.cat([embedded, self.not_a_point_embed.weight.expand(len(points), 1, -1)], dim=1)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        return self.embed_boxes(boxes)

    def _embed_masks(self, masks: Tensor) -> Tensor:
        return self.embed_masks(masks)

    def _get_batch_size(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> int:
        return self._count_prompts(points, boxes, masks)

    def _get_device(self) -> torch.device:
        return self.point_embeddings[0].weight.device

    def no_mask(self, prompts: int) -> Tensor:
        """(B, C, h, w), dense embedding of B prompts without masks: one vector, expanded and not copied."""
        return self.no_mask_embed.weight.view(1, -1, 1, 1).expand(prompts, -1, *self.image_embedding_size)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode B prompts.

        Args:
            points: Coordinates (B, N, 2), x and y in pixels of the padded image, and labels (B, N); see
                :meth:`embed_points`.
            boxes: (B, 4).
            masks: (B, 1, 4h, 4w), logits.

        Returns:
            Sparse (B, T, C): points, then 'not a point' if there are points without boxes, then two corners
            for each box; and dense (B, C, h, w). Without masks the dense embedding of a prompt is that of
            all prompts.

        Raises:
            ValueError: Shapes that do not fit, or different numbers of prompts.
        """
        prompts = self._count_prompts(points, boxes, masks)
        tokens = []
        if points is not None:
            tokens.append(self.embed_points(*points))
            if boxes is None:
                tokens.append(self.not_a_point_embed.weight.expand(prompts, 1, -1))
        if boxes is not None:
            tokens.append(self.embed_boxes(boxes))
        weight = self.no_mask_embed.weight
        sparse = torch.cat(tokens, dim=1) if tokens else weight.new_empty(prompts, 0, self.embed_dim)
        return sparse, self.no_mask(prompts) if masks is None else self.embed_masks(masks.to(weight.dtype))

    @staticmethod
    def _count_prompts(
        points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> int:
        """Number of prompts; 1 if there are none at all."""
        present = {'points': None if points is None else points[0], 'boxes': boxes, 'masks': masks}
        counts = {name: value.shape[0] for name, value in present.items() if value is not None}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f'different numbers of prompts: {counts}; every prompt needs its points, box and mask'
            )
        return next(iter(counts.values()), 1)
