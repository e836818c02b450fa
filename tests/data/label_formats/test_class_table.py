"""Tables of classes beside label maps, in the forms that tools and people write."""

import pytest

from mmssl.data.label_formats.class_table import read_table
from mmssl.errors import LabelError


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('classes.txt', 'sky\r\n\r\nroad\n# comment\n', [('sky', None, None), ('road', None, None)]),
        ('classes.txt', '0 sky\n5 road\n', [('sky', None, 0), ('road', None, 5)]),
        ('classes.txt', '3 wheels\n4 wheels\n', [('3 wheels', None, None), ('4 wheels', None, None)]),
        ('classes.txt', 'lane 1\nlane 2\n', [('lane 1', None, None), ('lane 2', None, None)]),
        ('classes.txt', '0\n1\n2\n', [('0', None, None), ('1', None, None), ('2', None, None)]),
        ('classes.csv', 'name,value\nsky,7\nroad,2\n', [('sky', None, 7), ('road', None, 2)]),
        ('labels.csv', 'id,name\n0,sky\n1,road\n', [('sky', None, 0), ('road', None, 1)]),
        (
            'class_dict.csv',
            'name, r, g, b\nlane 3,1,2,3\na b,4,5,6\n',
            [('lane 3', (1, 2, 3), None), ('a b', (4, 5, 6), None)],
        ),
        (
            'colors.csv',
            'id,name,r,g,b\n0,sky,1,2,3\n1,road,4,5,6\n',
            [('sky', (1, 2, 3), None), ('road', (4, 5, 6), None)],
        ),
        ('classes.csv', 'name,r,g,b\n1,1,2,3\n2,4,5,6\n', [('1', (1, 2, 3), None), ('2', (4, 5, 6), None)]),
        (
            'label_colors.txt',
            '64 128 64\tAnimal\n192 0 128\tArch\n',
            [('Animal', (64, 128, 64), None), ('Arch', (192, 0, 128), None)],
        ),
        (
            'labelmap.txt',
            '# label:color_rgb:parts:actions\nsky:1,2,3::\nroad:4,5,6::\n',
            [('sky', (1, 2, 3), None), ('road', (4, 5, 6), None)],
        ),
        (
            'palette.txt',
            'sky #010203\nroad: #040506\n',
            [('sky', (1, 2, 3), None), ('road', (4, 5, 6), None)],
        ),
        ('classes.json', '["sky", "road"]', [('sky', None, None), ('road', None, None)]),
        (
            'classes.json',
            '{"sky": [1, 2, 3], "road": [4, 5, 6]}',
            [('sky', (1, 2, 3), None), ('road', (4, 5, 6), None)],
        ),
        ('classes.json', '{"0": "sky", "3": "road"}', [('sky', None, 0), ('road', None, 3)]),
        ('labels.json', '{"classes": [{"name": "sky", "color": "#010203"}]}', [('sky', (1, 2, 3), None)]),
    ],
)
def test_forms(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert [(row.name, row.color, row.value) for row in read_table(str(path))] == expected


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('sky\nsky\n', 'the name sky is listed twice'),
        ('name,r,g,b\nsky,1,2,3\nroad,1,2,3\n', r'the color \(1, 2, 3\) is listed twice'),
        ('\n# nothing\n', 'names no class'),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, reason):
    path = tmp_path / 'classes.txt'
    path.write_text(text)
    with pytest.raises(LabelError, match=reason):
        read_table(str(path))


@pytest.mark.parametrize('text', ['{"sky"', '[1, 2]', '[{"title": "sky"}]', '3'])
def test_json_that_is_no_table(tmp_path, text):
    path = tmp_path / 'classes.json'
    path.write_text(text)
    with pytest.raises(LabelError, match='classes.json: '):
        read_table(str(path))
