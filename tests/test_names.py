"""Identifiers of the package: the words of the field, not those of a dialect."""

import re
from collections import Counter
from pathlib import Path

import pytest
from sources import PACKAGE, bound_names, modules

# what to write instead: tokens or pixels, positions, index or offset, the noun, matches, requested, valid or
# mask, fraction or weight, grad_output, height, width, description, what the values are
DIALECT = {
    'cells', 'found', 'kept', 'one', 'place', 'places', 'pull', 'seen', 'share', 'tall', 'there', 'told',
    'wanted', 'wide',
}  # fmt: skip


def words(identifier):
    """The words of a snake_case or CamelCase name, in lower case."""
    return [word.lower() for word in re.findall(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+', identifier)]


@pytest.mark.parametrize(
    ('identifier', 'expected'),
    [('_few_cells', ['few', 'cells']), ('FullSizeMask', ['full', 'size', 'mask']), ('tokens', ['tokens'])],
)
def test_words_of_an_identifier(identifier, expected):
    assert words(identifier) == expected


def test_no_identifier_uses_the_dialect():
    offenders = [
        f'{path.relative_to(PACKAGE.parent)}:{line}: {name}'
        for path in modules().values()
        for line, name in bound_names(path)
        if DIALECT.intersection(words(name))
    ]
    assert not offenders, '\n'.join(offenders)


def test_files_of_tests_have_names_of_their_own():
    """Pytest imports them by their base names, as the folders are no packages."""
    files = Path(__file__).parent.rglob('test_*.py')
    names = Counter(path.name for path in files)
    assert [name for name, number in names.items() if number > 1] == []
