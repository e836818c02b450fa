"""Boxes of a detector become instance masks."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmssl.checkpoint import load_weights
from mmssl.promptable.predictor import SamPredictor
from mmssl.registry import MODELS, build

# pixels of masks at the size of the image that are float at once
FLOAT_PIXELS = 2**25


@MODELS.register_module()
class PromptedInstanceSegmentor(BaseModel):
    """A detector of mmdet with a SAM behind it: every box is a prompt, its mask goes to ``pred_instances.masks`` as CocoMetric reads it.

    Images (B, 3, H, W) go to the detector. The SAM reads the file of an image, at its own size, or what the
    detector was given where there is no file. Training trains the detector; the SAM stays as it is.
    Checkpoints of the detector alone load as they are.

    Args:
        detector: config of a detector, or a built one; its data preprocessor becomes this model's.
        sam: config of a :class:`mmssl.SAM`, or a built one.
        sam_checkpoint: its weights, in the official names or of a training of ours. Needed unless they come
            with ``sam.init_cfg`` in training, with a built SAM, or with a checkpoint of the whole.
        multimask: the most confident of three masks a box, not the single one.
        rate_masks: a mask's score is the box's times its predicted IoU; otherwise the box's.
        chunk: boxes in one decoder call.
        data_preprocessor: of a detector whose config has none.

    Raises:
        ValueError: a detector without ``predict``; ``chunk`` below 1; a file that does not fit the SAM; when
            a checkpoint of the detector is loaded, a SAM without weights.
    """

    def __init__(
        self,
        detector: dict | nn.Module,
        sam: dict | nn.Module,
        sam_checkpoint: str | None = None,
        multimask: bool = False,
        rate_masks: bool = False,
        chunk: int = 32,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        if isinstance(detector, dict) and data_preprocessor is not None:
            detector = {'data_preprocessor': data_preprocessor, **detector}
        built = build(detector, MODELS)
        if not hasattr(built, 'predict') or chunk < 1:
            raise ValueError(
                f'{type(built).__name__} as a detector needs predict(inputs, data_samples), and chunk={chunk} must be above 0'
            )
        super().__init__(getattr(built, 'data_preprocessor', None), init_cfg)
        self.detector, self.sam = built, build(sam, MODELS).requires_grad_(False)
        self.multimask, self.rate_masks, self.chunk = multimask, rate_masks, chunk
        if sam_checkpoint is not None:
            load_weights(self.sam, sam_checkpoint, strict=True)
        self.sam_is_given = sam_checkpoint is not None or isinstance(sam, nn.Module)
        self.sam.is_init = self.sam_is_given  # mmengine's init_weights then leaves it alone
        self.register_load_state_dict_pre_hook(_take_detector)

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
            samples whose ``pred_instances`` have ``masks`` (N, H, W) bool at the original size, beside boxes,
            scores and labels.
        """
        samples = self.detector.predict(inputs, data_samples)
        for image, sample in zip(inputs, samples, strict=True):
            found = sample.pred_instances
            size = tuple(sample.ori_shape[:2])
            if not len(found):
                found.masks = torch.zeros(0, *size, dtype=torch.bool, device=inputs.device)
                continue
            found.masks, ious = self.segment(self._pixels(image, sample), found.bboxes, size)
            if self.rate_masks:
                found.mask_scores = found.scores * ious.to(found.scores)
        return samples

    def _pixels(self, image: Tensor, sample) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the whole image."""
        from mmssl.data.images import decode, open_image, orient

        path = sample.get('img_path')
        if path and Path(path).is_file():
            encoded = open_image(path)
            pixels = orient(decode(encoded), encoded.orientation)[..., ::-1]
            if pixels.shape[:2] == tuple(sample.ori_shape[:2]):
                return np.ascontiguousarray(pixels)
        height, width = sample.img_shape[:2]
        pixels, preprocessor = image[:, :height, :width].float(), self.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            pixels = pixels * preprocessor.std + preprocessor.mean
        swapped = getattr(preprocessor, '_channel_conversion', False)
        pixels = pixels if swapped else pixels.flip(0)  # files are read as BGR
        return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()

    @torch.no_grad()
    def segment(self, pixels: np.ndarray, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks of boxes, those of :class:`mmssl.promptable.SamPredictor`.

        Args:
            pixels: (h, w, 3) uint8, RGB, at any size.
            boxes: (N, 4) left, top, right, bottom in pixels of the original image.
            size: (H, W) of the original image.

        Returns:
            (N, H, W) bool and (N,) predicted IoUs.
        """
        sam, predictor = self.sam, SamPredictor(self.sam)
        resized = torch.from_numpy(predictor.transform.apply_image(pixels)).permute(2, 0, 1)[None]
        predictor.set_torch_image(resized.to(boxes.device), size)
        height, width = predictor.sizes()[0]
        factor = torch.tensor(
            [width / size[1], height / size[0]], dtype=torch.float64, device=boxes.device
        ).repeat(2)
        masks, ious = [], []
        for part in (boxes.double() * factor).float().split(self.chunk):
            sparse, dense = sam.prompt_encoder(points=None, boxes=part, masks=None)
            logits, quality = sam.mask_decoder(
                predictor.features,
                sam.prompt_encoder.get_dense_pe(),
                sparse,
                dense,
                self.multimask,
                image_side=predictor.image_side(),
            )
            quality, best = quality.float().max(1)
            chosen = logits.float()[torch.arange(len(best), device=best.device), best][:, None]
            for few in chosen.split(max(1, FLOAT_PIXELS // (size[0] * size[1]))):
                masks.append(sam.postprocess_masks(few, (height, width), size)[:, 0] > sam.mask_threshold)
            ious.append(quality)
        return torch.cat(masks), torch.cat(ious)


def _take_detector(module, state_dict, prefix, *_) -> None:
    """Weights of a detector alone go to the detector; nothing is then asked for the SAM, if it has its weights."""

    def holds(part):
        return any(name.startswith(prefix + part) for name in state_dict)

    if not holds('detector.') and not holds('sam.'):
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f'{prefix}detector.{name[len(prefix) :]}'] = state_dict.pop(name)
    if not holds('sam.'):
        if not (module.sam_is_given or (module.sam.init_cfg and module.sam.is_init)):
            raise ValueError(
                'the checkpoint holds no weights of the SAM; give them: --cfg-options model.sam_checkpoint=FILE'
            )
        state_dict.update({f'{prefix}sam.{name}': value for name, value in module.sam.state_dict().items()})
