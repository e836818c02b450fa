"""YOLO's text file for each image, with boxes or outlines as fractions of its size, and ``data.yaml``."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, read_names, read_text
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet
from mmssl.data.label_formats.shapes import largest_outline, neighbours, polygons_box, shortest, written
from mmssl.data.label_formats.yolo_yaml import find_yaml, images_of_splits, yaml_classes
from mmssl.errors import LabelError

NAME_FILES = ('classes.txt', 'obj.names', 'class.names', 'classes.names', 'coco.names', 'labels.txt')
# digits that converters usually write
USUAL_DIGITS = 6
# error of a position in pixels that is computed from fractions with all digits
MIN_TOLERANCE = 1e-9
# how far outside 0 to 1 a coordinate may lie of an object that reaches over the border; pixels lie further
SLACK = 0.5
# folders that stand for each other in the paths of images and labels
_PARALLEL = ('images', 'labels', 'image', 'label', 'img', 'txt', 'annotations', 'jpegimages')


def is_label_file(path: str) -> bool:
    """Whether the first line of a text file is a label of YOLO's."""
    data = Path(path).read_bytes()
    encoding = 'utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig'
    for line in data.decode(encoding, errors='replace').splitlines():
        fields = line.split()
        if fields and fields[0][0] != '#':
            numbers = _numbers(fields)
            return numbers is not None and len(numbers) >= 5 and numbers[0].is_integer() and numbers[0] >= 0
    return False


def read(
    folder: LabelFolder, sizes: Mapping[str, tuple[int, int]] | None = None, need_images: bool = True
) -> LabelSet:
    """Read a YOLO folder.

    An image without a text file, or with an empty one, has no objects.

    Args:
        folder: The files.
        sizes: (width, height) by the name of an image without its suffix, for labels without images.
        need_images: False reads the text files of images that are not there, too.

    Raises:
        LabelError: ``data.yaml`` or a line cannot be read, a folder of it does not exist, or a class has no
            name.
    """
    data_yaml = find_yaml(folder)
    builder = LabelSetBuilder(folder, 'yolo', [], need_images)
    builder.lists_classes = True
    label_files = _label_files(folder)
    builder.classes = _classes(folder, data_yaml, label_files, builder)
    count = len(label_files)
    builder.sources.append(f'{count} text file{"s" if count > 1 else ""}')
    if need_images:
        _read_images(builder, data_yaml, label_files)
    else:
        _read_texts(builder, label_files, sizes or {})
    return builder.build()


def _read_images(
    builder: LabelSetBuilder, data_yaml: tuple[str, dict] | None, label_files: Sequence[str]
) -> None:
    folder = builder.folder
    by_stem = _by_stem(folder, label_files)
    used: dict[str, str] = {}
    for path, split in images_of_splits(folder, data_yaml, builder).items():
        image = builder.add_image(path, path, split=split)
        assert image is not None
        label_file = _label_file(folder, path, by_stem)
        if label_file:
            if used.setdefault(label_file, path) != path:
                raise LabelError(
                    f'belongs to {folder.below(used[label_file])} and to {folder.below(path)}; give each '
                    'image its own',
                    label_file,
                )
            image.source = label_file
            _read_lines(builder, image)
    without = [file for file in label_files if file not in used]
    if data_yaml is None:
        builder.missing += [folder.below(file) for file in without]
    if not used:
        raise LabelError(
            f'none of the {len(label_files)} text files belongs to an image; a text file has the name of its '
            'image',
            folder.root,
        )


def _read_texts(
    builder: LabelSetBuilder, label_files: Sequence[str], sizes: Mapping[str, tuple[int, int]]
) -> None:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in sizes:
        by_stem[PurePosixPath(name).name].append(name)
    for file in label_files:
        parts = PurePosixPath(builder.folder.below(file)).with_suffix('').parts
        names = ['/'.join(parts[start:]) for start in range(len(parts))]
        candidates = [each for each in names if each in sizes] or by_stem.get(parts[-1], [])
        name = candidates[0] if candidates and (candidates[0] in names or len(candidates) == 1) else names[-1]
        image = builder.add_image(name, file, sizes.get(name), near=os.path.dirname(file))
        if image is not None:
            _read_lines(builder, image)


def _label_files(folder: LabelFolder) -> list[str]:
    names = {*NAME_FILES, 'train.txt', 'val.txt', 'test.txt', 'readme.txt', 'readme.dataset.txt'}
    names |= {'readme.roboflow.txt', 'requirements.txt', 'notes.txt'}
    texts = [file for file in folder.with_suffix('.txt') if os.path.basename(file).lower() not in names]
    stems = {os.path.splitext(os.path.basename(path))[0] for path in folder.images}
    return [
        file
        for file in texts
        if os.path.splitext(os.path.basename(file))[0] in stems  # wrong lines of such a file are errors
        or os.path.getsize(file) == 0
        or is_label_file(file)
        or _is_blank(file)
    ]


def _is_blank(path: str) -> bool:
    return os.path.getsize(path) < 64 and not read_text(path).strip()


def _classes(
    folder: LabelFolder,
    data_yaml: tuple[str, dict] | None,
    label_files: Sequence[str],
    builder: LabelSetBuilder,
) -> list[str]:
    if data_yaml:
        return yaml_classes(*data_yaml)
    name_file = folder.named(*NAME_FILES)
    if name_file:
        return read_names(name_file)
    firsts = (_numbers(line.split()[:1]) for file in label_files for line in _lines(file))
    numbers = {int(first[0]) for first in firsts if first and first[0].is_integer() and first[0] >= 0}
    if not numbers:
        raise LabelError(
            f'the {len(label_files)} text files hold no object, and there is no data.yaml that names the '
            'classes; add one',
            folder.root,
        )
    builder.notes.append('the classes have no names; name them in data.yaml or classes.txt')
    return [f'class_{number}' for number in range(max(numbers) + 1)]


def _key(folder: LabelFolder, path: str) -> tuple[str, ...]:
    """Return the parts of a path, from the last, without folders such as images and labels."""
    parts = PurePosixPath(os.path.splitext(folder.below(path))[0]).parts
    folders = [part.casefold() for part in parts[:-1] if part.lower() not in _PARALLEL]
    return tuple(reversed([*folders, parts[-1].casefold()]))


def _by_stem(folder: LabelFolder, label_files: Sequence[str]) -> dict[str, list[tuple[tuple, str]]]:
    by_stem: dict[str, list[tuple[tuple, str]]] = defaultdict(list)
    for file in label_files:
        key = _key(folder, file)
        by_stem[key[0]].append((key, file))
    return by_stem


def _parallel_path(
    folder: LabelFolder, path: str, by_stem: Mapping[str, list[tuple[tuple, str]]]
) -> str | None:
    """Return the text file in the folder ``labels`` in place of ``images``, the last first, or beside it."""
    stem = os.path.splitext(path)[0]
    parts = stem.split(os.sep)
    known = {file for _, file in by_stem.get(parts[-1].casefold(), ())}
    positions = [index for index, part in enumerate(parts[:-1]) if part.lower() in ('images', 'jpegimages')]
    stems = [
        os.sep.join([*parts[:position], 'labels', *parts[position + 1 :]]) for position in reversed(positions)
    ]
    stems += [os.path.join(folder.root, 'labels', os.path.splitext(folder.below_images(path))[0]), stem]
    return next((f'{each}.txt' for each in stems if f'{each}.txt' in known), None)


def _label_file(folder: LabelFolder, path: str, by_stem: Mapping[str, list[tuple[tuple, str]]]) -> str | None:
    """Return the text file of an image: that at the parallel path, or of a path that ends like it."""
    parallel = _parallel_path(folder, path, by_stem)
    if parallel:
        return parallel
    key = _key(folder, path)
    matches = []
    for other, file in by_stem.get(key[0], ()):
        common = min(len(key), len(other))
        if key[:common] == other[:common]:
            matches.append((key == other, common, file))
    best = max((match[:2] for match in matches), default=None)
    files = sorted(file for *rank, file in matches if tuple(rank) == best)
    if len(files) > 1:
        first, second = map(folder.below, files[:2])
        raise LabelError(
            f'the labels of {folder.below(path)} may be {first} or {second}; remove one',
            folder.root,
        )
    return files[0] if files else None


def _lines(path: str) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip() and line.strip()[0] != '#']


def _numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None


def _decimals(field: str) -> int:
    """Return the number of decimals of a number, without zeros at its end."""
    digits, _, exponent = field.lower().partition('e')
    shift = int(exponent) if exponent.lstrip('+-').isdigit() else 0
    return max(0, len(digits.partition('.')[2].rstrip('0')) - shift)


def _read_lines(builder: LabelSetBuilder, image: ImageLabels) -> None:
    rows = [line.split() for line in _lines(image.source)]
    digits = max([_decimals(field) for row in rows for field in row[1:5]], default=0)
    for number, fields in enumerate(rows, 1):
        values = _numbers(fields)
        if values is None or len(values) < 5 or values[0] != int(values[0]) or values[0] < 0:
            raise LabelError(
                f'line {number} is {" ".join(fields)[:60]!r}; it must be a class and four numbers or more',
                image.source,
            )
        label = int(values[0])
        if label >= len(builder.classes):
            raise LabelError(
                f'line {number} has class {label}, but {len(builder.classes)} classes are named (0 to '
                f'{len(builder.classes) - 1}); correct it, or add the name',
                image.source,
            )
        score = values.pop() if len(values) == 6 or (len(values) > 6 and len(values) % 2 == 0) else None
        outside = [value for value in values[1:] if not -SLACK <= value <= 1 + SLACK]
        if outside:
            raise LabelError(
                f'line {number} has {outside[0]:g}; coordinates are fractions of the width and height, '
                '0 to 1',
                image.source,
            )
        box, polygons = _shape(values[1:], image, max(digits, USUAL_DIGITS))
        builder.add_object(image, label, box, polygons=polygons, score=score)


def _shape(values: list[float], image: ImageLabels, digits: int) -> tuple[Box, list[list[float]]]:
    """Return the box and the outlines in pixels of a line's coordinates.

    Positions are those with the fewest decimals that the digits of the file allow, so that whole pixels come
    back as they were.
    """
    sizes = (image.width, image.height)
    tolerances = [max(0.75 * 10.0**-digits * size, MIN_TOLERANCE) for size in sizes]
    if len(values) == 4:
        left, right, top, bottom = (
            shortest((values[axis] + sign * values[2 + axis] / 2) * sizes[axis], tolerances[axis])
            for axis in (0, 1)
            for sign in (-1, 1)
        )
        return (left, top, right, bottom), []
    outline = [
        shortest(value * sizes[index % 2], tolerances[index % 2]) for index, value in enumerate(values)
    ]
    return polygons_box([outline]), [outline]


def _fraction(value: float, size: int) -> float:
    return written(value / size, value, lambda fraction: shortest(fraction * size, MIN_TOLERANCE))


def _center_and_length(first: float, last: float, size: int) -> tuple[float, float]:
    """Return the fractions of which :func:`_shape` makes two ends exactly, where there are such."""
    center, length = (first + last) / 2 / size, (last - first) / size
    for candidate in neighbours(length):
        for middle in neighbours(center):
            ends = ((middle + sign * candidate / 2) * size for sign in (-1, 1))
            if [shortest(end, MIN_TOLERANCE) for end in ends] == [first, last]:
                return middle, candidate
    return center, length


def yolo_text(image: ImageLabels) -> str:
    """Return the text file of an image: the outline of the largest part of objects, or their boxes.

    Crowds are left out, which the format does not have.
    """
    lines = []
    for each in image.objects:
        if each.crowd:
            continue
        outline, sizes = largest_outline(each, image), (image.width, image.height)
        if outline:
            values = [_fraction(value, sizes[index % 2]) for index, value in enumerate(outline)]
        else:
            (x, width), (y, height) = (
                _center_and_length(each.box[axis], each.box[axis + 2], size)
                for axis, size in enumerate(sizes)
            )
            values = [x, y, width, height]
        fields = [str(each.label), *(repr(float(value)) for value in values)]
        if each.score is not None:
            fields.append(repr(float(each.score)))
        lines.append(' '.join(fields))
    return '\n'.join(lines) + '\n' if lines else ''
