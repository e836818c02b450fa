"""Errors and warnings about a whole data set."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmssl.data.bad_files import BadFiles
from mmssl.data.checks.bands import band_warnings, merge_bands
from mmssl.data.checks.inspector import DatasetInspector
from mmssl.data.checks.records import COUNTED, ImageRecord, abbreviated
from mmssl.data.label_values import missing_beside_ignored


class Findings:
    """Results of the checks of a data set.

    Args:
        inspector: The inspector of the data set.
        records: Records of all of its images, or of a sample of them.

    Attributes:
        errors: Problems that would break training or invalidate its figures.
        warnings: Problems that would not stop training.
        unreadable: Records of the images that cannot be read.
        counts: Label -> number of objects, pixels or images with it.
        unlabeled: Number of images without labels.
        ignored: Number of pixels without a class.
        bands: Counts of the values of each channel; None if images differ in channels, or have no range.
        sizes: (N, 2) widths and heights, sorted by area.
    """

    def __init__(self, inspector: DatasetInspector, records: Sequence[ImageRecord]):
        self.inspector = inspector
        self.records = records
        self.unreadable = [record for record in records if record.reason]
        self.counts: Counter[int] = Counter()
        for record in records:
            self.counts.update(record.counts)
        self.ignored = sum(record.ignored for record in records)
        self.unlabeled = sum(record.objects == 0 for record in records)
        sizes = np.array([record.size for record in records if record.size]).reshape(-1, 2)
        self.sizes = sizes[np.argsort(sizes.prod(1), kind='stable')]
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._add_file_errors()
        self.errors += _grouped(
            [(text, record.path) for record in records for text in dict.fromkeys(record.errors)]
        )
        self._add_class_errors()
        self.warnings += _grouped(
            [(text, record.path) for record in records for text in dict.fromkeys(record.warnings)]
        )
        self._add_missing_labels()
        self._add_duplicates()
        self.bands = merge_bands(record.bands for record in records if record.size)
        if self.bands is not None:
            self.warnings += band_warnings(self.bands)

    def _add_file_errors(self) -> None:
        if not self.records:
            self.errors.append('the data set is empty: it has no images, or none with objects')
        if not self.unreadable:
            return
        bad_files = getattr(self.inspector.dataset, 'bad_files', None)
        allowed = bad_files.allowed(len(self.inspector)) if isinstance(bad_files, BadFiles) else 0
        count = len(self.unreadable)
        text = f'{count} of {len(self.records)} images cannot be read'
        if count > allowed or count == len(self.records):
            limit = f', {allowed} are allowed' if allowed else ''
            self.errors.append(f'{text}{limit}; repair or remove them')
        else:
            self.warnings.append(f'{text}; they are skipped, as up to {allowed} may be')

    def _add_class_errors(self) -> None:
        inspector = self.inspector
        classes = inspector.classes
        if not classes or inspector.label_type in ('masks', 'none'):
            return
        for name, head in inspector.heads:
            if 1 < head['num_classes'] != len(classes):
                self.errors.append(
                    f'{name} predicts {head["num_classes"]} classes, but the data has {len(classes)} '
                    f'({abbreviated(classes, 5)}); set model.{name}.num_classes={len(classes)}, '
                    'or use the data it was made for'
                )
        categories = getattr(inspector.dataset, 'cat_ids', None)
        if categories is not None and len(categories) != len(classes):
            self.errors.append(
                f'the annotation file has {len(categories)} of the {len(classes)} classes; set '
                'metainfo=dict(classes=...) of the data set to the names of its categories'
            )
        beside_ignored = missing_beside_ignored(classes, self.counts, self.ignored, inspector.ignore_index)
        if beside_ignored:
            # a sample of the images may lack a class
            whole = len(self.records) == len(inspector)
            (self.errors if whole else self.warnings).append(beside_ignored)
            return
        absent = [name for label, name in enumerate(classes) if not self.counts.get(label)]
        if absent and self.records:
            counted = COUNTED[inspector.label_type]
            self.warnings.append(f'{len(absent)} classes without {counted}: {abbreviated(absent, 8)}')

    def _add_missing_labels(self) -> None:
        inspector = self.inspector
        if self.unlabeled and inspector.label_type == 'pixels':
            self.warnings.append(f'{self.unlabeled} label maps with ignored pixels only')
        elif self.unlabeled:
            self.warnings.append(f'{self.unlabeled} images without {COUNTED[inspector.label_type]}')
        if inspector.filtered:
            self.warnings.append(
                f'{inspector.filtered} images are left out by the data set '
                '(filter_cfg, or nothing to learn from)'
            )

    def _add_duplicates(self) -> None:
        paths = [record.path for record in self.records]
        image_ids = [entry['img_id'] for entry in self.inspector.entries if 'img_id' in entry]
        for name, values in (('paths', paths), ('image ids', image_ids)):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                self.warnings.append(f'{len(repeated)} {name} more than once: {abbreviated(repeated)}')
        digests = Counter(record.digest for record in self.records if record.digest)
        copies = [record.path for record in self.records if digests.get(record.digest, 0) > 1]
        if copies:
            self.warnings.append(f'{len(copies)} files have the same bytes as another: {abbreviated(copies)}')


def _grouped(problems: Sequence[tuple[str, str]]) -> list[str]:
    """Merge equal texts of (text, path) pairs into one line each, the most frequent first."""
    paths_of: dict[str, list[str]] = {}
    for text, path in problems:
        paths_of.setdefault(text, []).append(path)
    lines = []
    for text, paths in sorted(paths_of.items(), key=lambda item: -len(item[1])):
        lines.append(f'{text}: {abbreviated(paths)}' + (f' ({len(paths)} images)' if len(paths) > 1 else ''))
    return lines
