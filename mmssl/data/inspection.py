"""What a data set holds and what of it would break a training, found out image by image before the first step.

The labels are read by the data set's own class and, for label maps, by the config's own loading transform, so
that they are those that the loss will see.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmssl.data.bad_files import BadFiles
from mmssl.data.images import BadImageError, decode, open_image

# as mmssl.engine.sanity looks for them in a built model
HEADS = ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')
UNITS = {'objects': 'objects', 'masks': 'masks', 'pixels': 'pixels', 'images': 'images', 'none': ''}


class Record(NamedTuple):
    """What was found out about one image.

    ``size`` is (width, height), None where the file cannot be read, for ``reason``; ``counts`` are labels
    with objects, pixels or images each; ``objects`` is None where there are none to count; ``wrong`` and
    ``odd`` are complaints, which break a training or do not.
    """

    path: str
    size: tuple[int, int] | None = None
    reason: str = ''
    counts: dict = {}
    objects: int | None = None
    wrong: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    digest: str = ''


def leaves(settings: Mapping) -> Iterator[Mapping]:
    """The data sets inside of wrappers, as dicts of a config."""
    inner = settings.get('datasets') or settings.get('dataset')
    if not inner:
        yield settings
    for part in inner if isinstance(inner, (list, tuple)) else [inner] if inner else []:
        yield from leaves(part)


def head_settings(model, name: str = '') -> Iterator[tuple[str, Mapping]]:
    """(path, dict) of the heads in a model's config that say how many classes they predict."""
    if isinstance(model, Mapping):
        if name.rpartition('.')[2] in HEADS and isinstance(model.get('num_classes'), int):
            yield name, model
        for key, value in model.items():
            yield from head_settings(value, f'{name}.{key}' if name else str(key))
    elif isinstance(model, (list, tuple)):
        for value in model:
            yield from head_settings(value, name)


class Inspector:
    """One data set of a config; calling it with a number looks at that image.

    Args:
        settings: of the data set, without wrappers; the default scope is set.
        model: the config of the model, for the classes of its heads.

    Attributes:
        entries: those that are trained on.
        left_out: how many the data set's filter drops.
        kind: a key of ``UNITS``.
    """

    def __init__(self, settings: Mapping, model: Mapping):
        from mmengine.registry import DATASETS

        settings = dict(settings)
        self.dataset = DATASETS.build({**settings, 'lazy_init': True})
        every = self.dataset.load_data_list()
        self.dataset.data_list = every
        self.entries = self.dataset.filter_data()
        self.left_out = len(every) - len(self.entries)
        if getattr(self.dataset, '_indices', None) is not None:
            self.dataset.data_list = self.entries
            self.entries = self.dataset._get_unserialized_subset(self.dataset._indices)
        # get_data_info of some data sets makes paths and labels whole
        self.dataset.data_list, self.dataset.serialize_data, self.dataset._fully_initialized = (
            self.entries,
            False,
            True,
        )
        self.classes = tuple(self.dataset.metainfo.get('classes') or ())
        self.palette = self.dataset.metainfo.get('palette')
        self.heads = list(head_settings(model))
        self.kind = self._kind()
        self._load_labels = self._label_loader(settings) if self.kind == 'pixels' else None
        heads = dict(self.heads)
        decode_head = heads.get('decode_head', {})
        self.ignored = decode_head.get(
            'ignore_index', 255 if decode_head else getattr(self.dataset, 'ignore_index', 255)
        )
        self.num_classes = self._num_classes()

    def __len__(self) -> int:
        return len(self.entries)

    def info(self, index: int) -> dict:
        """The entry of an image, as the pipeline would get it."""
        return self.dataset.get_data_info(index)

    def _kind(self) -> str:
        info = self.info(0) if self.entries else {}
        if callable(info.get('read_masks')):
            return 'masks'
        if 'instances' in info:
            return 'objects'
        if info.get('seg_map_path'):
            return 'pixels'
        return 'images' if info.get('gt_label') is not None else 'none'

    def _label_loader(self, settings: Mapping):
        from mmengine.registry import TRANSFORMS

        steps = [
            step
            for step in settings.get('pipeline', ())
            if str(step.get('type', '')).endswith('LoadAnnotations')
        ]
        return TRANSFORMS.build(steps[0] if steps else dict(type='LoadAnnotations'))

    def _num_classes(self) -> int | None:
        """How many labels there may be: of the head that reads them, or of the data set."""
        wanted = {'pixels': 'decode_head', 'objects': 'bbox_head', 'images': 'head'}.get(self.kind)
        counts = [head['num_classes'] for name, head in self.heads if name.rpartition('.')[2] == wanted]
        if counts and (counts[0] > 1 or self.kind == 'pixels'):
            return max(counts[0], 2)
        return len(self.classes) or None

    def __call__(self, index: int) -> Record:
        info = self.info(index)
        path = info.get('img_path')
        if path is None:  # pixels in memory, as CIFAR's
            pixels = np.asarray(info.get('img'))
            return self._labelled(Record(f'image {index}', (pixels.shape[1], pixels.shape[0])), info)
        try:
            image = open_image(path)
            decode(image)
        except BadImageError as error:
            return Record(path, reason=error.reason)
        except FileNotFoundError:
            return Record(path, reason='does not exist')
        except OSError as error:
            return Record(path, reason=error.strerror or str(error))
        digest = hashlib.blake2b(image.data, digest_size=12).hexdigest()
        return self._labelled(Record(path, (image.width, image.height), digest=digest), info)

    def _labelled(self, record: Record, info: dict) -> Record:
        if self.kind == 'none':
            return record
        try:
            return getattr(self, f'_{self.kind}')(record, info)
        except Exception as error:  # a host's reader stumbles over a damaged label file in many ways
            text = str(error) or type(error).__name__
            return record._replace(wrong=(*record.wrong, f'labels cannot be read: {text.splitlines()[0]}'))

    def _images(self, record: Record, info: dict) -> Record:
        labels = [int(label) for label in np.atleast_1d(info['gt_label'])]
        return record._replace(counts=dict(Counter(labels)), wrong=self._out_of_range(labels))

    def _objects(self, record: Record, info: dict) -> Record:
        instances = [entry for entry in info['instances'] if not entry.get('ignore_flag')]
        labels = [int(entry['bbox_label']) for entry in instances]
        odd, wrong = [], list(self._out_of_range(labels))
        assert record.size is not None
        width, height = record.size
        stated = info.get('width'), info.get('height')
        if None not in stated and stated != record.size:
            odd.append(f'the annotations say {stated[0]}x{stated[1]}, the file is {width}x{height}')
        for entry in instances:
            left, top, right, bottom = map(float, entry['bbox'])
            if not all(map(math.isfinite, (left, top, right, bottom))):
                wrong.append(f'box {entry["bbox"]} is not finite')
            elif right <= left or bottom <= top:
                odd.append('box without area')
            elif left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
                odd.append('box beyond the image')
        if info.get('xml_path'):
            names = {
                element.text or '' for element in ElementTree.parse(info['xml_path']).iterfind('object/name')
            }
            odd += [
                f'objects named {name!r}, which is no class' for name in sorted(names - set(self.classes))
            ]
        return record._replace(
            counts=dict(Counter(labels)), objects=len(labels), odd=tuple(odd), wrong=tuple(wrong)
        )

    def _masks(self, record: Record, info: dict) -> Record:
        assert record.size is not None
        masks = info['read_masks'](info)
        wrong = (
            ()
            if masks.shape[1:] == record.size[::-1]
            else (
                f'masks of {masks.shape[2]}x{masks.shape[1]} for an image of {record.size[0]}x{record.size[1]}',
            )
        )
        odd = tuple('mask without pixels' for mask in masks if not mask.any())
        return record._replace(objects=len(masks), wrong=wrong, odd=odd)

    def label_map(self, info: dict) -> np.ndarray:
        """(H, W) classes as the loss sees them; for ``kind`` 'pixels'."""
        assert self._load_labels is not None
        return self._load_labels({**info, 'seg_fields': []})['gt_seg_map']

    def _pixels(self, record: Record, info: dict) -> Record:
        assert record.size is not None
        try:
            labels = self.label_map(info)
        except FileNotFoundError:
            return record._replace(wrong=(f'label map {info["seg_map_path"]} does not exist',))
        with Image.open(info['seg_map_path']) as picture:
            if picture.mode.startswith('I') and picture.getextrema()[1] > 255:
                return record._replace(
                    wrong=('label map of 16 bits with values above 255, which the loader cuts to 8 bits',)
                )
        if labels.ndim != 2:
            return record._replace(
                wrong=(f'label map of {labels.shape[2]} channels; one number a pixel is needed',)
            )
        if labels.shape != record.size[::-1]:
            return record._replace(
                wrong=(
                    f'label map of {labels.shape[1]}x{labels.shape[0]} for an image of '
                    f'{record.size[0]}x{record.size[1]}',
                )
            )
        values, counts = np.unique(labels, return_counts=True)
        counted = {
            int(value): int(count)
            for value, count in zip(values, counts, strict=True)
            if value != self.ignored
        }
        known = {
            value: count for value, count in counted.items() if 0 <= value < (self.num_classes or math.inf)
        }
        return record._replace(counts=known, objects=len(known), wrong=self._out_of_range(counted))

    def _out_of_range(self, labels) -> tuple[str, ...]:
        wrong = sorted({label for label in labels if not 0 <= label < (self.num_classes or math.inf)})
        if self.num_classes is None:
            return tuple(f'label {label} is below 0' for label in wrong)
        ignored = f', nor the ignored {self.ignored}' if self.kind == 'pixels' else ''
        return tuple(
            f'label {label} is none of the {self.num_classes} classes, 0 to {self.num_classes - 1}{ignored}'
            for label in wrong
        )


class Findings:
    """All records of a data set together.

    Args:
        inspector: of the data set.
        records: of its images, or of some of them.

    Attributes:
        errors: what would break a training, or make its numbers wrong.
        warnings: what it would go on with.
    """

    def __init__(self, inspector: Inspector, records: Sequence[Record]):
        self.inspector, self.records = inspector, records
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.bad = [record for record in records if record.reason]
        self.counts: Counter[int] = Counter()
        for record in records:
            self.counts.update(record.counts)
        self.empty = sum(record.objects == 0 for record in records)
        sizes = np.array([record.size for record in records if record.size]).reshape(-1, 2)
        self.sizes = sizes[np.argsort(sizes.prod(1), kind='stable')]
        self._judge()

    def _judge(self) -> None:
        inspector = self.inspector
        if not self.records:
            self.errors.append('the data set is empty: no image, or none with objects, is left of it')
        self._judge_bad_files()
        self._collect('wrong', self.errors)
        self._judge_classes()
        self._collect('odd', self.warnings)
        if self.empty and inspector.kind != 'pixels':
            self.warnings.append(f'{self.empty} images without {UNITS[inspector.kind]}')
        elif self.empty:
            self.warnings.append(f'{self.empty} label maps of ignored pixels alone')
        if inspector.left_out:
            self.warnings.append(
                f'{inspector.left_out} images are left out by the data set (filter_cfg, or nothing to learn from)'
            )
        for what, values in (
            ('paths', [record.path for record in self.records]),
            ('image ids', [entry['img_id'] for entry in inspector.entries if 'img_id' in entry]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                self.warnings.append(f'{len(twice)} {what} more than once: {_some(twice)}')
        same = Counter(record.digest for record in self.records if record.digest)
        copies = [record.path for record in self.records if same.get(record.digest, 0) > 1]
        if copies:
            self.warnings.append(f'{len(copies)} files have the very bytes of another: {_some(copies)}')

    def _judge_bad_files(self) -> None:
        if not self.bad:
            return
        account = getattr(self.inspector.dataset, 'bad_files', None)
        allowed = account.allowed(len(self.inspector)) if isinstance(account, BadFiles) else 0
        text = f'{len(self.bad)} of {len(self.records)} images cannot be read'
        if len(self.bad) > allowed or len(self.bad) == len(self.records):
            self.errors.append(
                text + (f', {allowed} are allowed' if allowed else '') + '; mend or remove them'
            )
        else:
            self.warnings.append(f'{text}; they are skipped, as up to {allowed} may be')

    def _collect(self, field: str, into: list[str]) -> None:
        """Complaints of all images, alike ones together."""
        met: dict[str, list[str]] = {}
        for record in self.records:
            for text in dict.fromkeys(getattr(record, field)):
                met.setdefault(text, []).append(record.path)
        for text, paths in sorted(met.items(), key=lambda pair: -len(pair[1])):
            into.append(f'{text}: {_some(paths)}' + (f' ({len(paths)} images)' if len(paths) > 1 else ''))

    def _judge_classes(self) -> None:
        inspector = self.inspector
        classes = inspector.classes
        if not classes or inspector.kind in ('masks', 'none'):
            return
        for name, head in inspector.heads:
            if 1 < head['num_classes'] != len(classes):
                self.errors.append(
                    f'{name} predicts {head["num_classes"]} classes, but the data has {len(classes)} '
                    f'({_some(classes, 5)}); set model.{name}.num_classes={len(classes)}, or give the data it was made for'
                )
        categories = getattr(inspector.dataset, 'cat_ids', None)
        if categories is not None and len(categories) != len(classes):
            self.errors.append(
                f'the annotation file has {len(categories)} of the {len(classes)} classes; set metainfo=dict(classes=...) '
                'of the data set to the names of its categories'
            )
        absent = [name for number, name in enumerate(classes) if not self.counts.get(number)]
        if absent and self.records:
            self.warnings.append(f'{len(absent)} classes without {UNITS[inspector.kind]}: {_some(absent, 8)}')


def coco_complaints(path: str, kept: int | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings of a COCO file itself, all of them, whether or not a data set can be made of it.

    Args:
        path: of the JSON file; one of another kind has none.
        kept: number of images that the data set made of it, where it leaves out some and does not count them.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except FileNotFoundError:
        return [], []  # the data set says so
    except ValueError as error:
        return [f'{path} is no valid JSON: {error}'], []
    if not isinstance(content, dict) or 'images' not in content or 'annotations' not in content:
        return [], []
    errors, warnings = [], []
    for what in ('images', 'annotations', 'categories'):
        twice = [
            number
            for number, count in Counter(entry.get('id') for entry in content.get(what) or []).items()
            if count > 1
        ]
        if twice:
            errors.append(f'{len(twice)} ids of {what} more than once: {_some(twice)}')
    images = {image.get('id') for image in content['images']}
    categories = {category.get('id') for category in content.get('categories') or []}
    orphans = [entry.get('id') for entry in content['annotations'] if entry.get('image_id') not in images]
    if orphans:
        errors.append(f'{len(orphans)} annotations are of images that are not listed: {_some(orphans)}')
    unknown = [
        entry.get('id')
        for entry in content['annotations']
        if categories and entry.get('category_id') not in categories
    ]
    if unknown:
        errors.append(f'{len(unknown)} annotations are of categories that are not listed: {_some(unknown)}')
    if kept is not None and kept < len(images):
        warnings.append(
            f'{len(images) - kept} of {len(images)} images are left out: nothing to learn from in their annotations'
        )
    flat = [
        entry.get('id')
        for entry in content['annotations']
        if len(entry.get('bbox') or ()) == 4 and not min(entry['bbox'][2:]) > 0
    ]
    if flat:
        warnings.append(f'{len(flat)} boxes without area are left out: annotations {_some(flat)}')
    return errors, warnings


def _some(values, most: int = 3) -> str:
    values = list(values)
    return ', '.join(map(str, values[:most])) + (', ...' if len(values) > most else '')
