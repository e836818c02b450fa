"""Key maps between two spellings of the same weights, usable and strict in both directions.

A map is a table with a row for each tensor: the name in the released file, the name in mmssl, and the shape.
``{i}`` in a name stands for the index of a layer, from 0. Released files come in a few layouts (with a
decoder, with a classifier, ...), each of which is a complete table: a file fits a layout if every key has a
row, every row has a key, and all shapes agree.
"""

import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmssl.checkpoint import weights_of
from mmssl.checkpoint.keys import WRAPPERS
from mmssl.checkpoint.position_tables import describe_pos_embed, described_layout

MAX_LISTED = 8
# (rows, columns) of patches of a position table, and its number of leading tokens
Layout = tuple[tuple[int, int], int]
# leading tokens of the position tables of all families
CLASS_TOKENS = 1
# counters of the methods and BEiT's tokenizer, which no released file has
COUNTERS = re.compile(r'clock\.(steps|followed)|.+\.steps|target_generator\..+')


class Row(NamedTuple):
    """Names and shape of a tensor.

    ``shape`` has a word for each dimension: a number, a letter that stands for the same length in the whole
    table, a multiple of it ('3C'), or '?' for any length. An empty string is a scalar.
    """

    official: str
    ours: str
    shape: str


class Family(NamedTuple):
    """Checkpoints of a release.

    Attributes:
        name: Name of the family.
        layouts: Name of each layout -> its rows.
        wrapper: Key under which the files keep the weights; None for files that are a state dict.
        file_prefix: Prefix of all names in the files that the rows do not have, such as 'module.' of a
            distributed model.
        adapt: What renaming cannot do, in the names of the release. ``adapt(released, False)`` returns a
            state dict with a row for every key; ``adapt(renamed, True)`` is its inverse.
        parts: Keys of the files if they keep several state dicts; in the rows, names begin with a part.
    """

    name: str
    layouts: Mapping[str, Sequence[Row]]
    wrapper: str | None = None
    file_prefix: str = ''
    adapt: Callable[[Mapping, bool], Mapping] | None = None
    parts: tuple[str, ...] = ()


def weights_and_biases(official: str, ours: str, weight: str, bias: str) -> list[Row]:
    """Rows of a module with a weight and a bias, given its two names and the two shapes."""
    return [
        Row(f'{official}.weight', f'{ours}.weight', weight),
        Row(f'{official}.bias', f'{ours}.bias', bias),
    ]


def unwrap(checkpoint: Mapping, parts: Sequence[str] = ()) -> Mapping:
    """Return the state dict of a checkpoint.

    Args:
        checkpoint: State dict, or a mapping with a state dict under 'state_dict' or 'model'.
        parts: Keys of the state dicts to join if the checkpoint has several.

    Raises:
        ValueError: The values are not tensors.
    """
    if isinstance(checkpoint, Mapping) and any(isinstance(checkpoint.get(part), Mapping) for part in parts):
        checkpoint = {
            f'{part}.{key}': value for part in parts for key, value in checkpoint.get(part, {}).items()
        }
    weights = weights_of(checkpoint)
    invalid = [str(key) for key, value in weights.items() if not hasattr(value, 'shape')]
    if invalid:
        raise ValueError(
            f'not tensors: {listed(invalid)}; pass the state dict, or a checkpoint with it under '
            "'state_dict' or "
            "'model'"
        )
    return weights


def wrap(weights: Mapping, parts: Sequence[str]) -> Mapping:
    """Split weights whose names all begin with a part into a state dict for each part.

    The inverse of :func:`unwrap`; other weights are returned unchanged.
    """
    if not parts or not all(key.startswith(tuple(f'{part}.' for part in parts)) for key in weights):
        return weights
    wrapped: dict[str, dict] = {}
    for key, value in weights.items():
        part, name = key.split('.', 1)
        wrapped.setdefault(part, {})[name] = value
    return wrapped


def listed(keys: Sequence[str]) -> str:
    """Join the first few keys and the number of the others to a text."""
    more = len(keys) - MAX_LISTED
    return ', '.join(keys[:MAX_LISTED]) + (f' and {more} more' if more > 0 else '')


class _Match(NamedTuple):
    """Keys of a state dict matched with the rows of a layout."""

    layout: str
    rows: Sequence[Row]
    renamed: dict[str, str]
    row_of: dict[str, int]
    unknown: list[str]
    missing: list[str]

    @property
    def misfits(self) -> int:
        return len(self.unknown) + len(self.missing)


def _match(layout: str, rows: Sequence[Row], keys: Sequence[str], to_official: bool) -> _Match:
    """Rename each key by the first row that it fits."""
    pairs = [(row.ours, row.official) if to_official else (row.official, row.ours) for row in rows]
    exact = {source: index for index, (source, _) in enumerate(pairs) if '{i}' not in source}
    patterns = [
        (index, re.compile(re.escape(source).replace(r'\{i\}', r'(\d+)')))
        for index, (source, _) in enumerate(pairs)
        if '{i}' in source
    ]
    renamed: dict[str, str] = {}
    row_of: dict[str, int] = {}
    unknown = []
    for key in keys:
        if key in exact:
            row_of[key] = exact[key]
            renamed[key] = pairs[exact[key]][1]
            continue
        for index, pattern in patterns:
            match = pattern.fullmatch(key)
            if match:
                row_of[key] = index
                renamed[key] = pairs[index][1].replace('{i}', match[1])
                break
        else:
            unknown.append(key)
    missing = [name for source, _ in pairs for name in _expand(source, renamed) if name not in renamed]
    return _Match(layout, rows, renamed, row_of, unknown, missing)


def _expand(source: str, keys: Mapping[str, str]) -> list[str]:
    """Names that a row stands for, one for each layer of its whole stack."""
    if '{i}' not in source:
        return [source]
    stack = re.compile(re.escape(source.split('{i}')[0]) + r'(\d+)\.')
    depth = max((int(match[1]) for match in map(stack.match, keys) if match), default=0) + 1
    return [source.replace('{i}', str(index)) for index in range(depth)]


def _wrong_shapes(state_dict: Mapping, match: _Match) -> list[str]:
    """Keys whose tensors disagree with the table, each with its shape and the expected one."""
    lengths: dict[str, int] = {}
    wrong = []
    for key, row in match.row_of.items():
        words = match.rows[row].shape.split()
        shape = tuple(state_dict[key].shape)
        expected = tuple(
            _expected_length(word, length, lengths) for word, length in zip(words, shape, strict=False)
        )
        if len(words) != len(shape):
            wrong.append(f'{key} {shape}, expected ({", ".join(words)})')
        elif expected != shape:
            wrong.append(f'{key} {shape}, expected ({", ".join(words)}) = {expected}')
    return wrong


def _expected_length(word: str, length: int, lengths: dict[str, int]) -> int:
    """Length that a word of a shape stands for; the first use of a letter defines it."""
    if word == '?':
        return length
    factor, letter = re.fullmatch(r'(\d*)([A-Za-z]?)', word).groups()  # type: ignore[union-attr]
    multiple = int(factor or 1)
    return multiple * lengths.setdefault(letter, length // multiple) if letter else multiple


def convert(
    family: Family,
    state_dict: Mapping,
    to_official: bool,
    prefix: str = 'backbone.',
    grid: tuple[int, int] | None = None,
) -> tuple[OrderedDict, str]:
    """Rename the keys of a state dict; tensors are not copied, except those that ``adapt`` reorders.

    Args:
        family: Tables of the release.
        state_dict: State dict in the names of the release, or with ``to_official`` in those of mmssl.
        to_official: Direction.
        prefix: Prefix of the backbone's names in mmssl; '' for the state dict of a bare backbone.
        grid: (rows, columns) of patches of the position tables, if the input does not say it.

    Returns:
        Renamed state dict in the order of the input, and the name of the layout. With ``to_official``, the
        counters of the methods are left out. What the input says about the grids of position tables goes
        along in ``_metadata``.

    Raises:
        ValueError: No layout fits; the message lists unknown keys, missing keys and wrong shapes for the
            nearest one. Or a position table is not of ``grid``.
    """
    layouts = _described_tables(state_dict)
    state_dict = _without_counters(state_dict) if to_official else _released_weights(family, state_dict)
    match = _nearest_layout(family, list(state_dict), to_official, prefix)
    if match.misfits:
        unwrapped = _unwrapped(family, state_dict, to_official, prefix)
        if unwrapped is not None:
            state_dict, match = unwrapped
    if match.misfits:
        source = 'mmssl' if to_official else family.name
        text = [f'{source} keys do not fit family {family.name!r} (nearest layout: {match.layout})']
        if match.unknown:
            text.append(f'{len(match.unknown)} unknown: {listed(match.unknown)}')
        if match.missing:
            text.append(f'{len(match.missing)} missing: {listed(match.missing)}')
        raise ValueError('; '.join(text) + _hint(family, match, to_official, prefix))
    wrong = _wrong_shapes(state_dict, match)
    if wrong:
        raise ValueError(
            f'{len(wrong)} tensors do not fit family {family.name!r} ({match.layout}): {listed(wrong)}'
        )
    converted: Mapping = {match.renamed[key]: value for key, value in state_dict.items()}
    if to_official and family.adapt is not None:
        converted = family.adapt(converted, True)
    result = OrderedDict(converted)
    _describe_tables(result, match, layouts, grid)
    return result, match.layout


def _describe_tables(
    converted: OrderedDict, match: _Match, layouts: Mapping[str, Layout], grid: tuple[int, int] | None
) -> None:
    """Write the layouts of the position tables that are known, or given by ``grid``, into ``_metadata``."""
    for key, name in match.renamed.items():
        # names of the input may have prefixes that have been removed from those of the match
        layout = next((layouts[full] for full in layouts if f'.{full}'.endswith(f'.{key}')), None)
        if grid is not None and name.endswith('pos_embed'):
            layout = _requested_layout(key, converted[name].shape[1], grid, layout)
        if layout is not None and name in converted:
            describe_pos_embed(converted, name, *layout)


def _described_tables(state_dict: Mapping) -> dict[str, Layout]:
    """Return the layouts of the position tables of which the state dict says it."""
    layouts = {
        key: described_layout(state_dict, key, value.shape[1])
        for key, value in state_dict.items()
        if value.ndim == 3
    }
    return {key: layout for key, layout in layouts.items() if layout is not None}


def _requested_layout(key: str, length: int, grid: tuple[int, int], described: Layout | None) -> Layout:
    layout = grid, CLASS_TOKENS
    if grid[0] * grid[1] + CLASS_TOKENS != length:
        raise ValueError(
            f'{key} has {length} positions, a class token and {length - CLASS_TOKENS} patches, which are no '
            f'grid of {grid[0]}x{grid[1]}'
        )
    if described not in (None, layout):
        raise ValueError(
            f'{key} is of {described[0][0]}x{described[0][1]} patches, as its file says, and not of '
            f'{grid[0]}x{grid[1]}; leave the grid out'
        )
    return layout


def _unwrapped(
    family: Family, state_dict: Mapping, to_official: bool, prefix: str
) -> tuple[Mapping, _Match] | None:
    """Return weights without the prefixes of modules around the model, and their match, if they fit so."""
    removed = ''
    for _ in WRAPPERS:
        wrapper = next((each for each in WRAPPERS if all(key.startswith(each) for key in state_dict)), None)
        if wrapper is None or not state_dict:
            return None
        removed += wrapper
        state_dict = {key.removeprefix(wrapper): value for key, value in state_dict.items()}
        if not to_official and family.adapt is not None:
            state_dict = family.adapt(state_dict, False)
        match = _nearest_layout(family, list(state_dict), to_official, prefix)
        if not match.misfits:
            print(f'{removed} removed from the names of the weights', file=sys.stderr)
            return state_dict, match
    return None


def _without_counters(state_dict: Mapping) -> Mapping:
    return {key: value for key, value in state_dict.items() if not COUNTERS.fullmatch(key)}


def _released_weights(family: Family, state_dict: Mapping) -> Mapping:
    """Weights of a released file under the names of the rows."""
    if all(key.startswith(family.file_prefix) for key in state_dict):
        state_dict = {key.removeprefix(family.file_prefix): value for key, value in state_dict.items()}
    return state_dict if family.adapt is None else family.adapt(state_dict, False)


def _nearest_layout(family: Family, keys: Sequence[str], to_official: bool, prefix: str) -> _Match:
    """Match the keys with all layouts, and return the first match with the fewest misfits."""
    best = None
    for layout, rows in family.layouts.items():
        prefixed = [row._replace(ours=re.sub(r'^backbone\.', lambda _: prefix, row.ours)) for row in rows]
        match = _match(layout, prefixed, keys, to_official)
        if best is None or match.misfits < best.misfits:
            best = match
        if not match.misfits:
            break
    assert best is not None  # a family has layouts
    return best


def _hint(family: Family, match: _Match, to_official: bool, prefix: str) -> str:
    """What to try when keys do not fit."""
    if match.renamed and any(key.split('.')[0] in ('neck', 'head') for key in match.unknown):
        return f'. Drop what a {family.name} file does not have (--drop neck.)'
    if not match.renamed or len(match.unknown) > len(match.renamed):
        direction = 'the other direction' if to_official else 'the other direction (to_official, --reverse)'
        return f'. Is it {direction}, or another prefix of the backbone than {prefix!r}?'
    return ''
