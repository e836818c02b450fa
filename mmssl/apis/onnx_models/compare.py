"""Comparison of a graph in onnxruntime with the model in PyTorch, whose own test step is the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl.apis.onnx_models.runtime import paste_mask
from mmssl.apis.onnx_models.ties import ties_by_index
from mmssl.errors import UserError


class Tolerance(NamedTuple):
    """Largest differences that count as agreement.

    Attributes:
        logit: Of logits, times the largest logit of the image if that is above 1.
        score: Of scores.
        box: Of edges of boxes, as a share of the longest edge of the image.
        mask: Of probabilities from the threshold, for pixels that may be in one mask only.
        missing: Share of the objects that may have no partner, beside those whose score is about the lowest.
    """

    logit: float
    score: float
    box: float
    mask: float
    missing: float


TOLERANCES = {
    torch.float32: Tolerance(logit=1e-4, score=1e-4, box=1e-4, mask=1e-3, missing=0.0),
    # random weights give scores that differ in the fourth digit, whose order half precision changes
    torch.float16: Tolerance(logit=0.03, score=0.03, box=0.03, mask=0.1, missing=0.1),
}


class Agreement(NamedTuple):
    """Result of a comparison.

    Attributes:
        images: Number of images.
        objects: Number of objects that both return; 0 for models that predict none.
        differences: Largest difference by its name, such as 'logits', 'scores', 'boxes'.
    """

    images: int
    objects: int
    differences: dict[str, float]

    def __str__(self) -> str:
        counted = f'{self.images} images' + (f' with {self.objects} objects' if self.objects else '')
        listed = ', '.join(f'{name} {value:.2g}' for name, value in self.differences.items())
        return f'{counted}: largest difference from PyTorch: {listed or "none"}'


class Comparison:
    """Run images through a graph and through the model.

    Args:
        path: The graph.
        model: The model, in evaluation mode and float32.
        task: 'classify', 'semantic', 'detect' or 'instance'.
        dtype: Data type of the weights of the graph.
        mask_threshold: Lowest probability of the pixels of a mask.
    """

    def __init__(self, path: Path, model: Any, task: str, dtype: torch.dtype, mask_threshold: float = 0.5):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # an error raises an exception too
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        self.model = model
        self.task = task
        self.tolerance = TOLERANCES[dtype]
        self.mask_threshold = mask_threshold
        settings = model.test_cfg.rcnn if task in ('detect', 'instance') else {}
        self.max_objects = settings.get('max_per_img', -1)
        self.score_threshold = settings.get('score_thr', 0.0)
        self.images = 0
        self.objects = 0
        self.differences: dict[str, float] = {}

    def add(self, samples: Sequence[Mapping[str, Any]], name: str) -> None:
        """Compare a batch.

        Args:
            samples: Outputs of the test pipeline, with images of one size.
            name: What the batch is called in a message.

        Raises:
            UserError: The results differ by more than the tolerance.
        """
        # loaders give BGR
        pixels = torch.stack([sample['inputs'].flip(0).float() for sample in samples])
        outputs = self.session.run(None, {'image': pixels.numpy()})
        with torch.no_grad():
            if self.task in ('classify', 'semantic'):
                self._compare_logits(outputs[0], self._logits(samples), name)
            else:
                self._compare_objects(outputs, self._objects(samples), name)
        self.images += len(samples)

    def result(self) -> Agreement:
        """Return the largest differences of all batches."""
        return Agreement(self.images, self.objects, dict(self.differences))

    def _batch(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, list]:
        return {
            'inputs': [sample['inputs'] for sample in samples],
            'data_samples': [sample['data_samples'].clone() for sample in samples],
        }

    def _logits(self, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        inputs = self.model.data_preprocessor(self._batch(samples), False)['inputs']
        if self.task == 'classify':
            return self.model(inputs, mode='tensor')
        height, width = samples[0]['inputs'].shape[1:]
        metas = [{'img_shape': tuple(inputs.shape[2:])}] * len(samples)
        return self.model.encode_decode(inputs, metas)[:, :, :height, :width]

    def _objects(self, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
        batch = self._batch(samples)
        for sample in batch['data_samples']:
            shape = sample.metainfo['img_shape'][:2]
            sample.set_metainfo({'ori_shape': shape, 'scale_factor': (1.0, 1.0)})
        with ties_by_index():
            results = [sample.pred_instances for sample in self.model.test_step(batch)]
        names = ('bboxes', 'scores', 'labels', *(['masks'] if self.task == 'instance' else []))
        return [{name: result[name].numpy() for name in names} for result in results]

    def _record(self, name: str, value: float) -> None:
        self.differences[name] = max(self.differences.get(name, 0.0), float(value))

    def _compare_logits(self, result: np.ndarray, expected: Tensor, name: str) -> None:
        if result.shape != tuple(expected.shape):
            raise UserError(f'{name}: the graph returns {result.shape}, PyTorch {tuple(expected.shape)}')
        difference = np.abs(result - expected.numpy()).max() / max(1.0, float(expected.abs().max()))
        self._record('logits', difference)
        if not difference <= self.tolerance.logit:
            raise UserError(
                f'{name}: the logits of the graph differ from PyTorch by {difference:.2g} of the largest, '
                f'more than {self.tolerance.logit:g}; nothing was written'
            )

    def _compare_objects(self, outputs: list[np.ndarray], expected: list[dict], name: str) -> None:
        boxes, scores, labels, images, *masks = outputs
        for index, reference in enumerate(expected):
            rows = images == index
            result = dict(bboxes=boxes[rows], scores=scores[rows], labels=labels[rows])
            if masks:
                result['masks'] = masks[0][rows]
            self._compare_image(result, reference, name)

    def _compare_image(self, result: dict, reference: dict, name: str) -> None:
        partners = _partners(result, reference, self.tolerance)
        has_partner = partners >= 0
        # the last digits of a score decide at the threshold, and about the last place of a full list
        lowest = self.score_threshold + self.tolerance.score
        if len(partners) == self.max_objects:
            lowest = max(lowest, reference['scores'].min(initial=1) + self.tolerance.score)
        is_missing = ~(has_partner | (reference['scores'] <= lowest))
        count, matched = len(partners), int(has_partner.sum())
        allowed = self.tolerance.missing * count
        self.objects += matched
        if is_missing.sum() > allowed or abs(len(result['scores']) - count) > max(1, allowed):
            raise UserError(
                f'{name}: the graph returns {matched} of the {count} objects of PyTorch, within '
                f'{self.tolerance.score:g} of the score, and {len(result["scores"])} in all; nothing was '
                'written'
            )
        for key, label in (('scores', 'scores'), ('bboxes', 'boxes in pixels')):
            pair = result[key][partners[has_partner]], reference[key][has_partner]
            self._record(label, np.abs(np.subtract(*pair)).max(initial=0))
        if 'masks' in result:
            self._compare_masks(result, reference, partners, name)

    def _compare_masks(self, result: dict, reference: dict, partners: np.ndarray, name: str) -> None:
        """Compare the pixels of the masks; those whose probability is about the threshold may differ."""
        for index, partner in enumerate(partners):
            if partner < 0:
                continue
            expected = reference['masks'][index]
            box = reference['bboxes'][index]
            probability = paste_mask(result['masks'][partner], box, expected.shape[::-1])
            differs = (probability >= self.mask_threshold) != expected
            distance = np.abs(probability - self.mask_threshold)[differs].max(initial=0)
            self._record('masks from their threshold', distance)
            if distance > self.tolerance.mask:
                raise UserError(
                    f'{name}: {differs.sum()} pixels of a mask of the graph differ from PyTorch; nothing was '
                    'written'
                )


def _partners(result: dict, reference: dict, tolerance: Tolerance) -> np.ndarray:
    """Return for each object of the reference the index of the same object in the graph's, -1 for none."""
    edge = max(1.0, *(each['bboxes'].max(initial=0) for each in (reference, result)))
    partners = np.full(len(reference['scores']), -1)
    is_free = np.ones(len(result['scores']), bool)
    for index, (box, score, label) in enumerate(
        zip(reference['bboxes'], reference['scores'], reference['labels'], strict=True)
    ):
        distance = np.abs(result['bboxes'] - box).max(1, initial=0)
        fits = is_free & (result['labels'] == label) & (np.abs(result['scores'] - score) <= tolerance.score)
        fits &= distance <= tolerance.box * edge
        if fits.any():
            best = np.flatnonzero(fits)[distance[fits].argmin()]
            partners[index] = best
            is_free[best] = False
    return partners
