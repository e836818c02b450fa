"""Configs as text: whole, as Python that gives the same values again, and what differs between two of them. Imports nothing heavy."""

import difflib
import keyword
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MISSING = object()


class Change(NamedTuple):
    """One difference; ``old`` or ``new`` is ``MISSING`` where the path was added or removed."""

    path: str
    old: Any
    new: Any


def to_python(settings: Mapping, width: int = 80) -> str:
    """Settings as ``name = value`` lines; running them gives equal settings.

    Args:
        settings: names to literals, dicts and sequences of such; classes and functions become their import
            path, which a registry takes.
        width: columns.

    Returns:
        the text, with a newline at its end where there is any.
    """
    return ''.join(
        f'{name} = {value_text(value, width, used=len(name) + 3)}\n' for name, value in settings.items()
    )


def value_text(value, width: int = 80, indent: int = 0, used: int = 0) -> str:
    """One value as Python.

    Args:
        value: a literal, a dict or a sequence of such, a class or function.
        width: columns.
        indent: of the lines after the first, in spaces.
        used: columns of the first line that are taken, ``indent`` included.
    """
    flat = _flat(value)
    if len(flat) + used <= width or not isinstance(value, (Mapping, list, tuple)) or not value:
        return flat
    inner = indent + 4
    pad, end = '\n' + ' ' * inner, '\n' + ' ' * indent
    if isinstance(value, Mapping):
        if _keyworded(value):
            rows = [
                f'{key}={value_text(item, width - 1, inner, inner + len(key) + 1)}'
                for key, item in value.items()
            ]
            return f'dict({pad}{("," + pad).join(rows)}{end})'
        keys = [_flat(key) for key in value]
        rows = [
            f'{key}: {value_text(item, width - 1, inner, inner + len(key) + 2)}'
            for key, item in zip(keys, value.values(), strict=True)
        ]
        return f'{{{pad}{("," + pad).join(rows)}{end}}}'
    opening, closing = '[]' if isinstance(value, list) else '()'
    if any(isinstance(item, (Mapping, list, tuple)) and len(_flat(item)) > width // 2 for item in value):
        rows = [value_text(item, width - 1, inner, inner) for item in value]
    else:
        rows = _filled([_flat(item) for item in value], width - inner - 1)
    comma = ',' if closing == ')' and len(value) == 1 else ''
    return f'{opening}{pad}{("," + pad).join(rows)}{comma}{end}{closing}'


def _filled(words: list[str], width: int) -> list[str]:
    """Short values, several a line."""
    rows = [words[0]]
    for word in words[1:]:
        if len(rows[-1]) + 2 + len(word) <= width:
            rows[-1] += f', {word}'
        else:
            rows.append(word)
    return rows


def _keyworded(value: Mapping) -> bool:
    return all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value)


def _flat(value) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        if _keyworded(value):
            return f'dict({", ".join(f"{key}={_flat(item)}" for key, item in value.items())})'
        return f'{{{", ".join(f"{_flat(key)}: {_flat(item)}" for key, item in value.items())}}}'
    if isinstance(value, tuple):
        return f'({", ".join(map(_flat, value))}{"," * (len(value) == 1)})'
    if isinstance(value, list):
        return f'[{", ".join(map(_flat, value))}]'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(map(_flat, value)))}}}' if value else 'set()'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or isinstance(value, (bool, int, float, str, bytes, range)):
        return repr(value)
    name = getattr(value, '__qualname__', None)
    return repr(f'{value.__module__}.{name}' if name else str(value))


def changes(old, new, path: str = '') -> Iterator[Change]:
    """What differs between two settings, by dotted path as ``--cfg-options`` takes it.

    Lists of dicts are laid side by side by their ``type``, so that a transform put into a pipeline is one
    addition; the number in a path is that of the new list, of the old one where the entry is gone.

    Args:
        old: a value.
        new: a value.
        path: of both.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from changes(
                old.get(key, MISSING), new.get(key, MISSING), f'{path}.{key}' if path else str(key)
            )
    elif _dicts(old) and _dicts(new):
        yield from _list_changes(old, new, path)
    elif old is MISSING or new is MISSING or type(old) is not type(new) or _flat(old) != _flat(new):
        if not _same(old, new):
            yield Change(path, old, new)


def _same(old, new) -> bool:
    """Whether values do the same: 1 and 1.0 do, True and 1, or a list and a tuple, are told apart."""
    return {type(old), type(new)} == {int, float} and old == new


def _dicts(value) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(item, Mapping) for item in value)
    )


def _list_changes(old, new, path: str) -> Iterator[Change]:
    kinds = [[_flat(item.get('type', '')) for item in entries] for entries in (old, new)]
    for action, first, last, begin, end in difflib.SequenceMatcher(
        None, kinds[0], kinds[1], autojunk=False
    ).get_opcodes():
        pairs = list(zip(range(first, last), range(begin, end), strict=False))
        if action in ('equal', 'replace'):
            for was, now in pairs:
                same_kind = kinds[0][was] == kinds[1][now]
                yield from (
                    changes(old[was], new[now], f'{path}.{now}')
                    if same_kind
                    else [Change(f'{path}.{now}', old[was], new[now])]
                )
        done = len(pairs) if action == 'replace' else 0
        if action != 'equal':
            yield from (Change(f'{path}.{was}', old[was], MISSING) for was in range(first + done, last))
            yield from (Change(f'{path}.{now}', MISSING, new[now]) for now in range(begin + done, end))


def change_lines(change: Change, width: int = 80) -> list[tuple[str, str]]:
    """A difference as lines to print.

    Returns:
        (sign, line) pairs; the sign is '+', '-' or '~', and the line begins with it.
    """
    path, old, new = change
    if old is MISSING or new is MISSING:
        sign, value = ('+', new) if old is MISSING else ('-', old)
        body = f'{path} = {value_text(value, width - 2, 0, len(path) + 3)}'
        return [
            (sign, f'{sign if not number else " "} {line}') for number, line in enumerate(body.split('\n'))
        ]
    flat = f'~ {path}: {_flat(old)} -> {_flat(new)}'
    if len(flat) <= width:
        return [('~', flat)]
    lines = [('~', f'~ {path}')]
    for sign, value in (('-', old), ('+', new)):
        text = value_text(value, width - 6, 0, 0)
        lines += [
            (sign, f'    {sign if not number else " "} {line}')
            for number, line in enumerate(text.split('\n'))
        ]
    return lines
