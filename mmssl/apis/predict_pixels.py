"""Scores and probabilities of the classes of pixels."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np


class PixelScores:
    """Scores of the classes of each pixel of an image, by the segmentor of an inferencer.

    Args:
        inferencer: A :class:`mmssl.apis.SegmentationInferencer`.
    """

    def __init__(self, inferencer: Any):
        self.inferencer = inferencer
        self.model = inferencer.model

    def __call__(self, source: Path | np.ndarray) -> np.ndarray:
        """Return the scores (C, H, W) float32, before the softmax; a single one is after the sigmoid.

        Args:
            source: File of an image, or its pixels (H, W, 3), BGR.
        """
        import cv2

        from mmssl.apis.models import scope_of

        keeps = getattr(self.model, 'keep_logits', None)
        with tempfile.TemporaryDirectory(prefix='mmssl-') as folder, scope_of(self.inferencer.cfg):
            if isinstance(source, np.ndarray):
                pixels, source = source, Path(folder) / 'image.bmp'  # all take the same pipeline
                if not cv2.imwrite(str(source), pixels):
                    raise OSError(f'{source} cannot be written')
            try:
                if keeps is not None:
                    self.model.keep_logits = True
                (sample,) = self.inferencer.test([source])
            finally:
                if keeps is not None:
                    self.model.keep_logits = keeps
        return sample.seg_logits.data.float().cpu().numpy()

    def classes_and_confidence(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of pixels, and their probabilities times 255, rounded down.

        Args:
            scores: (C, H, W), see :meth:`__call__`.

        Returns:
            Two (H, W) uint8.
        """
        if len(scores) == 1:
            probability = scores[0]
            threshold = getattr(self.model.decode_head, 'threshold', None) or 0.5
            classes = probability > threshold
            best = np.where(classes, probability, 1 - probability)
        else:
            classes = scores.argmax(0)
            best = 1 / np.exp(scores - scores.max(0)).sum(0)
        return classes.astype(np.uint8), np.floor(255 * best).astype(np.uint8)
