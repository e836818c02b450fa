"""Key maps between two spellings of the same weights, usable in both directions and strict in both.

A map is a table of rows, one a tensor: the name in the released files, the name here, the shape. ``{i}`` in a
    name counts layers from 0.
A released file comes in a few layouts (with a decoder, with a classifier, ...), each of them a complete
table: a file fits a layout when every key has a row, every row has a key and every shape agrees.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmssl.checkpoint import weights_of

MAX_LISTED = 8
# what our methods count for themselves, and the tokenizer of a BEiT; no released file has it
COUNTERS = re.compile(r'clock\.(steps|followed)|.+\.steps|target_generator\..+')


class Row(NamedTuple):
    """One tensor under both names.

    ``shape`` holds one word a dimension: a number, a letter that stands for the same length in the whole
    table, or a multiple ('3C'); '?' is any length. An empty string is a scalar.
    """

    official: str
    ours: str
    shape: str


class Family(NamedTuple):
    """The files of one release.

    ``wrapper`` is the key under which its files keep the weights, None for a file that is the state dict
    itself; ``file_prefix`` is what its files put before every name, 'module.' where a distributed model was
    saved, and the rows do not. ``adapt`` does what renaming cannot, both ways under the names of the release:
    ``adapt(released, False)`` makes of a released state dict, before its keys are looked up, one that has a
    row for every key, and ``adapt(renamed, True)`` makes the released one of that. ``parts`` are the keys
    under which its files keep several state dicts; in the rows a name begins with its part.
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
    """The state dict inside a checkpoint: under 'state_dict' or 'model', or the mapping itself; of a file in ``parts`` these, joined.

    Raises:
        ValueError: what is there is not a mapping of names to tensors.
    """
    if isinstance(checkpoint, Mapping) and any(isinstance(checkpoint.get(part), Mapping) for part in parts):
        checkpoint = {
            f'{part}.{key}': value for part in parts for key, value in checkpoint.get(part, {}).items()
        }
    weights = weights_of(checkpoint)
    strange = [str(key) for key, value in weights.items() if not hasattr(value, 'shape')]
    if strange:
        raise ValueError(
            f"not tensors: {listed(strange)}; pass the state dict, or a checkpoint with it under 'state_dict' or 'model'"
        )
    return weights


def wrap(weights: Mapping, parts: Sequence[str]) -> Mapping:
    """Weights whose names all begin with one of ``parts`` as a state dict a part; others as they are. The inverse of :func:`unwrap`."""
    if not parts or not all(key.startswith(tuple(f'{part}.' for part in parts)) for key in weights):
        return weights
    wrapped: dict[str, dict] = {}
    for key, value in weights.items():
        part, name = key.split('.', 1)
        wrapped.setdefault(part, {})[name] = value
    return wrapped


def listed(keys: Sequence[str]) -> str:
    """The first few keys and how many more there are."""
    more = len(keys) - MAX_LISTED
    return ', '.join(keys[:MAX_LISTED]) + (f' and {more} more' if more > 0 else '')


class _Match(NamedTuple):
    renamed: dict[str, str]
    row_of: dict[str, int]
    unknown: list[str]
    missing: list[str]

    @property
    def misfits(self) -> int:
        return len(self.unknown) + len(self.missing)


def _match(rows: Sequence[tuple[str, str]], keys: Sequence[str]) -> _Match:
    """Rename every key by the first row it fits; ``rows`` are pairs (source, target)."""
    exact = {source: number for number, (source, _) in enumerate(rows) if '{i}' not in source}
    patterns = [
        (number, re.compile(re.escape(source).replace(r'\{i\}', r'(\d+)')), target)
        for number, (source, target) in enumerate(rows)
        if '{i}' in source
    ]
    renamed, row_of, unknown = {}, {}, []
    for key in keys:
        if key in exact:
            row_of[key], renamed[key] = exact[key], rows[exact[key]][1]
            continue
        for number, pattern, target in patterns:
            found = pattern.fullmatch(key)
            if found:
                row_of[key] = number
                renamed[key] = target.replace('{i}', found[1])
                break
        else:
            unknown.append(key)
    missing = []
    for source, _ in rows:
        if '{i}' not in source:
            missing += [source] if source not in renamed else []
        else:
            # layers are counted over the whole stack, so that a layer that lacks one tensor is seen
            stack = re.compile(re.escape(source.split('{i}')[0]) + r'(\d+)\.')
            depth = max((int(found[1]) for found in map(stack.match, renamed) if found), default=0) + 1
            missing += [
                name for name in (source.replace('{i}', str(i)) for i in range(depth)) if name not in renamed
            ]
    return _Match(renamed, row_of, unknown, missing)


def _wrong_shapes(rows: Sequence[Row], state_dict: Mapping, match: _Match) -> list[str]:
    """Keys whose tensors disagree with the table, each with the shape found and the one expected."""
    lengths: dict[str, int] = {}
    wrong = []
    for key, number in match.row_of.items():
        words = rows[number].shape.split()
        found = tuple(state_dict[key].shape)
        expected = []
        for word, length in zip(words, found, strict=False):
            if word == '?':
                expected.append(length)
                continue
            factor, letter = re.fullmatch(r'(\d*)([A-Za-z]?)', word).groups()  # type: ignore[union-attr]  # the tables are ours
            factor = int(factor or 1)
            if letter and letter not in lengths:
                lengths[letter] = length // factor
            expected.append(factor * lengths[letter] if letter else factor)
        if len(words) != len(found) or tuple(expected) != found:
            wrong.append(
                f'{key} {found}, expected ({", ".join(words)})'
                + (f' = {tuple(expected)}' if len(words) == len(found) else '')
            )
    return wrong


def convert(
    family: Family, state_dict: Mapping, to_official: bool, prefix: str = 'backbone.'
) -> tuple[dict, str]:
    """Rename the keys of a state dict; tensors are passed on, not copied, but for those that ``adapt`` reorders.

    Args:
        family: the tables.
        state_dict: names to tensors, on the side that is converted from.
        to_official: direction.
        prefix: what stands here before the names of the backbone; '' for the state dict of a bare backbone.

    Returns:
        the renamed state dict, in the order of the input, and the name of the layout that fitted. On the way
        to the release, the counters of our methods are left out.

    Raises:
        ValueError: no layout fits; the message lists, for the nearest one, unknown keys, missing keys and
            wrong shapes.
    """
    if to_official:
        state_dict = {key: value for key, value in state_dict.items() if not COUNTERS.fullmatch(key)}
    else:
        if all(key.startswith(family.file_prefix) for key in state_dict):
            state_dict = {key.removeprefix(family.file_prefix): value for key, value in state_dict.items()}
        if family.adapt is not None:
            state_dict = family.adapt(state_dict, False)
    best = None
    for layout, rows in family.layouts.items():
        rows = [
            row._replace(ours=prefix + row.ours[len('backbone.') :])
            if row.ours.startswith('backbone.')
            else row
            for row in rows
        ]
        pairs = [(row.ours, row.official) if to_official else (row.official, row.ours) for row in rows]
        match = _match(pairs, list(state_dict))
        if best is None or match.misfits < best[2].misfits:
            best = layout, rows, match
        if not match.misfits:
            break
    layout, rows, match = best  # type: ignore[misc]  # a family has layouts
    side = 'mmssl' if to_official else family.name
    if match.misfits:
        text = [f'{side} keys do not fit family {family.name!r} (nearest layout: {layout})']
        if match.unknown:
            text.append(f'{len(match.unknown)} unknown: {listed(match.unknown)}')
        if match.missing:
            text.append(f'{len(match.missing)} missing: {listed(match.missing)}')
        raise ValueError('; '.join(text) + _cure(family, match, to_official, prefix))
    wrong = _wrong_shapes(rows, state_dict, match)
    if wrong:
        raise ValueError(
            f'{len(wrong)} tensors do not fit family {family.name!r} ({layout}): {listed(wrong)}'
        )
    converted = {match.renamed[key]: value for key, value in state_dict.items()}
    return dict(
        family.adapt(converted, True)
    ) if to_official and family.adapt is not None else converted, layout


def _cure(family: Family, match: _Match, to_official: bool, prefix: str) -> str:
    other_way = 'the other direction' if to_official else 'the other direction (to_official, --reverse)'
    if match.renamed and any(key.split('.')[0] in ('neck', 'head') for key in match.unknown):
        return f'. Drop what a {family.name} file does not hold (--drop neck.)'
    if not match.renamed or len(match.unknown) > len(match.renamed):
        return f'. Is it {other_way}, or another prefix before the backbone than {prefix!r}?'
    return ''
