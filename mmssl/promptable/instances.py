"""Instance masks from the boxes of a detector."""

import contextlib

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmssl.checkpoint import load_weights
from mmssl.promptable.predictor import SamPredictor
from mmssl.registry import MODELS, TRANSFORMS, build

# logits at the size of the image that are held at a time
FLOAT_PIXELS = 2**25


@MODELS.register_module()
class PromptedInstanceSegmentor(BaseModel):
    """A detector whose boxes prompt a SAM; masks go to ``pred_instances.masks``, as CocoMetric reads them.

    Images (B, 3, H, W) go to the detector. The SAM gets the file of an image at its own size, or the input of
    the detector if there is no file. Training trains the detector; the SAM is frozen. Checkpoints of only the
    detector load too.

    Args:
        detector: A detector or its config; its data preprocessor becomes that of this model.
        sam: A :class:`mmssl.SAM` or its config.
        sam_checkpoint: Weights of the SAM, in the official names or written by a training run. Needed unless
            they come from ``sam.init_cfg`` in training, from a built SAM, or from a checkpoint of the whole
            model.
        multimask: Return the most confident of three masks for a box instead of the single one.
        rate_masks: Multiply the score of the box by the predicted IoU for the score of a mask.
        chunk: Number of boxes in a call of the decoder.
        data_preprocessor: That of a detector whose config has none.

    Raises:
        ValueError: A detector without ``predict``, ``chunk`` below 1, a file that does not fit the SAM, or,
            when a checkpoint of the detector is loaded, a SAM without weights.
    """

    def __init__(  # noqa: PLR0913  called by configs
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
                f'{type(built).__name__} as a detector needs predict(inputs, data_samples), and '
                f'chunk={chunk} must be above 0'
            )
        super().__init__(getattr(built, 'data_preprocessor', None), init_cfg)
        self.detector = built
        self.sam = build(sam, MODELS).requires_grad_(False)
        self.multimask = multimask
        self.rate_masks = rate_masks
        self.chunk = chunk
        if sam_checkpoint is not None:
            load_weights(self.sam, sam_checkpoint, strict=True)
        self.has_sam_weights = sam_checkpoint is not None or isinstance(sam, nn.Module)
        self.sam.is_init = self.has_sam_weights  # mmengine's init_weights then skips it
        self.register_load_state_dict_pre_hook(_rename_detector)

    def train(self, mode: bool = True):
        """As ``nn.Module.train``; the SAM stays in evaluation mode."""
        super().train(mode)
        self.sam.eval()
        return self

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """Return losses or raw results of the detector; with ``mode='predict'`` its results with masks."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return self.detector(inputs, data_samples, mode=mode)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list) -> list:
        """Predict boxes and masks.

        Args:
            inputs: (B, 3, H, W), as the detector takes them.
            data_samples: Samples of the images.

        Returns:
            The samples with ``masks`` (N, H, W) bool at the original size in ``pred_instances``, in addition
            to boxes, scores and labels.
        """
        samples = self.detector.predict(inputs, data_samples)
        for image, sample in zip(inputs, samples, strict=True):
            instances = sample.pred_instances
            size = tuple(sample.ori_shape[:2])
            if not len(instances):
                instances.masks = torch.zeros(0, *size, dtype=torch.bool, device=inputs.device)
                if self.rate_masks:
                    instances.mask_scores = instances.scores.clone()
                continue
            instances.masks, ious = self.segment(self._pixels(image, sample), instances.bboxes, size)
            if self.rate_masks:
                instances.mask_scores = instances.scores * ious.to(instances.scores)
        return samples

    def _pixels(self, image: Tensor, sample) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the whole image."""
        path = sample.get('img_path')
        with contextlib.suppress(FileNotFoundError):
            pixels = _read_rgb(str(path)) if path else None
            if pixels is not None and pixels.shape[:2] == tuple(sample.ori_shape[:2]):
                return pixels
        height, width = sample.img_shape[:2]
        values, preprocessor = image[:, :height, :width].float(), self.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            values = values * preprocessor.std + preprocessor.mean
        if not getattr(preprocessor, '_channel_conversion', False):  # files are read as BGR
            values = values.flip(0)
        return values.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()

    @torch.no_grad()
    def segment(self, pixels: np.ndarray, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Predict the masks of boxes, as :class:`mmssl.promptable.SamPredictor` does.

        Args:
            pixels: (h, w, 3) uint8, RGB, at any size.
            boxes: (N, 4) left, top, right, bottom in pixels of the original image.
            size: (H, W) of the original image.

        Returns:
            Masks (N, H, W) bool and predicted IoU (N,).
        """
        sam, predictor = self.sam, SamPredictor(self.sam)
        resized = torch.from_numpy(predictor.transform.apply_image(pixels)).permute(2, 0, 1)[None]
        predictor.set_torch_image(resized.to(boxes.device), size)
        input_size, _ = predictor.sizes()
        factor = torch.tensor([input_size[1] / size[1], input_size[0] / size[0]], dtype=torch.float64)
        resized_boxes = (boxes.double() * factor.to(boxes.device).repeat(2)).float()
        masks, ious = [], []
        for chunk in resized_boxes.split(self.chunk):
            sparse, dense = sam.prompt_encoder(points=None, boxes=chunk, masks=None)
            logits, iou = sam.mask_decoder(
                predictor.features, sam.prompt_encoder.get_dense_pe(), sparse, dense[:1], self.multimask
            )
            iou, best = iou.float().max(1)
            logits = logits.float()[torch.arange(len(best), device=best.device), best][:, None]
            for part in logits.split(max(1, FLOAT_PIXELS // (size[0] * size[1]))):
                full = sam.postprocess_masks(part, input_size, size)
                masks.append(full[:, 0] > sam.mask_threshold)
            ious.append(iou)
        return torch.cat(masks), torch.cat(ious)


def _read_rgb(path: str) -> np.ndarray:
    """Read an image with :class:`mmssl.LoadImage`, upright, (H, W, 3) uint8 RGB."""
    load_image = build({'type': 'LoadImage'}, TRANSFORMS)
    return np.ascontiguousarray(load_image({'img_path': path})['img'][..., ::-1])


def _rename_detector(module, state_dict, prefix, *_) -> None:
    """Give weights of a detector alone the names of the part, and add those of the SAM if they are loaded."""

    def has(part):
        return any(name.startswith(prefix + part) for name in state_dict)

    if not has('detector.') and not has('sam.'):
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f'{prefix}detector.{name[len(prefix) :]}'] = state_dict.pop(name)
    if not has('sam.'):
        if not (module.has_sam_weights or (module.sam.init_cfg and module.sam.is_init)):
            raise ValueError(
                'the checkpoint has no weights of the SAM; give them: --cfg-options model.sam_checkpoint=FILE'
            )
        state_dict.update({f'{prefix}sam.{name}': value for name, value in module.sam.state_dict().items()})
