"""Values or colours of label files and the classes they stand for, as a dataset is given them."""

from collections.abc import Mapping, Sequence
from typing import Any

# masks as most tools save them: 0, and 255 (or 1) for the object
BINARY = {0: 0, 1: 1, 255: 1}
# names of the transforms that load label maps
LABEL_LOADERS = ('LoadAnnotations', 'LoadLabelMap')
BINARY_CLASSES = ('background', 'foreground')
Color = tuple[int, int, int]


def parse_label_map(
    label_map: Mapping[Any, Any], classes: Sequence[str], ignore_index: int
) -> dict[int, int] | dict[Color, int]:
    """Read the values or colours of label files with their classes.

    Args:
        label_map: Value, or colour as (R, G, B), '#rrggbb' or 'R,G,B' -> name or index of a class, or None
            for pixels to ignore.
        classes: Names of the classes.
        ignore_index: Label of ignored pixels.

    Returns:
        Values, or colours, -> labels.

    Raises:
        ValueError: A value, colour or class cannot be read or does not exist, or values are mixed with
            colours.
    """
    parsed: dict[Any, int] = {}
    for key, value in label_map.items():
        parsed[_parse_key(key)] = _parse_class(value, key, classes, ignore_index)
    if len({isinstance(key, tuple) for key in parsed}) != 1 or len(parsed) < len(label_map):
        raise ValueError(f'label_map={dict(label_map)}: give either values or colours, each once')
    return parsed


def is_colored(label_map: Mapping | None) -> bool:
    """Whether a label map is one of colours."""
    return any(isinstance(value, tuple) for value in label_map or ())


def _parse_key(key: Any) -> int | Color:
    parts: Any = key
    if isinstance(key, str):
        text = key.strip()
        try:
            parts = (
                list(bytes.fromhex(text[1:])) if text.startswith('#') else [int(p) for p in text.split(',')]
            )
        except ValueError:
            parts = None
        if parts and len(parts) == 1:
            parts = parts[0]
    if isinstance(parts, int) and not isinstance(parts, bool) and 0 <= parts < 1 << 16:
        return parts
    is_color = isinstance(parts, (list, tuple)) and len(parts) == 3
    if is_color and all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
        return parts[0], parts[1], parts[2]
    raise ValueError(
        f'label_map: {key!r} is neither a value from 0 to 65535 nor a colour such as (255, 0, 0)'
    )


def _parse_class(value: Any, key: Any, classes: Sequence[str], ignore_index: int) -> int:
    if value is None:
        return ignore_index
    if isinstance(value, str) and value in classes:
        return list(classes).index(value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (value in range(len(classes)) or value == ignore_index)
    ):
        return value
    raise ValueError(
        f'label_map: {key!r} stands for {value!r}, which is none of the {len(classes)} classes '
        f'({_shortened(classes)}) or their indices; None ignores pixels'
    )


def missing_beside_ignored(
    classes: Sequence[str],
    counts: Mapping[int, int],
    ignored: int,
    ignore_index: int,
    single_class: bool = False,
) -> str:
    """Describe classes without a pixel in label maps that have ignored pixels; empty if there are none.

    Masks of 0 and 255 give such maps: everything but the background is ignored.

    Args:
        classes: Names of the classes.
        counts: Label -> number of pixels.
        ignored: Number of ignored pixels.
        ignore_index: Label of ignored pixels.
        single_class: Describe only maps in which a single class has pixels.
    """
    classes = ('background', *classes) if len(classes) == 1 else classes
    absent = [name for label, name in enumerate(classes) if not counts.get(label)]
    if not ignored or not absent:
        return ''
    if single_class and len(absent) < len(classes) - 1:
        return ''
    percentage = 100 * ignored / (ignored + sum(counts.values()))
    return (
        f'no pixel of {len(absent)} classes ({_shortened(absent)}), but {percentage:.3g} % of the pixels are '
        f'ignored ({ignore_index}); if their value in the files is a class, use '
        'mmssl.SegmentationFolder with binary=True (masks of 0 and 255) or label_map; if it is 0, leave out '
        'reduce_zero_label'
    )


def _shortened(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
