"""Tables of classes beside label maps: names, with values or colours if the files have them."""

import csv
import io
import itertools
import os
import re
from dataclasses import dataclass

from mmssl.data.label_formats.files import LabelFolder, entries_of, read_json, read_text
from mmssl.data.label_values import Color
from mmssl.errors import LabelError

# classes whose pixels are not trained on
IGNORED_NAMES = ('void', 'unlabelled', 'unlabeled', 'ignore', 'ignored', 'ignore_label', 'dontcare')
FILES = (
    'classes.txt', 'classes.csv', 'classes.json', 'class_dict.csv', 'class_names.txt', 'class_list.txt',
    'labelmap.txt', 'label_map.txt', 'labels.txt', 'labels.csv', 'labels.json', 'label_colors.txt',
    'label_colours.txt', 'colors.txt', 'colors.csv', 'colors.json', 'colours.txt', 'colormap.txt',
    'colormap.json', 'color_map.csv', 'palette.txt', 'palette.csv', 'palette.json', 'codes.txt', 'names.txt',
    'class_colors.txt', 'class_colors.csv', 'class_colors.json', 'label_color_map.txt', 'classes.tsv',
)  # fmt: skip
# three numbers at the end of a line, between the colons of CVAT's labelmap.txt, or at its beginning
_COLORS = (
    re.compile(r'(?<![\d.])(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;:]*$'),
    re.compile(r':(\d{1,3}),(\d{1,3}),(\d{1,3}):'),
    re.compile(r'^\W*(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?=[\s,;:])'),
)
_HEX = re.compile(r'#([0-9a-fA-F]{6})\b')
# the number of a row before its name
_ROW_NUMBER = re.compile(r'^\d+\s*[,;:\t]')
_NUMBERED = re.compile(r'^(\d+)\s*[\s,:;=]\s*(\S.*)$')
_NUMBER_LAST = re.compile(r'^(\S.*?)\s*[\s,:;=]\s*(\d+)$')


@dataclass
class TableRow:
    """A class of a table.

    Attributes:
        name: Its name.
        color: (R, G, B) in the label maps, if the table gives colours.
        value: Value in the label maps, if the table gives values.
        ignored: Whether pixels are ignored, if the table says so; None goes by the name.
    """

    name: str
    color: Color | None = None
    value: int | None = None
    ignored: bool | None = None

    @property
    def is_ignored(self) -> bool:
        """Whether its pixels have no class, as the table or the name says."""
        return self.name.lower() in IGNORED_NAMES if self.ignored is None else self.ignored


def find_table(folder: LabelFolder) -> tuple[str, list[TableRow]] | None:
    """Return the path and the rows of the class table of a folder; None if there is none."""
    path = folder.named(*FILES)
    if path and not _holds_labels(folder, path):
        return path, read_table(path)
    for path in folder.with_suffix('.yaml', '.yml'):
        rows = _yaml_rows(path)
        if rows:
            return path, _checked(rows, path)
    return None


def _holds_labels(folder: LabelFolder, path: str) -> bool:
    """Whether a JSON file is one of labels, as COCO's labels.json, not a table."""
    content = folder.json(path) if path.lower().endswith('.json') else None
    return isinstance(content, dict) and bool({'images', 'annotations', 'shapes'} & content.keys())


def _yaml_rows(path: str) -> list[TableRow]:
    """Return the rows of a YAML file with the key 'classes' or 'names'; none of other files."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        return []
    names = (content.get('classes') or content.get('names')) if isinstance(content, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        return [TableRow(str(name), value=key) for key, name in names.items()]
    if isinstance(names, dict):
        return [_json_row(name, value, path) for name, value in names.items()]
    return [TableRow(str(name)) for name in names] if isinstance(names, list) else []


def read_table(path: str) -> list[TableRow]:
    """Read a table of classes: names alone, with values, or with colours, in text, CSV or JSON.

    Raises:
        LabelError: Two classes have the same name, value or colour, or only some have a colour.
    """
    if path.lower().endswith('.json'):
        with entries_of(path):
            rows = _json_rows(read_json(path), path)
    else:
        text = read_text(path)
        rows = _column_rows(text) or _text_rows(text)
    return _checked([row for row in rows if row.name], path)


def _checked(rows: list[TableRow], path: str) -> list[TableRow]:
    if not rows:
        raise LabelError('names no class; write a name per line', path)
    for what in ('name', 'color', 'value'):
        values = [getattr(row, what) for row in rows if getattr(row, what) is not None]
        if len(set(values)) < len(values):
            doubled = next(value for value in values if values.count(value) > 1)
            raise LabelError(f'the {what} {doubled} is listed twice', path)
    if len({row.color is None for row in rows}) > 1:
        name = next(row.name for row in rows if row.color is None)
        raise LabelError(f'{name!r} has no colour, others have; give a colour to each class or to none', path)
    return rows


def _column_rows(text: str) -> list[TableRow]:
    """Return the rows of a CSV table with the columns name, r, g and b, and ignored (0 or 1) if there is one.

    Other texts have none.
    """
    lines = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    header = [field.strip().lower() for field in lines[0]] if lines else []
    if not {'name', 'r', 'g', 'b'} <= set(header):
        return []
    name, *channels = (header.index(column) for column in ('name', 'r', 'g', 'b'))
    rows = []
    for fields in filter(any, lines[1:]):
        try:
            red, green, blue = (int(fields[index]) for index in channels)
        except (IndexError, ValueError):
            return []
        ignored = fields[header.index('ignored')].strip() == '1' if 'ignored' in header else None
        rows.append(TableRow(fields[name].strip(), color=(red, green, blue), ignored=ignored))
    return rows


def _text_rows(text: str) -> list[TableRow]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(('# ', '//')) and line != '#']
    if not lines:
        return []
    colored = [match for match in map(_color_match, lines) if match]
    if colored:
        numbered = all(_ROW_NUMBER.match(match.string) for match in colored)
        return [_colored_row(match, numbered) for match in colored]
    for pattern, value_group in ((_NUMBERED, 1), (_NUMBER_LAST, 2)):
        body = lines[1:] if len(lines) > 1 and not pattern.match(lines[0]) else lines
        matches = [match for match in map(pattern.match, body) if match]
        rows = [
            TableRow(_clean(match.group(3 - value_group)), value=int(match.group(value_group)))
            for match in matches
        ]
        if len(rows) == len(body) and _are_values(rows, body):
            return rows
    header = lines[0].lower().strip(',;') in ('name', 'class', 'label', 'classes', 'names')
    return [TableRow(_clean(line)) for line in lines[header:]]


def _are_values(rows: list[TableRow], lines: list[str]) -> bool:
    """Whether the numbers of lines are values, not parts of names such as '3 wheels' or 'lane 2'."""
    values = [row.value for row in rows if row.value is not None]
    rises = all(first < second for first, second in itertools.pairwise(values))
    separated = all(re.search('[,:;=\t]', line) for line in lines)
    return len({row.name for row in rows}) == len(rows) and (separated or rises)


def _color_match(line: str) -> re.Match | None:
    return _HEX.search(line) or next(filter(None, (pattern.search(line) for pattern in _COLORS)), None)


def _colored_row(match: re.Match, numbered: bool) -> TableRow:
    """Return the row of a line with a colour, whose name stands before or after it."""
    groups = match.groups()
    red, green, blue = bytes.fromhex(groups[0]) if len(groups) == 1 else map(int, groups)
    before, after = _clean(match.string[: match.start()]), _clean(match.string[match.end() :])
    if numbered:
        before = _ROW_NUMBER.sub('', before + ',').strip(' ,') or before
    return TableRow(before or after, color=(red, green, blue))


def _clean(name: str) -> str:
    """Return a name without the separators and quotes around it."""
    return name.strip(' \t,;:"\'')


def _json_rows(content, path: str) -> list[TableRow]:
    if (
        isinstance(content, dict)
        and len(content) == 1
        and isinstance(next(iter(content.values())), (list, dict))
    ):
        inner = next(iter(content.values()))
        if not _is_color(inner):
            content = inner
    if isinstance(content, dict):
        return [_json_row(name, value, path) for name, value in content.items()]
    if isinstance(content, list):
        return [
            TableRow(each)
            if isinstance(each, str)
            else _json_row(each.get('name') or each.get('label'), each.get('color', each.get('id')), path)
            for each in content
        ]
    raise LabelError('must be a list of names, or names with colours or values', path)


def _is_color(value) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in (3, 4)
        and all(isinstance(part, int) for part in value)
    )


def _json_row(name, value, path: str) -> TableRow:
    name = str(name)
    if _is_color(value):
        return TableRow(name, color=(value[0], value[1], value[2]))
    if isinstance(value, str) and _HEX.fullmatch(value.strip()):
        red, green, blue = bytes.fromhex(value.strip()[1:])
        return TableRow(name, color=(red, green, blue))
    if isinstance(value, str) and name.isdigit():  # {"0": "wall"}
        return TableRow(value, value=int(name))
    if isinstance(value, int):
        return TableRow(name, value=value)
    raise LabelError(f'{name!r} has {value!r}, which is neither a colour nor a value', path)


def table_name(path: str) -> str:
    """Return the name of a table for messages."""
    return os.path.basename(path)
