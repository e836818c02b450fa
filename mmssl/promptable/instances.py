"""Boxes of a detector become instance masks."""

from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmssl.registry import MODELS, build


@MODELS.register_module()
class PromptedInstanceSegmentor(BaseModel):
    """A detector of mmdet with a SAM behind it: every box is a prompt, its mask goes to ``pred_instances.masks`` as CocoMetric reads it.

    Images (B, 3, H, W) go to the detector. The SAM reads the file of an image, at its own size, or what the detector was given where there
    is no file. Training trains the detector; the SAM stays as it is.

    Args:
        detector: config of a detector, or a built one; its data preprocessor becomes this model's.
        sam: config of a :class:`mmssl.SAM`, or a built one; its weights from ``sam.init_cfg`` or a checkpoint of the whole.
        multimask: the most confident of three masks a box, not the single one.
        rate_masks: a mask's score is the box's times its predicted IoU; otherwise the box's.
        chunk: boxes in one decoder call.

    Raises:
        ValueError: a detector without ``predict``; ``chunk`` below 1.
    """

    def __init__(self, detector: dict | nn.Module, sam: dict | nn.Module, multimask: bool = False, rate_masks: bool = False,
                 chunk: int = 32, init_cfg: dict | list | None = None):
        built = build(detector, MODELS)
        if not hasattr(built, 'predict') or chunk < 1:
            raise ValueError(f'{type(built).__name__} as a detector needs predict(inputs, data_samples), and chunk={chunk} must be above 0')
        super().__init__(getattr(built, 'data_preprocessor', None), init_cfg)
        self.detector, self.sam = built, build(sam, MODELS).requires_grad_(False)
        self.multimask, self.rate_masks, self.chunk = multimask, rate_masks, chunk

    def train(self, mode: bool = True):
        """As torch's; the SAM stays in evaluation."""
        super().train(mode)
        self.sam.eval()
        return self

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """The detector's losses or raw results; with ``mode='predict'`` its results with masks."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return self.detector(inputs, data_samples, mode=mode)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list) -> list:
        """Boxes and masks.

        Args:
            inputs: (B, 3, H, W), as the detector takes them.
            data_samples: of the images.

        Returns:
            samples whose ``pred_instances`` have ``masks`` (N, H, W) bool at the original size, beside boxes, scores and labels.
        """
        samples = self.detector.predict(inputs, data_samples)
        for image, sample in zip(inputs, samples, strict=True):
            found = sample.pred_instances
            size = tuple(sample.ori_shape[:2])
            if not len(found):
                found.masks = torch.zeros(0, *size, dtype=torch.bool, device=inputs.device)
                continue
            masks, ious = self.segment(self._pixels(image, sample), found.bboxes, size)
            found.masks = masks
            if self.rate_masks:
                found.mask_scores = found.scores * ious.to(found.scores)
        return samples

    def _pixels(self, image: Tensor, sample) -> Tensor:
        """(3, H, W) RGB pixels 0 to 255 of the whole image."""
        from mmssl.data.images import decode, open_image, orient
        path = sample.get('img_path')
        if path and Path(path).is_file():
            encoded = open_image(path)
            pixels = orient(decode(encoded), encoded.orientation)[..., ::-1].copy()
            if pixels.shape[:2] == tuple(sample.ori_shape[:2]):
                return torch.from_numpy(pixels).permute(2, 0, 1).to(image.device, torch.float32)
        height, width = sample.img_shape[:2]
        pixels, preprocessor = image[:, :height, :width].float(), self.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            pixels = pixels * preprocessor.std + preprocessor.mean
        swapped = getattr(preprocessor, '_channel_conversion', False)
        return pixels if swapped else pixels.flip(0)  # files are read as BGR

    def segment(self, pixels: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks of boxes.

        Args:
            pixels: (3, h, w) RGB, 0 to 255, at any size.
            boxes: (N, 4) left, top, right, bottom in pixels of the original image.
            size: (H, W) of the original image.

        Returns:
            (N, H, W) bool and (N,) predicted IoUs.
        """
        sam = self.sam
        scale = sam.image_encoder.img_size / max(pixels.shape[-2:])
        height, width = (max(1, int(edge * scale + 0.5)) for edge in pixels.shape[-2:])
        pixels = F.interpolate(pixels[None], (height, width), mode='bilinear', align_corners=False, antialias=True)
        parameter = next(sam.parameters())
        embedding = sam.image_encoder(sam.preprocess(pixels).to(parameter.dtype))
        factor = boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
        masks, ious = [], []
        for part in (boxes * factor).split(self.chunk):
            sparse, dense = sam.prompt_encoder(points=None, boxes=part, masks=None)
            logits, quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, self.multimask)
            best = quality.argmax(1)
            rows = torch.arange(len(best), device=best.device)
            full = sam.postprocess_masks(logits[rows, best][:, None].float(), (height, width), size)
            masks.append(full[:, 0] > sam.mask_threshold)
            ious.append(quality[rows, best].float())
        return torch.cat(masks), torch.cat(ious)
