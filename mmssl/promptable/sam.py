"""Segment Anything (Kirillov et al., ICCV 2023, arXiv:2304.02643): an image encoder, a prompt encoder and a mask decoder."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.promptable.mask_decoder import SAMMaskDecoder
from mmssl.promptable.prompt_encoder import SAMPromptEncoder
from mmssl.registry import MODELS, build


@MODELS.register_module()
class SAM(BaseModule):
    """The promptable segmenter, under the names of the official ``Sam``, whose files load as they are.

    Args:
        image_encoder: config or module: (B, 3, S, S) to one map (B, C, h, w), as :class:`SAMImageEncoder`,
            :class:`SAMBackbone` or :class:`SAMTinyViT`; has ``img_size``, ``out_chans`` and ``grid``.
        prompt_encoder, mask_decoder: configs or modules; sizes that they leave out are the image encoder's.
        pixel_mean, pixel_std: of the channels, in the range 0 to 255.
        init_cfg: mmengine's.

    Raises:
        ValueError: parts whose sizes do not agree.
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
        prompts: SAMPromptEncoder = build(prompt_encoder, MODELS)
        decoder: SAMMaskDecoder = build(mask_decoder, MODELS)
        widths = encoder.out_chans, prompts.embed_dim, decoder.transformer_dim
        if len(set(widths)) > 1:
            raise ValueError(
                f'image encoder, prompt encoder and mask decoder are {widths[0]}, {widths[1]} and {widths[2]} wide; set '
                'out_chans, embed_dim and transformer_dim to the same'
            )
        self.prompt_encoder, self.mask_decoder = prompts, decoder
        self.register_buffer('pixel_mean', torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('pixel_std', torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise (..., 3, H, W) pixels from 0 to 255 and pad them with zeros below and to the right, to (..., 3, S, S)."""
        size, (height, width) = self.image_encoder.img_size, x.shape[-2:]
        if height > size or width > size:
            raise ValueError(
                f'an image of {height}x{width} pixels for a model of {size}; resize its longest side to {size}'
            )
        return F.pad((x - self.pixel_mean) / self.pixel_std, (0, size - width, 0, size - height))

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Logits of the size of the image.

        Args:
            masks: (P, M, 4h, 4w).
            input_size: (H, W) of the image as it went in, without the padding.
            original_size: (H, W) of the image before it was resized.

        Returns:
            (P, M, *original_size).
        """
        size = self.image_encoder.img_size
        masks = F.interpolate(masks, (size, size), mode='bilinear', align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, tuple(original_size), mode='bilinear', align_corners=False)

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Segment images, each with prompts of its own; all prompts go through the decoder at once.

        Args:
            batched_input: for each image a dict of ``image`` (3, H, W), pixels from 0 to 255, longest side at
                most the model's; ``original_size`` (H, W); and prompts, any of ``point_coords`` (P, N, 2)
                with ``point_labels`` (P, N), ``boxes`` (P, 4), in pixels of ``image``, and ``mask_inputs``
                (P, 1, 4h, 4w).
            multimask_output: the masks of an ambiguous prompt; else the one mask.

        Returns:
            for each image a dict of ``masks`` (P, M, *original_size) bool, ``iou_predictions`` (P, M) and
            ``low_res_logits`` (P, M, 4h, 4w).
        """
        embeddings = self.image_encoder(
            torch.stack([self.preprocess(record['image']) for record in batched_input])
        )
        outputs = []
        for record, (logits, iou) in zip(
            batched_input, self.decode(embeddings, batched_input, multimask_output), strict=True
        ):
            masks = self.postprocess_masks(logits, record['image'].shape[-2:], record['original_size'])
            outputs.append(
                {'masks': masks > self.mask_threshold, 'iou_predictions': iou, 'low_res_logits': logits}
            )
        return outputs

    def decode(
        self, image_embeddings: Tensor, prompts: Sequence[dict[str, Any]], multimask_output: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Decode the prompts of several images in one call, equal to a call for each to rounding.

        Args:
            image_embeddings: (I, C, h, w).
            prompts: for each image a dict as in :meth:`forward`. ``point_coords`` and ``point_labels`` may be
                lists of (N, 2) and (N,), with another N for every prompt.
            multimask_output: the masks of an ambiguous prompt; else the one mask.

        Returns:
            for each image, logits (P, M, 4h, 4w) and predicted IoU (P, M).

        Raises:
            ValueError: another number of prompts than of images.
        """
        if len(prompts) != len(image_embeddings):
            raise ValueError(f'prompts of {len(prompts)} images for {len(image_embeddings)} embeddings')
        groups = [group for number, record in enumerate(prompts) for group in self._groups(number, record)]
        encoded = [
            self.prompt_encoder(points=points, boxes=boxes, masks=masks) for _, points, boxes, masks in groups
        ]
        sizes = [len(sparse) for sparse, _ in encoded]
        most = max((sparse.shape[1] for sparse, _ in encoded), default=0)
        sparse = torch.cat([F.pad(sparse, (0, 0, 0, most - sparse.shape[1])) for sparse, _ in encoded])
        lengths = [sparse.shape[1] for sparse, _ in encoded]
        valid = None
        if len(set(lengths)) > 1:
            counts = torch.tensor(lengths, device=sparse.device).repeat_interleave(
                torch.tensor(sizes, device=sparse.device)
            )
            valid = torch.arange(most, device=sparse.device) < counts[:, None]
        with_mask = any(masks is not None for *_, masks in groups)
        dense = (
            torch.cat([dense for _, dense in encoded])
            if with_mask
            else self.prompt_encoder.no_mask(len(sparse))
        )
        index = torch.tensor(
            [number for (number, *_), size in zip(groups, sizes, strict=True) for _ in range(size)],
            device=sparse.device,
        )
        logits, iou = self.mask_decoder(
            image_embeddings,
            self.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            multimask_output,
            image_index=None if len(image_embeddings) == 1 else index,
            sparse_valid=valid,
        )
        per_image = [
            sum(size for (number, *_), size in zip(groups, sizes, strict=True) if number == image)
            for image in range(len(prompts))
        ]
        return list(zip(logits.split(per_image), iou.split(per_image), strict=True))

    @staticmethod
    def _groups(number: int, record: dict[str, Any]) -> list[tuple]:
        """(image, points, boxes, masks) of prompts with the same number of points."""
        coords, labels = record.get('point_coords'), record.get('point_labels')
        boxes, masks = record.get('boxes'), record.get('mask_inputs')
        if (coords is None) != (labels is None):
            raise ValueError(f'image {number}: point_coords and point_labels come together')
        if coords is None or labels is None or isinstance(coords, Tensor):
            return [(number, None if coords is None else (coords, labels), boxes, masks)]
        if len(coords) != len(labels):
            raise ValueError(f'image {number}: {len(coords)} prompts of points have {len(labels)} of labels')
        return [
            (
                number,
                (coords[one][None], labels[one][None]),
                None if boxes is None else boxes[one : one + 1],
                None if masks is None else masks[one : one + 1],
            )
            for one in range(len(coords))
        ]
