"""Configs as text: Python that gives the same values again, and the difference of two configs."""

import difflib
import keyword
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MISSING = object()


class Change(NamedTuple):
    """A difference; ``old`` or ``new`` is ``MISSING`` where the path was added or removed."""

    path: str
    old: Any
    new: Any


def to_python(settings: Mapping, width: int = 80) -> str:
    """Format settings as lines of ``name = value``; running them gives equal settings.

    Args:
        settings: Literals, dicts and sequences of these by name; classes and functions become their import
            path, which a registry accepts.
        width: Columns.

    Returns:
        The text, with a newline at its end unless it is empty.
    """
    return ''.join(
        f'{name} = {value_text(value, width, used=len(name) + 3)}\n' for name, value in settings.items()
    )


def value_text(value: Any, width: int = 80, indent: int = 0, used: int = 0) -> str:
    """Format a value as Python.

    Args:
        value: A literal, a dict or a sequence of these, a class or function.
        width: Columns.
        indent: Indentation of the lines after the first.
        used: Columns of the first line that are taken, ``indent`` included.
    """
    flat = _flat_text(value)
    if len(flat) + used <= width or not isinstance(value, (Mapping, list, tuple)) or not value:
        return flat
    inner = indent + 4
    opening, closing = _brackets(value)
    if isinstance(value, Mapping):
        rows = _item_rows(value, width - 1, inner)
    elif any(_is_long(item, width) for item in value):
        rows = [value_text(item, width - 1, inner, inner) for item in value]
    else:
        rows = _filled_rows([_flat_text(item) for item in value], width - inner - 1)
    separator = '\n' + ' ' * inner
    comma = ',' if closing == ')' and opening == '(' and len(value) == 1 else ''
    body = f',{separator}'.join(rows)
    return f'{opening}{separator}{body}{comma}\n{" " * indent}{closing}'


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping):
        return ('dict(', ')') if _has_keyword_names(value) else ('{', '}')
    return ('[', ']') if isinstance(value, list) else ('(', ')')


def _item_rows(value: Mapping, width: int, indent: int) -> list[str]:
    """Format each item of a dict, as ``key=value`` or ``key: value``."""
    if _has_keyword_names(value):
        prefixes = [f'{key}=' for key in value]
    else:
        prefixes = [f'{_flat_text(key)}: ' for key in value]
    return [
        prefix + value_text(item, width, indent, indent + len(prefix))
        for prefix, item in zip(prefixes, value.values(), strict=True)
    ]


def _is_long(item: Any, width: int) -> bool:
    return isinstance(item, (Mapping, list, tuple)) and len(_flat_text(item)) > width // 2


def _filled_rows(words: list[str], width: int) -> list[str]:
    """Join short values to rows of up to ``width`` columns."""
    rows = [words[0]]
    for word in words[1:]:
        if len(rows[-1]) + 2 + len(word) <= width:
            rows[-1] += f', {word}'
        else:
            rows.append(word)
    return rows


def _has_keyword_names(value: Mapping) -> bool:
    return all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value)


def _flat_text(value: Any) -> str:
    """Format a value on one line."""
    if isinstance(value, Mapping):
        if _has_keyword_names(value):
            return f'dict({", ".join(f"{key}={_flat_text(item)}" for key, item in value.items())})'
        return f'{{{", ".join(f"{_flat_text(key)}: {_flat_text(item)}" for key, item in value.items())}}}'
    if isinstance(value, tuple):
        return f'({", ".join(map(_flat_text, value))}{"," * (len(value) == 1)})'
    if isinstance(value, list):
        return f'[{", ".join(map(_flat_text, value))}]'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(map(_flat_text, value)))}}}' if value else 'set()'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or isinstance(value, (bool, int, float, str, bytes, range)):
        return repr(value)
    name = getattr(value, '__qualname__', None)
    return repr(f'{value.__module__}.{name}' if name else str(value))


def changes(old: Any, new: Any, path: str = '') -> Iterator[Change]:
    """Yield the differences of two settings, by dotted path as ``--cfg-options`` takes it.

    Lists of dicts are aligned by their ``type``, so that a transform inserted into a pipeline is a single
    addition; the index in a path is that in the new list, or in the old one where the entry was removed.

    Args:
        old: A value.
        new: A value.
        path: Path of both.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            below = f'{path}.{key}' if path else str(key)
            yield from changes(old.get(key, MISSING), new.get(key, MISSING), below)
    elif _is_list_of_dicts(old) and _is_list_of_dicts(new):
        yield from _list_changes(old, new, path)
    elif not _is_same(old, new):
        yield Change(path, old, new)


def _is_same(old: Any, new: Any) -> bool:
    """Return True for values with the same effect: 1 and 1.0, but not True and 1, or a list and a tuple."""
    if old is MISSING or new is MISSING:
        return False
    if {type(old), type(new)} == {int, float}:
        return old == new
    return type(old) is type(new) and _flat_text(old) == _flat_text(new)


def _is_list_of_dicts(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(item, Mapping) for item in value)
    )


def _list_changes(old: Any, new: Any, path: str) -> Iterator[Change]:
    old_types = [_flat_text(item.get('type', '')) for item in old]
    new_types = [_flat_text(item.get('type', '')) for item in new]
    matcher = difflib.SequenceMatcher(None, old_types, new_types, autojunk=False)
    for _, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        paired = min(old_end - old_start, new_end - new_start)
        for offset in range(paired):
            before = old_start + offset
            after = new_start + offset
            if old_types[before] == new_types[after]:
                yield from changes(old[before], new[after], f'{path}.{after}')
            else:
                yield Change(f'{path}.{after}', old[before], new[after])
        for index in range(old_start + paired, old_end):
            yield Change(f'{path}.{index}', old[index], MISSING)
        for index in range(new_start + paired, new_end):
            yield Change(f'{path}.{index}', MISSING, new[index])


def change_lines(change: Change, width: int = 80) -> list[tuple[str, str]]:
    """Format a difference as lines to print.

    Returns:
        (sign, line) pairs; the sign is '+', '-' or '~', and the first line begins with it.
    """
    path, old, new = change
    if old is MISSING or new is MISSING:
        sign, value = ('+', new) if old is MISSING else ('-', old)
        return _signed_lines(sign, f'{path} = {value_text(value, width - 2, 0, len(path) + 3)}')
    flat = f'~ {path}: {_flat_text(old)} -> {_flat_text(new)}'
    if len(flat) <= width:
        return [('~', flat)]
    lines = [('~', f'~ {path}')]
    for sign, value in (('-', old), ('+', new)):
        lines += _signed_lines(sign, value_text(value, width - 6), '    ')
    return lines


def _signed_lines(sign: str, text: str, indent: str = '') -> list[tuple[str, str]]:
    first, *rest = text.split('\n')
    return [(sign, f'{indent}{sign} {first}'), *((sign, f'{indent}  {line}') for line in rest)]
