"""Labels of images in the formats of labelling tools and public datasets.

:func:`read_labels` looks at a folder and returns a :class:`LabelSet`, :func:`split_labels` splits it,
:func:`write_coco`, :func:`write_segmentation` and :func:`write_class_list` write what the toolboxes' datasets
read, and :func:`write_labels` writes any format.
"""

from mmssl.data.label_formats.convert import (
    label_map_of,
    map_classes,
    save_png,
    write_class_list,
    write_coco,
    write_segmentation,
)
from mmssl.data.label_formats.describe import class_counts, describe
from mmssl.data.label_formats.find import FORMATS, read_labels
from mmssl.data.label_formats.records import TASKS, ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.split import Split, split_labels
from mmssl.data.label_formats.write import (
    WRITABLE,
    check_class_names,
    class_palette,
    losses,
    write_class_table,
    write_labels,
)

__all__ = [
    'FORMATS',
    'TASKS',
    'WRITABLE',
    'ImageLabels',
    'LabelSet',
    'ObjectLabel',
    'Split',
    'check_class_names',
    'class_counts',
    'class_palette',
    'describe',
    'label_map_of',
    'losses',
    'map_classes',
    'read_labels',
    'save_png',
    'split_labels',
    'write_class_list',
    'write_class_table',
    'write_coco',
    'write_labels',
    'write_segmentation',
]
