"""CSV tables: path and class of each image, or path, box and class of each object."""

import csv
import io
import os
from collections.abc import Sequence

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, entries_of, read_text, split_name
from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.data.suffixes import is_image
from mmssl.errors import LabelError

# names of the columns, in lower case without spaces and underscores
COLUMNS = {
    'path': (
        'path',
        'filename',
        'file',
        'image',
        'imagepath',
        'imgpath',
        'filepath',
        'imageid',
        'img',
    ),
    'label': ('label', 'class', 'category', 'classname', 'labelname', 'target', 'species'),
    'left': ('x1', 'xmin', 'left'),
    'top': ('y1', 'ymin', 'top'),
    'right': ('x2', 'xmax', 'right'),
    'bottom': ('y2', 'ymax', 'bottom'),
    'width': ('width', 'imagewidth', 'w'),
    'height': ('height', 'imageheight', 'h'),
    'split': ('split', 'set', 'subset', 'partition'),
    'score': ('score', 'confidence', 'probability'),
}
# columns of boxes in other forms
OTHER_BOXES = ('x', 'y', 'bbox', 'box', 'xcenter', 'ycenter', 'cx', 'cy', 'boxwidth', 'boxheight', 'geometry')
CORNERS = ('left', 'top', 'right', 'bottom')
# columns of tables without a header, by their number
WITHOUT_HEADER = {2: ('path', 'label'), 6: ('path', *CORNERS, 'label'), 3: ('path', 'label', 'score')}


def read_rows(path: str) -> list[list[str]]:
    """Return the rows of a table separated by commas, semicolons or tabs, without empty ones and comments."""
    text = read_text(path)
    lines = [line for line in text.split('\n') if line.strip() and not line.startswith('#')]
    if not lines:
        return []
    delimiter = max(',;\t', key=lines[0].count)
    return [
        [field.strip() for field in row]
        for row in csv.reader(io.StringIO('\n'.join(lines)), delimiter=delimiter)
    ]


def columns_of(rows: Sequence[Sequence[str]]) -> tuple[dict[str, int], bool] | None:
    """Return the positions of the columns, and whether the first row is a header; None for other tables."""
    if not rows:
        return None
    header = [name.lower().replace(' ', '').replace('_', '') for name in rows[0]]
    columns = {
        column: header.index(name)
        for column, names in COLUMNS.items()
        for name in reversed(names)
        if name in header
    }
    if {'path', 'label'} <= columns.keys():
        return columns, True
    names = WITHOUT_HEADER.get(len(rows[0]))
    if names and is_image(rows[0][0]):
        return {name: index for index, name in enumerate(names)}, False
    return None


def is_table(path: str) -> bool:
    """Whether a CSV file names images and classes."""
    return columns_of(read_rows(path)[:1]) is not None


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read tables of images or objects.

    The columns are known by their names, or without a header by their number: path, label, or path, x1, y1,
    x2, y2, label with boxes in pixels. A row without a box or class names an image without objects.

    Raises:
        LabelError: A row has another number of columns, or a coordinate is not a number.
    """
    builder = LabelSetBuilder(folder, 'csv', need_images=need_images, read_sizes=False)
    for file in files:
        builder.sources.append(folder.below(file))
        rows = read_rows(file)
        columns_and_header = columns_of(rows)
        assert columns_and_header is not None
        columns, has_header = columns_and_header
        _check_boxes(rows[0] if has_header else [], columns, file)
        builder.read_sizes = set(CORNERS) <= columns.keys()
        split = split_name(os.path.splitext(os.path.basename(file))[0])
        _read_table(builder, file, rows[has_header:], columns, split)
    return builder.build()


def _check_boxes(header: Sequence[str], columns: dict[str, int], file: str) -> None:
    """Refuse boxes in other columns than corners, which would be read as classes of whole images."""
    corners = set(CORNERS) & columns.keys()
    others = [name for name in header if name.lower().replace('_', '') in OTHER_BOXES]
    if len(corners) not in (0, 4) or (others and not corners):
        named = ', '.join([*(header[columns[name]] for name in sorted(corners)), *others])
        raise LabelError(f'has boxes in the columns {named}; give the corners x1, y1, x2, y2 in pixels', file)


def _read_table(
    builder: LabelSetBuilder,
    file: str,
    rows: Sequence[Sequence[str]],
    columns: dict[str, int],
    split: str | None,
) -> None:
    has_boxes = set(CORNERS) <= columns.keys()
    images: dict[str, ImageLabels | None] = {}
    for number, row in enumerate(rows, 1):
        if len(row) <= max(columns.values()):
            raise LabelError(
                f'row {number} has {len(row)} columns instead of {max(columns.values()) + 1}: '
                f'{",".join(row)[:60]}',
                file,
            )
        values = {name: row[index] for name, index in columns.items()}
        name = values['path']
        if name not in images:
            images[name] = _add_image(builder, file, values, split)
        elif not has_boxes:
            raise LabelError(f'row {number} names {name} again; an image has one class', file)
        image = images[name]
        if image is None:
            continue
        with entries_of(file, f'row {number}'):
            if has_boxes:
                _add_object(builder, image, values, number)
            else:
                image.label = builder.label_of(values['label'], file)
                image.score = float(values['score']) if values.get('score') else None


def _add_image(
    builder: LabelSetBuilder, file: str, values: dict[str, str], split: str | None
) -> ImageLabels | None:
    size = None
    if values.get('width', '').isdigit() and values.get('height', '').isdigit():
        size = (int(values['width']), int(values['height']))
    split = split_name(values.get('split', '')) or split
    image = builder.add_image(values['path'], file, size, split, os.path.dirname(file))
    if image is not None and image.split is None and image.path:
        image.split = builder.folder.split_of(image.path)
    return image


def _add_object(builder: LabelSetBuilder, image: ImageLabels, values: dict[str, str], number: int) -> None:
    texts = [values[corner] for corner in CORNERS]
    if not any(texts) and not values['label']:
        return
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        raise LabelError(
            f'row {number} has the box {",".join(texts)}; four numbers are needed', image.source
        ) from None
    builder.add_object(
        image,
        builder.label_of(values['label'], image.source),
        (left, top, right, bottom),
        score=float(values['score']) if values.get('score') else None,
    )
