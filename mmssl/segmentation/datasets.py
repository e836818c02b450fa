"""Data sets of images and label maps for mmseg."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmssl.registry import DATASETS
from mmssl.visualization.colours import class_colour


@DATASETS.register_module()
class CamVid(BaseSegDataset):
    """CamVid in the usual 11 classes (Brostow et al., 2008; the split of Badrinarayanan et al., arXiv:1511.00561), which mmseg lacks.

    ``images/<split>/*.jpg`` and ``labels/<split>/*.png`` of one byte a pixel: 0 to 10, and 11 for void, which
    is ignored.

    Args:
        others: of mmseg's BaseSegDataset; ``data_prefix`` tells the split, ``dict(img_path='images/train',
            seg_map_path='labels/train')``.
    """

    METAINFO = dict(
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
    """Any folder of images and label maps; mmseg asks for a class of Python for every new data set.

    Args:
        classes: names in the order of their numbers, or a text file with one a line, relative to
            ``data_root``.
        palette: (R, G, B) a class; drawn from a fixed sequence when None.
        others: of mmseg's BaseSegDataset: ``data_root``, ``data_prefix``, ``img_suffix``, ``seg_map_suffix``,
            ``ignore_index``, ``reduce_zero_label``.

    Raises:
        ValueError: no classes, or names that are there twice.
        FileNotFoundError: the text file does not exist.
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
                    f'{path} does not exist: it names the classes, one a line, in the order of their numbers'
                )
            classes = [line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(
                f'classes {list(classes)} of a SegmentationFolder: give one name a class, each once'
            )
        metainfo = {
            'classes': tuple(classes),
            'palette': palette or [list(class_colour(index)) for index in range(len(classes))],
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
