"""Classes of every pixel, predicted by a segmentor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.apis.base import Source
from mmssl.apis.toolbox import ToolboxInferencer, class_info


class SegmentationInferencer(ToolboxInferencer):
    """Predict the class of every pixel with any segmentor of mmseg's scope.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the segmentor; random if None.
        device: 'cpu', 'cuda:0', ...; a GPU if there is one when None.
        trust: Load a checkpoint that contains pickled code.

    Results:
        'pred_sem_seg' (H, W) at the size of the image, uint8 for up to 256 classes; ``out_dir`` also gets it
        as ``masks/NAME.png``, and the JSON file lists the number of pixels of each class. Classes equal those
        of ``mmssl test``.

    Examples:
        >>> from mmssl.apis import SegmentationInferencer
        >>> infer = SegmentationInferencer('gcn_resnet50_4xb4-40000i_voc12aug-512x512', 'iter_40000.pth')
        >>> classes = infer('street.jpg', out_dir='found')[0]['pred_sem_seg']
    """

    def check_config(self, name: str) -> None:
        """Raise ValueError if the config is not of a segmentor."""
        self.need('mmseg', 'segmentor', 'segmentation', name)

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Create the model and its pipeline, and find the classes and their colors."""
        content = self.build(checkpoint, trust)
        info = class_info(content, self.test_dataset(), getattr(self.model, 'num_classes', None))
        self.classes = info.names
        self.palette = info.palette

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options: Any) -> list[dict]:
        """Segment images; see the class."""
        maps = [sample.pred_sem_seg.data[0].cpu().numpy() for sample in self.test(files)]
        if max(len(self.classes), 2) <= 256:
            maps = [labels.astype(np.uint8) for labels in maps]
        return [{'pred_sem_seg': labels} for labels in maps]

    def in_json(self, result: dict) -> dict:
        """Replace the map by the number of pixels of each class."""
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
        """Write the map of classes, and the image beside it with a legend."""
        from PIL import Image

        from mmssl.data.pictures import read_rgb
        from mmssl.visualization.files import write_image
        from mmssl.visualization.segmentation import segmentation_figure

        labels = result['pred_sem_seg']
        mask = Image.fromarray(labels if labels.dtype == np.uint8 else labels.astype(np.int32))
        write_image(mask, folder / 'masks' / f'{source.name}.png')
        drawing = segmentation_figure(
            read_rgb(file, self.pictures), {'prediction': labels}, self.classes, self.palette
        )
        write_image(drawing, folder / 'pictures' / f'{source.name}.png')
