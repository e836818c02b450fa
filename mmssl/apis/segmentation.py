"""Classes of every pixel by a segmentor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmssl.apis.base import HostInferencer, Source, read_rgb, write_picture


class SegmentationInferencer(HostInferencer):
    """The class of every pixel; any config of mmseg's scope, ours or the host's.

    Args:
        config: a name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: weights of the segmentor; random when None.
        device: 'cpu', 'cuda:0', ...; a GPU where there is one when None.
        trust: load a checkpoint that holds pickled code.

    Results:
        'pred_sem_seg' (H, W), uint8 up to 256 classes, at the size of the image; ``out_dir`` also gets it as
        ``masks/NAME.png``, and the JSON file says how many pixels each class has. Classes equal those of
        ``mmssl test``.

    Examples:
        >>> from mmssl.apis import SegmentationInferencer
        >>> infer = SegmentationInferencer('gcn_resnet50_4xb4-40000i_voc12aug-512x512', 'iter_40000.pth')
        >>> classes = infer('street.jpg', out_dir='found')[0]['pred_sem_seg']
    """

    def check_config(self, name: str) -> None:
        """ValueError for configs of no segmentor."""
        self.need('mmseg', 'segmentor', 'segmentation', name)

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Model, pipeline, classes and colours."""
        meta = self.meta(self.build(checkpoint, trust), getattr(self.model, 'num_classes', None))
        self.classes, self.palette = meta['classes'], meta['palette']

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options) -> list[dict]:
        """See the class."""
        maps = [sample.pred_sem_seg.data[0].cpu().numpy() for sample in self.test(files)]
        return [
            {'pred_sem_seg': classes.astype(np.uint8) if max(len(self.classes), 2) <= 256 else classes}
            for classes in maps
        ]

    def in_json(self, result: dict) -> dict:
        """Pixels a class in the place of the map."""
        labels, counts = np.unique(result['pred_sem_seg'], return_counts=True)
        return {
            'img_path': result['img_path'],
            'size': list(result['pred_sem_seg'].shape),
            'classes': [
                dict(label=int(label), name=self.class_name(label), pixels=int(count))
                for label, count in zip(labels, counts, strict=True)
            ],
        }

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """The map of classes, and the image beside it with a legend."""
        from PIL import Image

        from mmssl.visualization.segmentation import segmentation_picture

        classes = result['pred_sem_seg']
        mask = Image.fromarray(classes if classes.dtype == np.uint8 else classes.astype(np.int32))
        write_picture(mask, folder / 'masks' / f'{source.name}.png')
        picture = segmentation_picture(read_rgb(file), {'prediction': classes}, self.classes, self.palette)
        write_picture(picture, folder / 'pictures' / f'{source.name}.png')
