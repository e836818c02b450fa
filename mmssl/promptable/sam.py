"""Segment Anything (Kirillov et al., ICCV 2023, arXiv:2304.02643)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.input_channels import input_channels
from mmssl.promptable.several_images import decode_prompts
from mmssl.registry import MODELS, build


@MODELS.register_module()
class SAM(BaseModule):
    """The promptable segmenter, under the names of the official ``Sam``, whose files load unchanged.

    The parts may be those of this package, of ``segment_anything``, or any modules with the same
    signatures; see :mod:`mmssl.promptable.protocols`.

    Args:
        image_encoder: Module or its config, from images (B, 3, S, S) to feature maps (B, C, h, w):
            :class:`SAMImageEncoder`, :class:`SAMBackbone`, :class:`SAMTinyViT` or another one with
            ``img_size``, ``out_chans`` and ``grid``.
        prompt_encoder: Module or its config; sizes that the config leaves out are those of the image encoder.
        mask_decoder: Module or its config; sizes that the config leaves out are those of the image encoder.
        pixel_mean: Mean of each channel, in the range 0 to 255.
        pixel_std: Standard deviation of each channel.

    Raises:
        ValueError: Parts whose sizes do not agree.
    """

    mask_threshold: float = 0.0
    image_format: str = 'RGB'

    def __init__(
        self,
        image_encoder: dict | nn.Module,
        prompt_encoder: dict | nn.Module | None = None,
        mask_decoder: dict | nn.Module | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.image_encoder = encoder = build(image_encoder, MODELS)
        missing = [name for name in ('img_size', 'out_chans', 'grid') if not hasattr(encoder, name)]
        if missing:
            raise ValueError(
                f'{type(encoder).__name__} as an image encoder has no {", ".join(missing)}; wrap it: '
                "dict(type='mmssl.SAMBackbone', backbone=..., in_channels=..., img_size=..., stride=...)"
            )
        if prompt_encoder is None or isinstance(prompt_encoder, dict):
            prompt_encoder = {
                'type': 'SAMPromptEncoder',
                'embed_dim': encoder.out_chans,
                'image_embedding_size': encoder.grid,
                'input_image_size': (encoder.img_size, encoder.img_size),
                **(prompt_encoder or {}),
            }
        if mask_decoder is None or isinstance(mask_decoder, dict):
            mask_decoder = {
                'type': 'SAMMaskDecoder',
                'transformer_dim': encoder.out_chans,
                **(mask_decoder or {}),
            }
        self.prompt_encoder = build(prompt_encoder, MODELS)
        self.mask_decoder = build(mask_decoder, MODELS)
        widths = encoder.out_chans, self.prompt_encoder.embed_dim, self.mask_decoder.transformer_dim
        if len(set(widths)) > 1:
            raise ValueError(
                f'image encoder, prompt encoder and mask decoder are {widths[0]}, {widths[1]} and '
                f'{widths[2]} wide; set out_chans, embed_dim and transformer_dim to the same'
            )
        channels = input_channels(encoder)
        if {len(pixel_mean), len(pixel_std)} - {1, channels}:
            raise ValueError(
                f'pixel_mean has {len(pixel_mean)} values, pixel_std {len(pixel_std)}, and the image encoder '
                f'reads {channels} channels; give both {channels} values'
            )
        self.register_buffer('pixel_mean', torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('pixel_std', torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise pixels (..., 3, H, W) from 0 to 255, and pad below and to the right to (..., 3, S, S)."""
        size, (height, width) = self.image_encoder.img_size, x.shape[-2:]
        if height > size or width > size:
            raise ValueError(
                f'an image of {height}x{width} pixels for a model of {size}; resize its longest side to '
                f'{size}'
            )
        return F.pad((x - self.pixel_mean) / self.pixel_std, (0, size - width, 0, size - height))

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Resize logits to the size of the image, without the padding.

        Args:
            masks: (P, M, 4h, 4w) logits.
            input_size: (H, W) of the image that was encoded, without padding.
            original_size: (H, W) of the image before it was resized.

        Returns:
            (P, M, *original_size) logits.
        """
        size = self.image_encoder.img_size
        masks = F.interpolate(masks, (size, size), mode='bilinear', align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, tuple(original_size), mode='bilinear', align_corners=False)

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Segment several images, each with prompts of its own, which are decoded together.

        Args:
            batched_input: A dict for each image with ``image`` (3, H, W), pixels from 0 to 255 whose
                longest side is at most that of the model; ``original_size`` (H, W); and prompts, any of
                ``point_coords`` (P, N, 2) with ``point_labels`` (P, N), ``boxes`` (P, 4), in pixels of
                ``image``, and ``mask_inputs`` (P, 1, 4h, 4w).
            multimask_output: Return the masks for ambiguous prompts instead of the single mask.

        Returns:
            A dict for each image with ``masks`` (P, M, *original_size) bool, ``iou_predictions`` (P, M) and
            ``low_res_logits`` (P, M, 4h, 4w).
        """
        images = torch.stack([self.preprocess(record['image']) for record in batched_input])
        decoded = self.decode(self.image_encoder(images), batched_input, multimask_output)
        outputs = []
        for record, (logits, iou) in zip(batched_input, decoded, strict=True):
            masks = self.postprocess_masks(logits, record['image'].shape[-2:], record['original_size'])
            outputs.append(
                {'masks': masks > self.mask_threshold, 'iou_predictions': iou, 'low_res_logits': logits}
            )
        return outputs

    def decode(
        self, image_embeddings: Tensor, prompts: Sequence[dict[str, Any]], multimask_output: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Decode the prompts of several images in one call, equal to a call for each image up to rounding.

        Args:
            image_embeddings: (I, C, h, w).
            prompts: A dict for each image as in :meth:`forward`. ``point_coords`` and ``point_labels`` may be
                lists of (N, 2) and (N,), with a different N for each prompt.
            multimask_output: Return the masks for ambiguous prompts instead of the single mask.

        Returns:
            For each image, logits (P, M, 4h, 4w) and predicted IoU (P, M).

        Raises:
            ValueError: The numbers of images and of dicts differ.
        """
        if len(prompts) != len(image_embeddings):
            raise ValueError(f'prompts of {len(prompts)} images for {len(image_embeddings)} embeddings')
        return decode_prompts(self, image_embeddings, prompts, multimask_output)
