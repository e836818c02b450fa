"""Objects in images by a detector."""

from collections.abc import Sequence
from pathlib import Path

from mmssl.apis.base import HostInferencer, Source, read_rgb, write_picture


class DetectionInferencer(HostInferencer):
    """Boxes, classes and scores of the objects in images; any config of mmdet's scope, ours or the host's.

    Args:
        config: a name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: weights of the detector; random when None.
        device: 'cpu', 'cuda:0', ...; a GPU where there is one when None.
        trust: load a checkpoint that holds pickled code.
        score_thr: least score of what is drawn; the results hold everything.

    Results:
        'bboxes' (N, 4) float32, x1, y1, x2, y2 in pixels of the image; 'labels' (N,); 'scores' (N,), best
        first; 'masks', a list of compressed run lengths, where the detector has them. They equal those of
        ``mmssl test``.

    Examples:
        >>> from mmssl.apis import DetectionInferencer
        >>> infer = DetectionInferencer('rfcn_resnet50_1xb2-ohem-110000i_voc0712', 'iter_110000.pth')
        >>> best = infer('street.jpg', out_dir='found')[0]
        >>> infer.classes[best['labels'][0]], best['scores'][0]
    """

    def __init__(self, config, checkpoint=None, device=None, trust: bool = False, score_thr: float = 0.3):
        self.score_thr = score_thr
        super().__init__(config, checkpoint, device, trust)

    def check_config(self, name: str) -> None:
        """ValueError for configs of no detector."""
        self.need('mmdet', 'detector', 'detection', name)

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Model, pipeline, classes."""
        from torch import nn

        content = self.build(checkpoint, trust)
        head = getattr(getattr(self.model, 'roi_head', None), 'bbox_head', None) or getattr(
            self.model, 'bbox_head', None
        )
        if isinstance(head, nn.ModuleList):  # of a cascade
            head = head[-1]
        self.classes = self.meta(content, getattr(head, 'num_classes', None))['classes']

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options) -> list[dict]:
        """See the class."""
        from mmssl.promptable.annotations import encode

        results = []
        for sample in self.test(files):
            found = sample.pred_instances.cpu()
            found = found[found.scores.argsort(descending=True, stable=True)]
            result = {
                'bboxes': found.bboxes.numpy(),
                'labels': found.labels.numpy(),
                'scores': found.scores.numpy(),
            }
            if 'masks' in found:
                result['masks'] = [encode(mask)['segmentation'] for mask in found.masks.numpy()]
            results.append(result)
        return results

    def in_json(self, result: dict) -> dict:
        """The names of the classes too."""
        return {**result, 'classes': [self.class_name(label) for label in result['labels']]}

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """The image with boxes, and masks where there are some."""
        import numpy as np

        from mmssl.visualization.colours import class_colour
        from mmssl.visualization.detection import draw_detections

        image = read_rgb(file)
        kept = result['scores'] >= self.score_thr
        if 'masks' in result:
            from mmssl.visualization.promptable import overlay_codes

            codes = [code for code, keep in zip(result['masks'], kept, strict=True) if keep]
            image = overlay_codes(
                image, codes, [class_colour(int(label)) for label in result['labels'][kept]]
            )
        boxes, labels, scores = (np.asarray(result[key])[kept] for key in ('bboxes', 'labels', 'scores'))
        picture = draw_detections(image, boxes, labels, scores, self.classes or list(map(str, range(1000))))
        write_picture(picture, folder / 'pictures' / f'{source.name}.png')
