"""Datasets of images and label maps for mmseg."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset

from mmssl.data.colors import class_color
from mmssl.data.label_values import BINARY, BINARY_CLASSES, is_colored, parse_label_map
from mmssl.registry import DATASETS

CLASSES_FILE = 'classes.txt'


@DATASETS.register_module()
class CamVid(BaseSegDataset):
    """CamVid with the usual 11 classes (Brostow et al., 2008).

    The split is the one of SegNet (Badrinarayanan et al., arXiv:1511.00561). Expects ``images/<split>/*.jpg``
    and ``labels/<split>/*.png`` with a byte per pixel: 0 to 10 for the classes, and 11 for void, which is
    ignored.

    Args:
        img_suffix: Suffix of the images.
        seg_map_suffix: Suffix of the label maps.
        ignore_index: Label of void.
        **kwargs: Passed on to mmseg's BaseSegDataset; ``data_prefix`` selects the split,
            ``dict(img_path='images/train', seg_map_path='labels/train')``.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', ignore_index: int = 11, **kwargs
    ):
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            ignore_index=ignore_index,
            reduce_zero_label=False,
            **kwargs,
        )


@DATASETS.register_module()
class SegmentationFolder(BaseSegDataset):
    """Folder of images and label maps, whose classes are given by a list or a text file.

    Args:
        classes: Class names in the order of their labels, or a text file with a name on each line, relative
            to ``data_root``.
        palette: (R, G, B) of each class; a fixed sequence of colours if None.
        img_suffix: Suffix of the images.
        seg_map_suffix: Suffix of the label maps.
        reduce_zero_label: Ignore label 0 and count the classes from 1.
        label_map: Value in the files, or colour as (R, G, B) or '#rrggbb', -> name or index of its class, or
            None for pixels to ignore. Other values are errors, except with mmseg's LoadAnnotations.
            Colours need ``mmssl.LoadLabelMap``.
        binary: Masks of 0 and 255 (or 0 and 1): 255 is class 1 instead of being ignored. The classes are
            background and foreground if there is no list.
        data_root: Folder of the dataset.
        **kwargs: Passed on to mmseg's BaseSegDataset: ``data_prefix``, ``ignore_index``, ...

    Raises:
        ValueError: There is no class, a name occurs twice, or ``label_map`` does not fit.
        FileNotFoundError: The text file does not exist.
    """

    def __init__(  # noqa: PLR0913
        self,
        classes=CLASSES_FILE,
        palette=None,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        reduce_zero_label: bool = False,
        label_map: Mapping | None = None,
        binary: bool = False,
        data_root: str | None = None,
        **kwargs,
    ):
        if binary and classes == CLASSES_FILE and not (Path(data_root or '.') / classes).is_file():
            classes = BINARY_CLASSES
        if isinstance(classes, str):
            path = Path(data_root or '.') / classes
            if not path.is_file():
                raise FileNotFoundError(
                    f'{path} does not exist; it names the classes, each on a line of its own, in the order '
                    'of '
                    'their labels'
                )
            classes = [line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f'classes {list(classes)} of a SegmentationFolder: name every class, each once')
        metainfo = {
            'classes': tuple(classes),
            'palette': palette or [list(class_color(index)) for index in range(len(classes))],
            **kwargs.pop('metainfo', {}),
        }
        self.values = self._parse_values(label_map, binary, reduce_zero_label, classes, kwargs)
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            data_root=data_root,
            metainfo=metainfo,
            **kwargs,
        )

    @staticmethod
    def _parse_values(
        label_map: Mapping | None,
        binary: bool,
        reduce_zero_label: bool,
        classes: Sequence[str],
        settings: Mapping,
    ) -> dict[Any, int] | None:
        """Return the values of the files with their labels; None if they are the labels."""
        if not label_map and not binary:
            return None
        if (label_map and binary) or reduce_zero_label:
            raise ValueError('a SegmentationFolder takes one of label_map, binary and reduce_zero_label')
        if binary and len(classes) != 2:
            raise ValueError(f'binary=True of a SegmentationFolder needs two classes, not {list(classes)}')
        values = parse_label_map(label_map or BINARY, classes, settings.get('ignore_index', 255))
        steps = [
            str(step['type'] if isinstance(step, dict) else type(step).__name__)
            for step in settings.get('pipeline', ())
        ]
        if is_colored(values) and any(step.rpartition('.')[2] == 'LoadAnnotations' for step in steps):
            raise ValueError(
                "label_map of colours needs dict(type='mmssl.LoadLabelMap') instead of LoadAnnotations"
            )
        return values

    def get_label_map(self, new_classes=None):
        """Return the labels of the values in the files, for the transform that loads them."""
        return self.values

    def load_data_list(self) -> list[dict]:
        """Return an entry for each image."""
        return [
            {**entry, 'label_map_is_complete': self.values is not None} for entry in super().load_data_list()
        ]
