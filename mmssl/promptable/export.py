"""Export of Segment Anything to ONNX and to ``torch.export`` programs: image encoder, and prompts to masks.

The graph of the decoder has the inputs and outputs of the official one, for any number of prompts. Its last
step, from low-resolution logits over the padded image and its crop to the size of the original, is linear
along each axis and is written as two products, so that the size may be an input.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmssl.ops.switch import tracing
from mmssl.promptable.sam import SAM

OPSET = 18


class EncoderGraph(nn.Module):
    """Graph that normalises, pads and encodes images.

    Args:
        model: The segmenter.
    """

    def __init__(self, model: SAM):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) pixels from 0 to 255, not larger than the model, to (B, C, h, w)."""
        return self.model.image_encoder(self.model.preprocess(image))


class DecoderGraph(nn.Module):
    """Graph that encodes prompts, decodes them and resizes the masks to the original image.

    Args:
        model: The segmenter.
        multimask_output: Return all masks, four in released models, of which the first is the single mask;
            otherwise one mask for each prompt: the first if there are three points or more, and else the best
            of the others. Corners of a box and padding count as points, as in the official graph.
        use_stability_score: Score masks by their stability instead of the predicted IoU.
        return_extra_metrics: Also return the stability and the area of the resized masks.
    """

    stability_score_offset = 1.0

    def __init__(
        self,
        model: SAM,
        multimask_output: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ):
        super().__init__()
        self.model = model
        self.multimask_output = multimask_output
        self.use_stability_score = use_stability_score
        self.return_extra_metrics = return_extra_metrics

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict masks.

        Args:
            image_embeddings: (1, C, h, w).
            point_coords: (P, N, 2), x and y in pixels of the resized image.
            point_labels: (P, N), 1 foreground, 0 background, 2 and 3 corners of a box, -1 padding; without a
                box the last is padding.
            mask_input: (P, 1, 4h, 4w), logits of an earlier prediction, or anything.
            has_mask_input: (1,), 1 if ``mask_input`` is to be used, else 0.
            orig_im_size: (2,), height and width of the original image.

        Returns:
            Masks (P, M, height, width), logits; scores (P, M); with ``return_extra_metrics`` the stability
            and the area in pixels (P, M); low-resolution logits (P, M, 4h, 4w).
        """
        prompts, decoder = self.model.prompt_encoder, self.model.mask_decoder
        sparse = self._embed_points(point_coords, point_labels)
        no_mask = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask_input * prompts._embed_masks(mask_input) + (1 - has_mask_input) * no_mask
        logits, scores = decoder.predict_masks(image_embeddings, prompts.get_dense_pe(), sparse, dense)
        if self.use_stability_score:
            scores = self._stability(logits)
        if not self.multimask_output:
            logits, scores = self.select_masks(logits, scores, point_coords.shape[1])
        masks = self.mask_postprocessing(logits, orig_im_size)
        if not self.return_extra_metrics:
            return masks, scores, logits
        areas = (masks > self.model.mask_threshold).sum((-2, -1))
        return masks, scores, self._stability(masks), areas, logits

    def _embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points (P, N, 2) with labels (P, N), without in-place writes, which traces lose."""
        prompts = self.model.prompt_encoder
        height, width = prompts.input_image_size
        positions = prompts.pe_layer._pe_encoding((coords + 0.5) / coords.new_tensor([width, height]))
        by_label = torch.cat(
            [prompts.not_a_point_embed.weight, *(embedding.weight for embedding in prompts.point_embeddings)]
        )
        labels = labels.long()
        return torch.where(labels[..., None] == -1, 0, positions) + by_label[labels + 1]

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """Select one of the masks (P, M, H, W) and its score (P, 1) by the scores (P, M).

        With three points or more it is the first, otherwise the best of the others.
        """
        is_first = torch.arange(iou_preds.shape[1], device=iou_preds.device) == 0
        best = (iou_preds + is_first * (1000 * (num_points - 2.5))).argmax(dim=1)
        row = torch.arange(masks.shape[0], device=masks.device)
        return masks[row, best][:, None], iou_preds[row, best][:, None]

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Resize low-resolution logits (P, M, 4h, 4w) to the original image of (height, width)."""
        size = orig_im_size.to(torch.float32)
        side = self.model.image_encoder.img_size
        inside = (size * (side / size.max()) + 0.5).floor()
        down, right = (
            _resize_weights(size[axis], inside[axis], side, masks.shape[2 + axis]) for axis in (0, 1)
        )
        return down @ masks @ right.t()

    def _stability(self, logits: Tensor) -> Tensor:
        threshold, offset = float(self.model.mask_threshold), self.stability_score_offset
        inner = (logits > threshold + offset).sum((-2, -1))
        return inner / (logits > threshold - offset).sum((-2, -1))


def _resize_weights(length: Tensor, inside: Tensor, side: int, low_res: int) -> Tensor:
    """Weights (length, low_res) that resize logits along an axis.

    Args:
        length: Length of the original image.
        inside: Length of the resized image, without padding.
        side: Length of the padded image.
        low_res: Length of the low-resolution logits.
    """
    count = length.to(torch.int64)
    if not tracing():  # a trace would keep the number as a constant
        count = count.item()
        torch._check(count >= 1)
        torch._check(count <= 1 << 16)
    pixels = torch.arange(count, dtype=torch.float32, device=length.device)
    source = ((pixels + 0.5) * (inside / length) - 0.5).clamp_min(0)
    low = torch.minimum(source.floor(), inside - 1)
    fraction = (source - low).clamp(0, 1)[:, None]
    high = torch.minimum(low + 1, inside - 1)
    grid = torch.arange(low_res, dtype=torch.float32, device=length.device)

    def first_step(pixel: Tensor) -> Tensor:
        position = ((pixel + 0.5) * (low_res / side) - 0.5).clamp(0, low_res - 1)
        return (1 - (position[:, None] - grid).abs()).clamp_min(0)

    return (1 - fraction) * first_step(low) + fraction * first_step(high)


def _copy_for_export(model: SAM) -> SAM:
    """Copy a model, in evaluation mode, on the CPU, in float32."""
    return copy.deepcopy(model).float().cpu().eval().requires_grad_(False)


def export_encoder(model: SAM) -> ExportedProgram:
    """Export :class:`EncoderGraph`; the number and the size of the images are dynamic."""
    side = model.image_encoder.img_size
    image = torch.zeros(2, 3, side - 1, side - 2)
    shapes = {
        'image': {
            0: Dim('batch', min=1, max=1 << 10),
            2: Dim('height', min=1, max=side),
            3: Dim('width', min=1, max=side),
        }
    }
    with torch.no_grad():
        return torch.export.export(EncoderGraph(_copy_for_export(model)), (image,), dynamic_shapes=shapes)


def export_decoder(model: SAM, multimask_output: bool = True, **options: bool) -> ExportedProgram:
    """Export :class:`DecoderGraph`; numbers of prompts and points, and the size of the image are dynamic.

    Args:
        model: The segmenter, which is not changed.
        multimask_output: As in :class:`DecoderGraph`.
        **options: ``use_stability_score`` and ``return_extra_metrics`` of :class:`DecoderGraph`.
    """
    rows, columns = model.prompt_encoder.image_embedding_size
    inputs = {
        'image_embeddings': torch.zeros(1, model.prompt_encoder.embed_dim, rows, columns),
        'point_coords': torch.zeros(2, 3, 2),
        'point_labels': torch.ones(2, 3),
        'mask_input': torch.zeros(2, 1, 4 * rows, 4 * columns),
        'has_mask_input': torch.zeros(1),
        'orig_im_size': torch.tensor([30.0, 40.0]),
    }
    shapes: dict[str, dict[int, Any]] = {name: {} for name in inputs}
    several = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    shapes.update(point_coords=several, point_labels=several, mask_input={0: Dim.DYNAMIC})
    with torch.no_grad():
        return torch.export.export(
            DecoderGraph(_copy_for_export(model), multimask_output, **options),
            tuple(inputs.values()),
            dynamic_shapes=shapes,
        )


def export_onnx(
    model: SAM,
    encoder_path: str | Path | None = None,
    decoder_path: str | Path | None = None,
    multimask_output: bool = True,
    use_stability_score: bool = False,
    return_extra_metrics: bool = False,
) -> None:
    """Write ONNX files. Needs the packages onnx and onnxscript.

    Args:
        model: The segmenter, which is not changed.
        encoder_path: File for ``image`` -> ``image_embeddings``, as in :class:`EncoderGraph`.
        decoder_path: File for the inputs and outputs of :class:`DecoderGraph`, under the official names.
        multimask_output: As in :class:`DecoderGraph`.
        use_stability_score: As in :class:`DecoderGraph`.
        return_extra_metrics: As in :class:`DecoderGraph`; adds outputs ``stability_scores`` and
            ``areas``.

    Raises:
        ImportError: onnxscript is not installed.
        ValueError: There is no path.
    """
    if encoder_path is None and decoder_path is None:
        raise ValueError('export_onnx writes nothing without encoder_path or decoder_path')
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError('ONNX export needs two packages: pip install onnx onnxscript') from None
    if encoder_path is not None:
        torch.onnx.export(
            export_encoder(model),
            (),
            str(encoder_path),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=['image_embeddings'],
            verbose=False,
            external_data=False,
        )
    if decoder_path is not None:
        metrics = ['stability_scores', 'areas'] if return_extra_metrics else []
        names = [
            'image_embeddings',
            'point_coords',
            'point_labels',
            'mask_input',
            'has_mask_input',
            'orig_im_size',
        ]
        torch.onnx.export(
            export_decoder(
                model,
                multimask_output,
                use_stability_score=use_stability_score,
                return_extra_metrics=return_extra_metrics,
            ),
            (),
            str(decoder_path),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=['masks', 'iou_predictions', *metrics, 'low_res_masks'],
            verbose=False,
            external_data=False,
        )
