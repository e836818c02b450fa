"""What a folder of labels holds, in three lines."""

from collections import Counter

from mmssl.data.label_formats.records import LabelSet

TITLES = {
    'coco': 'COCO',
    'voc': 'PASCAL VOC',
    'yolo': 'YOLO',
    'png': 'label maps',
    'classes': 'class folders',
    'csv': 'CSV',
    'labelme': 'labelme',
    'cvat': 'CVAT',
    'label-studio': 'Label Studio',
}
MAX_NAMES = 8


def describe(labels: LabelSet) -> str:
    """Return three lines: format and files, images and classes, labels; then a line for each note."""
    lines = [
        f'{labels.root}: {TITLES[labels.format]} ({_listed(labels.sources, 3)})',
        f'{_count(len(labels), "image")}{_splits(labels)}, '
        f'{_count(len(labels.classes), "class", "classes")}: {_listed(labels.classes)}',
        _content(labels),
    ]
    return '\n'.join([*lines, *(f'note: {note}' for note in labels.notes)])


def class_counts(labels: LabelSet) -> dict[str, int]:
    """Return the number of objects, or of images, of each class."""
    counts: Counter[int] = Counter(each.label for image in labels.images for each in image.objects)
    counts.update(image.label for image in labels.images if image.label is not None)
    return {name: counts[index] for index, name in enumerate(labels.classes)}


def _content(labels: LabelSet) -> str:
    if labels.format == 'png':
        ignored = [key for key, label in labels.label_map.items() if label is None]
        values = _listed([str(key) for key in ignored], 4) if ignored else 'no value'
        return f'a label map for each image; {values} ignored'
    counts = class_counts(labels)
    per_class = _listed([f'{name} {count}' for name, count in counts.items()])
    if labels.num_objects:
        empty = sum(not image.objects for image in labels.images)
        masks = f' ({labels.num_masks} with outlines or masks)' if labels.num_masks else ''
        without = f'; {_count(empty, "image")} without objects' if empty else ''
        return f'{_count(labels.num_objects, "object")}{masks}: {per_class}{without}'
    if any(image.label is not None for image in labels.images):
        return f'a class for each image: {per_class}'
    return 'no object in any image'


def _splits(labels: LabelSet) -> str:
    counts = Counter(image.split for image in labels.images)
    if not labels.splits:
        return ''
    return f' ({", ".join(f"{split} {counts[split]}" for split in labels.splits)})'


def _listed(names: list[str], limit: int = MAX_NAMES) -> str:
    return ', '.join(names[:limit]) + (f', ... {len(names) - limit} more' if len(names) > limit else '')


def _count(number: int, name: str, plural: str | None = None) -> str:
    return f'{number:,} {name if number == 1 else plural or name + "s"}'
