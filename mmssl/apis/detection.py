"""Objects in images, found by a detector."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl.apis.base import Source
from mmssl.apis.toolbox import ToolboxInferencer, class_info


class DetectionInferencer(ToolboxInferencer):
    """Find boxes, classes and scores of objects with any detector of mmdet's scope.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the detector; random if None.
        device: 'cpu', 'cuda:0', ...; a GPU if there is one when None.
        trust: Load a checkpoint that contains pickled code.
        score_thr: Lowest score that is drawn; the results contain everything.

    Results:
        'bboxes' (N, 4) float32, x1, y1, x2, y2 in pixels of the image; 'labels' (N,); 'scores' (N,), best
        first; 'masks', a list of compressed run lengths, if the detector has them. They equal those of
        ``mmssl test``.

    Examples:
        >>> from mmssl.apis import DetectionInferencer
        >>> infer = DetectionInferencer('rfcn_resnet50_1xb2-ohem-110000i_voc0712', 'iter_110000.pth')
        >>> best = infer('street.jpg', out_dir='found')[0]
        >>> infer.classes[best['labels'][0]], best['scores'][0]
    """

    def __init__(
        self,
        config: Any,
        checkpoint: str | os.PathLike | None = None,
        device: Any = None,
        trust: bool = False,
        score_thr: float = 0.3,
    ):
        self.score_thr = score_thr
        super().__init__(config, checkpoint, device, trust)

    def check_config(self, name: str) -> None:
        """Raise ValueError if the config is not of a detector."""
        self.need('mmdet', 'detector', 'detection', name)

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Create the model and its pipeline, and find the classes."""
        content = self.build(checkpoint, trust)
        self.classes = class_info(content, self.test_dataset(), num_classes_of(self.model)).names

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options: Any) -> list[dict]:
        """Detect objects; see the class."""
        from mmssl.data.annotations import encode

        results = []
        for sample in self.test(files):
            instances = sample.pred_instances.cpu()
            instances = instances[instances.scores.argsort(descending=True, stable=True)]
            result = {
                'bboxes': instances.bboxes.numpy(),
                'labels': instances.labels.numpy(),
                'scores': instances.scores.numpy(),
            }
            if 'masks' in instances:
                result['masks'] = [encode(mask)['segmentation'] for mask in instances.masks.numpy()]
            results.append(result)
        return results

    def in_json(self, result: dict) -> dict:
        """Add the names of the classes."""
        return {**result, 'classes': [self.class_name(label) for label in result['labels']]}

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """Draw boxes, and masks if there are any, over the image."""
        import numpy as np

        from mmssl.data.colors import class_color
        from mmssl.data.pictures import read_rgb
        from mmssl.visualization.detection import draw_detections
        from mmssl.visualization.files import write_image

        image = read_rgb(file, self.pictures)
        shown = result['scores'] >= self.score_thr
        if 'masks' in result:
            from mmssl.visualization.promptable import overlay_rles

            codes = [code for code, is_shown in zip(result['masks'], shown, strict=True) if is_shown]
            colors = [class_color(int(label)) for label in result['labels'][shown]]
            image = overlay_rles(image, codes, colors)
        boxes, labels, scores = (np.asarray(result[key])[shown] for key in ('bboxes', 'labels', 'scores'))
        names = self.classes or list(map(str, range(1000)))
        write_image(
            draw_detections(image, boxes, labels, scores, names), folder / 'pictures' / f'{source.name}.png'
        )


def num_classes_of(detector: Any) -> int | None:
    """Return the number of classes that the head of a detector predicts; None if it has no such head."""
    from torch import nn

    head = getattr(getattr(detector, 'roi_head', None), 'bbox_head', None)
    head = head or getattr(detector, 'bbox_head', None)
    if isinstance(head, nn.ModuleList):  # a cascade
        head = head[-1]
    return getattr(head, 'num_classes', None)
