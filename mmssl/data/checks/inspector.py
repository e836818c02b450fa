"""Reading the images and labels of a data set, one by one, as training will read them."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from mmssl.data.checks.bands import count_bands
from mmssl.data.checks.labels import (
    LabelRange,
    check_boxes,
    check_image_labels,
    check_label_map,
    check_masks,
)
from mmssl.data.checks.records import ImageRecord
from mmssl.data.checks.settings import head_settings
from mmssl.data.label_values import LABEL_LOADERS
from mmssl.data.reader import ImageReader, ValuesImage, decode_pixels
from mmssl.data.reader_settings import settings_of_pipeline
from mmssl.errors import BadImageError

# the head that reads each type of label
HEAD_OF_LABELS = {'pixels': 'decode_head', 'objects': 'bbox_head', 'images': 'head'}


class DatasetInspector:
    """One data set of a config; calling it with an index checks that image.

    Args:
        settings: Settings of the data set, without wrappers; the default scope must be set.
        model: Settings of the model, which state the number of classes.

    Attributes:
        entries: Entries that remain for training.
        filtered: Number of entries that the data set's filter removes.
        reading: Settings of the loader transform for images that are not 8-bit RGB.
        label_type: A key of :data:`mmssl.data.checks.records.COUNTED`.
    """

    def __init__(self, settings: Mapping, model: Mapping):
        from mmengine.registry import DATASETS

        settings = dict(settings)
        self.reading = settings_of_pipeline(settings.get('pipeline') or ())
        self.reader = ImageReader(**self.reading)
        self.dataset = DATASETS.build({**settings, 'lazy_init': True})
        self._load_entries()
        self.classes = tuple(self.dataset.metainfo.get('classes') or ())
        self.palette = self.dataset.metainfo.get('palette')
        self.heads = list(head_settings(model))
        self.label_type = self._label_type()
        self.reads_masks = any(step.get('with_mask') for step in settings.get('pipeline') or ())
        self._load_label_map = _label_map_loader(settings) if self.label_type == 'pixels' else None
        self.ignore_index = self._ignore_index()
        self.valid_labels = LabelRange(
            self._num_classes(), self.ignore_index if self.label_type == 'pixels' else None
        )

    def __len__(self) -> int:
        return len(self.entries)

    def info(self, index: int) -> dict:
        """Return the entry of an image as the pipeline would get it."""
        return self.dataset.get_data_info(index)

    def label_map(self, info: dict) -> np.ndarray:
        """Load the (H, W) label map of an entry as the loss sees it; only for label type 'pixels'."""
        assert self._load_label_map is not None
        return self._load_label_map({**info, 'seg_fields': []})['gt_seg_map']

    def __call__(self, index: int) -> ImageRecord:
        info = self.info(index)
        path = info.get('img_path')
        if path is None:  # pixels in memory, as CIFAR's
            pixels = np.asarray(info.get('img'))
            return self._check_labels(ImageRecord(f'image {index}', (pixels.shape[1], pixels.shape[0])), info)
        try:
            image = self.reader.open(path, info.get('page'))
            pixels = decode_pixels(image)
        except BadImageError as error:
            return ImageRecord(path, reason=error.reason)
        except FileNotFoundError:
            return ImageRecord(path, reason='does not exist')
        except OSError as error:
            return ImageRecord(path, reason=error.strerror or str(error))
        digest = hashlib.blake2b(image.data, digest_size=12).hexdigest()
        bands = count_bands(
            pixels[..., ::-1] if pixels.shape[2] == 3 else pixels,  # BGR
            self.reader.value_range,
            image.no_data if isinstance(image, ValuesImage) else None,
        )
        record = ImageRecord(path, (image.width, image.height), digest=digest, bands=bands)
        return self._check_labels(record, info)

    def _load_entries(self) -> None:
        dataset = self.dataset
        dataset.data_list = dataset.load_data_list()
        self.entries = dataset.filter_data()
        self.filtered = len(dataset.data_list) - len(self.entries)
        if getattr(dataset, '_indices', None) is not None:
            dataset.data_list = self.entries
            self.entries = dataset._get_unserialized_subset(dataset._indices)
        # get_data_info of some data sets completes paths and labels, so it must work without full_init
        dataset.data_list = self.entries
        dataset.serialize_data = False
        dataset._fully_initialized = True

    def _label_type(self) -> str:
        info = self.info(0) if self.entries else {}
        if callable(info.get('read_masks')):
            return 'masks'
        if 'instances' in info:
            return 'objects'
        if info.get('seg_map_path'):
            return 'pixels'
        return 'images' if info.get('gt_label') is not None else 'none'

    def _ignore_index(self) -> int:
        decode_head = dict(self.heads).get('decode_head', {})
        default = 255 if decode_head else getattr(self.dataset, 'ignore_index', 255)
        return decode_head.get('ignore_index', default)

    def _num_classes(self) -> int | None:
        """Return the number of classes of the head that reads the labels, or else of the data set."""
        head_name = HEAD_OF_LABELS.get(self.label_type)
        counts = [head['num_classes'] for name, head in self.heads if name.rpartition('.')[2] == head_name]
        if counts and (counts[0] > 1 or self.label_type == 'pixels'):
            return max(counts[0], 2)
        return len(self.classes) or None

    def _check_labels(self, record: ImageRecord, info: dict) -> ImageRecord:
        try:
            if self.label_type == 'images':
                return check_image_labels(record, info, self.valid_labels)
            if self.label_type == 'objects':
                return check_boxes(record, info, self.valid_labels, self.classes, self.reads_masks)
            if self.label_type == 'masks':
                return check_masks(record, info)
            if self.label_type == 'pixels':
                return self._check_label_map(record, info)
        except Exception as error:  # readers of the toolboxes fail on damaged label files in many ways
            text = str(error) or type(error).__name__
            return record._replace(errors=(*record.errors, f'labels cannot be read: {text.splitlines()[0]}'))
        return record

    def _check_label_map(self, record: ImageRecord, info: dict) -> ImageRecord:
        path = info['seg_map_path']
        try:
            labels = self.label_map(info)
        except FileNotFoundError:
            return record._replace(errors=(f'label map {path} does not exist',))
        return check_label_map(record, path, labels, self.valid_labels)


def _label_map_loader(settings: Mapping) -> Callable[[dict], dict]:
    """Build the transform of the config's pipeline that loads label maps, or mmseg's default."""
    from mmengine.registry import TRANSFORMS

    loaders = [
        transform
        for transform in settings.get('pipeline', ())
        if str(transform.get('type', '')).endswith(LABEL_LOADERS)
    ]
    return TRANSFORMS.build(loaders[0] if loaders else dict(type='LoadAnnotations'))
