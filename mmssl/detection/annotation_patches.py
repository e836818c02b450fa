"""Patches of mmdet's readers of annotation files, which then check what they read.

Applied when :mod:`mmssl.detection` is imported; ``MMSSL_NO_PATCH=1`` leaves them out.
"""

import functools
import os
from collections import Counter

from mmdet.datasets import XMLDataset, xml_style
from mmdet.datasets.api_wrappers import COCO
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.evaluation import CocoMetric

from mmssl.detection.annotations import category_ids, check_xml_names, check_xml_objects, log
from mmssl.hosts.coco_files import check_evaluated_image, prepare_coco, read_json
from mmssl.hosts.coco_segments import check_segment
from mmssl.hosts.patches import patches_are_off
from mmssl.hosts.patching import listed

VERSIONS = 'mmdet 3.5.1 (OneDL)'


def apply() -> None:
    """Apply the patches of this module once, unless ``MMSSL_NO_PATCH=1`` is set."""
    if patches_are_off() or getattr(COCO, '_mmssl_patched', False):
        return
    COCO._mmssl_patched = True
    check_coco_files()
    number_coco_categories_by_class()
    check_xml_files()
    check_image_sizes()
    check_segmentations()
    check_evaluated_images()


@listed(
    reason='of two entries of a COCO file with the same id the last one is kept, NaN boxes are used, others '
    'are dropped silently, and missing keys fail without a name',
    versions=VERSIONS,
    until='mmdet refuses such files, and completes those whose defaults are clear',
)
def check_coco_files() -> None:
    """Check and complete every COCO file before it is indexed, for training and for CocoMetric."""
    original_init = COCO.__init__
    original_create_index = COCO.createIndex

    @functools.wraps(original_init)
    def init(self, annotation_file=None) -> None:
        self.file = annotation_file  # named in messages
        original_init(self)
        if annotation_file is not None:
            self.dataset = read_json(annotation_file)
            if not isinstance(self.dataset, dict):
                raise ValueError(f'{annotation_file} is not a COCO file: it contains no dict')
            self.createIndex()
            self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    @functools.wraps(original_create_index)
    def create_index(self) -> None:
        # captions and other files without categories are not of boxes
        if isinstance(self.dataset, dict) and 'annotations' in self.dataset and 'categories' in self.dataset:
            file = getattr(self, 'file', None) or 'annotation file'
            try:
                notes = prepare_coco(self.dataset)
            except ValueError as error:
                raise ValueError(f'{file}: {error}') from None
            for note in notes:
                log(f'{file}: {note}')
        original_create_index(self)

    COCO.__init__ = init
    COCO.createIndex = create_index


@listed(
    reason='classes get the labels of the file order instead of the order in the config',
    versions=VERSIONS,
    until='get_cat_ids returns ids in the order of cat_names',
)
def number_coco_categories_by_class() -> None:
    """Return category ids in the order of the requested names; the original returns them in file order."""
    original = COCO.get_cat_ids

    @functools.wraps(original)
    def get_cat_ids(self, cat_names=(), sup_names=(), cat_ids=()):
        by_name_only = cat_names and not isinstance(cat_names, str) and not sup_names and not cat_ids
        if type(self) is COCO and by_name_only:
            return category_ids(self, cat_names)
        return original(self, cat_names, sup_names, cat_ids)

    COCO.get_cat_ids = get_cat_ids


@listed(
    reason='objects of unknown names are dropped silently, boxes without area are used, errors name no file',
    versions=VERSIONS,
    until='XMLDataset reports these',
)
def check_xml_files() -> None:
    """Report objects of unknown names, leave out boxes without area, and name the file of an error."""
    original_load = XMLDataset.load_data_list
    original_parse = XMLDataset.parse_data_info
    original_parse_instances = XMLDataset._parse_instance_info
    original_list = xml_style.list_from_file

    def list_from_file(*args, **kwargs) -> list[str]:
        return [line.strip() for line in original_list(*args, **kwargs) if line.strip()]

    @functools.wraps(original_load)
    def load_data_list(self) -> list[dict]:
        self._object_counts = Counter()
        self._flat_boxes = self._boxes_beyond = 0
        data_list = original_load(self)
        check_xml_names(self._object_counts, self._metainfo['classes'], self.ann_file, self._flat_boxes)
        _log_boxes_beyond(self.ann_file, self._boxes_beyond)
        return data_list

    @functools.wraps(original_parse)
    def parse_data_info(self, img_info: dict) -> dict:
        path = img_info.get('xml_path')
        try:
            info = original_parse(self, img_info)
            self._boxes_beyond = getattr(self, '_boxes_beyond', 0) + _num_beyond(info)
            return info
        except FileNotFoundError as error:
            if path is None or os.path.exists(path):
                raise
            raise FileNotFoundError(
                f'{path} does not exist, but {self.ann_file} lists {img_info["img_id"]!r}; a line '
                'is the name of an image without its suffix'
            ) from error
        # invalid numbers, missing nodes, invalid XML or encodings
        except (ValueError, TypeError, AttributeError, OverflowError, SyntaxError, LookupError) as error:
            raise ValueError(f'{path}: {error}') from None

    @functools.wraps(original_parse_instances)
    def parse_instance_info(self, raw_ann_info, *args, **kwargs) -> list[dict]:
        check_xml_objects(raw_ann_info.getroot(), self._metainfo['classes'])
        if hasattr(self, '_object_counts'):
            self._object_counts.update(node.text for node in raw_ann_info.iterfind('object/name'))
        instances = original_parse_instances(self, raw_ann_info, *args, **kwargs)
        if self.test_mode:
            return instances
        solid = [instance for instance in instances if _has_area(*instance['bbox'])]
        self._flat_boxes = getattr(self, '_flat_boxes', 0) + len(instances) - len(solid)
        return solid

    xml_style.list_from_file = list_from_file
    XMLDataset.load_data_list = load_data_list
    XMLDataset.parse_data_info = parse_data_info
    XMLDataset._parse_instance_info = parse_instance_info


@listed(
    reason='boxes and masks of an image of another size than the annotations say are used as they are',
    versions=VERSIONS,
    until='LoadAnnotations compares the sizes',
)
def check_image_sizes() -> None:
    """Compare the size of each image with that in its annotations when these are loaded."""
    original = LoadAnnotations.transform

    @functools.wraps(original)
    def transform(self, results: dict) -> dict:
        stated = results.get('width'), results.get('height')
        shape = results.get('ori_shape')
        if shape is not None and all(stated) and tuple(stated) != (shape[1], shape[0]):
            raise ValueError(
                f'{results.get("img_path")} has {shape[1]}x{shape[0]} pixels, but its annotations are for '
                f'{stated[0]}x{stated[1]}; use the image that was annotated, or correct its size and boxes'
            )
        return original(self, results)

    LoadAnnotations.transform = transform


@listed(
    reason='run lengths of another size or of a wrong sum are decoded to wrong masks, or to several of an '
    'object; polygons that are no numbers end the process',
    versions=VERSIONS,
    until='LoadAnnotations checks segmentations',
)
def check_segmentations() -> None:
    """Check the segmentation of each object when masks are loaded."""
    original = LoadAnnotations._process_masks

    @functools.wraps(original)
    def process_masks(self, results: dict) -> list:
        for number, instance in enumerate(results.get('instances', []), 1):
            try:
                check_segment(instance.get('mask'), results['ori_shape'])
            except ValueError as error:
                raise ValueError(f'{results.get("img_path")}: object {number} has {error}') from None
        return original(self, results)

    LoadAnnotations._process_masks = process_masks


@listed(
    reason='CocoMetric compares the boxes of an image with those of another one that has its id in ann_file',
    versions=VERSIONS,
    until='CocoMetric compares the names of the files',
)
def check_evaluated_images() -> None:
    """Check that the images of a test are those of the metric's annotation file."""
    original = CocoMetric.process

    @functools.wraps(original)
    def process(self, data_batch: dict, data_samples) -> None:
        images = getattr(getattr(self, '_coco_api', None), 'imgs', None)
        for sample in data_samples if images else ():
            check_evaluated_image(sample, images or {}, getattr(self._coco_api, 'file', None) or 'ann_file')
        original(self, data_batch, data_samples)

    CocoMetric.process = process


def _log_boxes_beyond(file: str, number: int) -> None:
    if number:
        log(f'{file}: {number} boxes reach beyond their image; they are xmin, ymin, xmax, ymax in pixels')


def _num_beyond(info) -> int:
    """Number of boxes that reach more than a pixel beyond their image; 0 where its size is unknown."""
    if not isinstance(info, dict) or not info.get('width') or not info.get('height'):
        return 0
    limits = (info['width'] + 1, info['height'] + 1)
    boxes = [instance['bbox'] for instance in info.get('instances', ())]
    return sum(min(box[:2]) < -2 or box[2] > limits[0] or box[3] > limits[1] for box in boxes)


def _has_area(x1: float, y1: float, x2: float, y2: float) -> bool:
    return x2 > x1 and y2 > y1
