"""Datasets of images and label maps for mmseg."""

from pathlib import Path
from typing import ClassVar

from mmseg.datasets import BaseSegDataset

from mmssl.data.colors import class_color
from mmssl.registry import DATASETS


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
        data_root: Folder of the dataset.
        **kwargs: Passed on to mmseg's BaseSegDataset: ``data_prefix``, ``ignore_index``, ...

    Raises:
        ValueError: There is no class, or a name occurs twice.
        FileNotFoundError: The text file does not exist.
    """

    def __init__(
        self,
        classes='classes.txt',
        palette=None,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        reduce_zero_label: bool = False,
        data_root: str | None = None,
        **kwargs,
    ):
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
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            data_root=data_root,
            metainfo=metainfo,
            **kwargs,
        )
