"""Mutations of annotation files for :mod:`mutate_annotations`: COCO, PASCAL VOC, label maps.

Every function takes a random generator and the path of a correct file, changes that file, and returns what
was changed. Half of the mutations are values of other types and bytes at random, the others are mistakes that
people and converters make.
"""

import copy
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from mutate_configs import misspell, nested_values
from PIL import Image

NUMBERS = (True, -1, 0, 0.5, 7, 10**30, 1e300, float('nan'), float('-inf'))
VALUES = (
    *NUMBERS,
    None,
    '',
    '7',
    'text',
    '1,5',
    '٣',
    ' 1 ',
    '0x10',
    '1e400',
    [],
    {},
    [1, 2],
    [[1, 2]],
    {'a': 1},
)
TEXTS = ('', '0', '-5', '1e400', 'nan', 'inf', '12.7', '12,7', '1' * 11, ' 30 ', 'text', '0x1F', 'True', '٣')


def change_bytes(rng: random.Random, path: Path) -> str:
    """Change, delete, repeat or insert bytes, or cut the file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data))
        action = rng.randrange(5)
        if action < 2:
            data[at] = rng.choice((0, 255, data[at] ^ 1, data[at] ^ 16, rng.randrange(32, 127)))
        elif action == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif action == 3:
            data[at:at] = data[at : at + rng.randrange(1, 30)]
        else:
            del data[at:]
        if not data:
            break
    path.write_bytes(data)
    return 'bytes changed'


def replace_file(rng: random.Random, path: Path) -> str:
    """Put something else in place of the file."""
    kind = rng.choice(
        ('missing', 'empty', 'folder', 'FIFO', 'link to itself', 'device', 'text', 'zeros', 'unreadable type')
    )
    path.unlink()
    if kind == 'empty':
        path.touch()
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'FIFO':
        os.mkfifo(path)
    elif kind == 'link to itself':
        path.symlink_to(path.name)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    elif kind == 'text':
        path.write_text('Not found\n')
    elif kind == 'zeros':
        path.write_bytes(bytes(4096))
    elif kind == 'unreadable type':
        path.write_text('[' * 100_000)
    return f'the file is {kind}'


def change_encoding(rng: random.Random, path: Path) -> str:
    """Write a text file in another encoding."""
    encoding = rng.choice(('utf-8-sig', 'utf-16', 'utf-32'))
    path.write_bytes(path.read_text(encoding='utf-8').encode(encoding))
    return f'encoded as {encoding}'


# COCO


def change_json_value(rng: random.Random, path: Path) -> str:
    """Delete or misspell a key, or replace a value, anywhere outside of run lengths."""
    content = json.loads(path.read_text())
    paths = [path for path, _ in nested_values(content)]
    candidates = [path for path in paths if len(path) < 6 and 'counts' not in path[:-1]]
    where = rng.choice([rng.choice(candidates), rng.choice([one for one in candidates if len(one) < 4])])
    holder = content
    for key in where[:-1]:
        holder = holder[key]
    name, last = '.'.join(map(str, where)), where[-1]
    action = rng.choice(('delete', 'value', 'value', 'misspell'))
    if action == 'misspell' and isinstance(last, str):
        wrong = misspell(last, rng)
        holder[wrong] = holder.pop(last)
        text = f'{name} is spelled {wrong}'
    elif action == 'delete':
        del holder[last]
        text = f'{name} deleted'
    else:
        holder[last] = rng.choice(VALUES)
        text = f'{name} = {holder[last]!r:.40}'
    path.write_text(json.dumps(content))
    return text


def _xyxy(content, rng):
    for entry in content['annotations']:
        left, top, width, height = entry['bbox']
        entry['bbox'] = [left, top, left + width, top + height]


def _shares(content, rng):
    for entry in content['annotations']:
        entry['bbox'] = [value / 320 for value in entry['bbox']]


def _ids_as_text(content, rng):
    for entry in content['annotations']:
        entry[rng.choice(('image_id', 'category_id'))] = str(entry['image_id'])


def _repeated_id(content, rng):
    section = content[rng.choice(('images', 'annotations', 'categories'))]
    section[1]['id'] = section[0]['id']


def _unlisted(content, rng):
    rng.choice(content['annotations'])[rng.choice(('image_id', 'category_id'))] = 4711


def _shuffled(content, rng):
    rng.shuffle(content['categories'])


def _renamed(content, rng):
    category = rng.choice(content['categories'])
    category['name'] = rng.choice(
        (category['name'].upper(), category['name'] + ' ', category['name'].replace('_', ' '), 'other')
    )


def _same_name(content, rng):
    content['categories'][1]['name'] = content['categories'][0]['name']


def _sizes_exchanged(content, rng):
    for image in content['images']:
        image['width'], image['height'] = image['height'], image['width']


def _all_crowds(content, rng):
    for entry in content['annotations']:
        entry['iscrowd'] = 1


def _without(key):
    def change(content, rng):
        for entry in content['annotations']:
            entry.pop(key)

    return change


def _compressed(content, rng):
    from pycocotools import mask

    for entry in content['annotations']:
        code = mask.frPyObjects(entry['segmentation'], *entry['segmentation']['size'])
        entry['segmentation'] = dict(size=code['size'], counts=code['counts'].decode())


def _polygons(content, rng):
    for entry in content['annotations']:
        x, y, w, h = entry['bbox']
        entry['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h][: rng.choice((8, 8, 4, 7, 0))]]


def _sections_as_dicts(content, rng):
    section = rng.choice(('images', 'annotations', 'categories'))
    content[section] = {str(entry['id']): entry for entry in content[section]}


def _no_section(content, rng):
    content[rng.choice(('images', 'annotations', 'categories'))] = rng.choice(([], None, 'all'))


def _other_paths(content, rng):
    for image in content['images']:
        image['file_name'] = rng.choice(
            (f'train/{image["file_name"]}', image['file_name'].replace('.jpg', '.png'), '../train.json',
             f'.\\{image["file_name"]}', content['images'][0]['file_name'])
        )  # fmt: skip


def _ids_from_0(content, rng):
    for category in content['categories']:
        category['id'] -= 1


def _nested_boxes(content, rng):
    for entry in content['annotations']:
        x, y, w, h = entry['bbox']
        entry['bbox'] = rng.choice(([[x, y], [w, h]], [[x, y, w, h]], dict(x=x, y=y, w=w, h=h)))


def _boxes_of_text(content, rng):
    for entry in content['annotations']:
        entry['bbox'] = [str(value) for value in entry['bbox']]


def _negative_boxes(content, rng):
    entry = rng.choice(content['annotations'])
    entry['bbox'] = [-value for value in entry['bbox']]


def _ids_as_floats(content, rng):
    for entry in content['annotations']:
        entry['image_id'] = float(entry['image_id'])


COCO_MISTAKES: tuple[Callable, ...] = (
    _xyxy, _shares, _ids_as_text, _repeated_id, _unlisted, _shuffled, _renamed, _same_name, _sizes_exchanged,
    _all_crowds, _without('iscrowd'), _without('area'), _without('bbox'), _without('segmentation'),
    _without('id'), _without('category_id'), _compressed, _polygons, _sections_as_dicts, _no_section,
    _other_paths, _ids_from_0, _nested_boxes, _boxes_of_text, _negative_boxes, _ids_as_floats,
)  # fmt: skip


def make_coco_mistake(rng: random.Random, path: Path) -> str:
    """Make one of the mistakes that are usual in COCO files."""
    content = json.loads(path.read_text())
    change = rng.choice(COCO_MISTAKES)
    change(content, rng)
    path.write_text(json.dumps(content))
    return change.__qualname__.split('.')[0].strip('_').replace('_', ' ')


# PASCAL VOC


def change_xml_value(rng: random.Random, path: Path) -> str:
    """Delete, rename or repeat an element, or replace its text."""
    tree = ElementTree.parse(path)
    pairs = [(parent, child) for parent in tree.iter() for child in parent]
    parent, child = rng.choice(pairs)
    action = rng.choice(('text', 'text', 'text', 'delete', 'rename', 'repeat', 'move'))
    if action == 'text':
        child.text = rng.choice(TEXTS)
        text = f'{child.tag} = {child.text!r}'
    elif action == 'rename':
        text = f'{child.tag} renamed'
        child.tag = misspell(child.tag, rng)
    elif action == 'repeat':
        twin = copy.deepcopy(child)
        parent.insert(0, twin)
        text = f'{child.tag} repeated'
    else:
        parent.remove(child)
        if action == 'move':
            tree.getroot().append(child)
        text = f'{child.tag}: {action}'
    tree.write(path)
    return text


def _edit_objects(tree, change):
    for entry in tree.iter('object'):
        change(entry)


def _set(entry, tag, text):
    entry.find(tag).text = text


def _exchange(entry, first, second):
    box = entry.find('bndbox')
    one, other = box.find(first), box.find(second)
    one.text, other.text = other.text, one.text


def make_xml_mistake(rng: random.Random, path: Path) -> str:
    """Make one of the mistakes that are usual in files of PASCAL VOC."""
    tree = ElementTree.parse(path)
    changes: dict[str, Callable] = {
        'corners exchanged': lambda entry: [_exchange(entry, f'{axis}min', f'{axis}max') for axis in 'xy'],
        'axes exchanged': lambda entry: [_exchange(entry, f'x{end}', f'y{end}') for end in ('min', 'max')],
        'boxes as shares': lambda entry: [
            setattr(node, 'text', str(float(node.text) / 320)) for node in entry.find('bndbox')
        ],
        'floats': lambda entry: [setattr(node, 'text', f'{node.text}.5') for node in entry.find('bndbox')],
        'difficult': lambda entry: _set(entry, 'difficult', rng.choice(('1', 'true', '', 'none', '2'))),
        'names in capitals': lambda entry: _set(entry, 'name', entry.findtext('name').upper()),
        'names with line breaks': lambda entry: _set(entry, 'name', f'\n  {entry.findtext("name")}\n'),
        'no names': lambda entry: _set(entry, 'name', None),
        'other names': lambda entry: _set(entry, 'name', rng.choice(('cat', 'dog'))),
        'no boxes': lambda entry: entry.remove(entry.find('bndbox')),
        'no difficult': lambda entry: entry.remove(entry.find('difficult')),
        'boxes outside': lambda entry: [setattr(node, 'text', '5000') for node in entry.find('bndbox')],
        'points': lambda entry: [setattr(node, 'text', '50') for node in entry.find('bndbox')],
    }
    whole: dict[str, Callable] = {
        'no size': lambda root: root.remove(root.find('size')),
        'size of 0': lambda root: [setattr(node, 'text', '0') for node in root.find('size')],
        'size exchanged': lambda root: _exchange_sizes(root.find('size')),
        'no objects': lambda root: [root.remove(entry) for entry in root.findall('object')],
        'a namespace': lambda root: [
            setattr(node, 'tag', f'{{http://example.org}}{node.tag}') for node in root.iter()
        ],
    }
    name = rng.choice([*changes, *whole])
    if name in changes:
        _edit_objects(tree, changes[name])
    else:
        whole[name](tree.getroot())
    tree.write(path)
    if rng.random() < 0.1:
        return _expand_entities(path)
    return name


def _exchange_sizes(size) -> None:
    width, height = size.find('width'), size.find('height')
    width.text, height.text = height.text, width.text


def _expand_entities(path: Path) -> str:
    """Let an entity of a few bytes stand for gigabytes."""
    text = path.read_text()
    entities = ''.join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    text = text.replace('<folder>VOC2007', '<folder>&e9;')
    path.write_text(f'<!DOCTYPE annotation [<!ENTITY e0 "0123456789">{entities}]>\n{text}')
    return 'entities of entities'


def change_list(rng: random.Random, path: Path) -> str:
    """Change the list of images that belongs to the file."""
    listing = path.parents[1] / 'ImageSets/Main' / ('train.txt' if path.stem < 'scene_0061' else 'val.txt')
    lines = listing.read_text().splitlines()
    texts = {
        'blank lines': '\n\n'.join(lines) + '\n\n',
        'suffixes': '\n'.join(f'{line}.jpg' for line in lines),
        'columns': '\n'.join(f'{line}  1' for line in lines),
        'CRLF': '\r\n'.join(lines),
        'repeated': '\n'.join([*lines, lines[0]]),
        'unlisted': '\n'.join([*lines, 'scene_9999']),
        'spaces': '\n'.join(f'{line} ' for line in lines),
        'empty': '',
    }
    kind = rng.choice(list(texts))
    listing.write_bytes(texts[kind].encode())
    return f'list of images: {kind}'


# label maps


def change_label_map(rng: random.Random, path: Path) -> str:
    """Save a label map in another form, or with other values."""
    labels = np.asarray(Image.open(path))
    kind = rng.choice(sorted(LABEL_FORMS))
    LABEL_FORMS[kind](labels, path, rng)
    return kind


def _save(image: Image.Image, path: Path, **options) -> None:
    buffer = io.BytesIO()
    image.save(buffer, **{'format': 'PNG', **options})
    path.write_bytes(buffer.getvalue())


def _as_image(labels, mode='L'):
    return Image.fromarray(labels.astype(np.uint8)).convert(mode)


def _with_value(labels, value, kind=np.uint8):
    labels = labels.astype(kind)
    labels[10:20, 10:20] = value
    return labels


# a form of which training has to get the same labels ends in '=', and others have to be refused or to be read
# as the reference reads them
LABEL_FORMS: dict[str, Callable] = {
    'grey=': lambda labels, path, rng: _save(_as_image(labels), path),
    'grey with alpha=': lambda labels, path, rng: _save(_as_image(labels, 'LA'), path),
    'three equal channels=': lambda labels, path, rng: _save(_as_image(labels, 'RGB'), path),
    'four channels=': lambda labels, path, rng: _save(_as_image(labels, 'RGBA'), path),
    '16 bits=': lambda labels, path, rng: _save(Image.fromarray(labels.astype(np.uint16)), path),
    '32 bits=': lambda labels, path, rng: _save(
        Image.fromarray(labels.astype(np.int32)), path, format='TIFF'
    ),
    'TIFF=': lambda labels, path, rng: _save(_as_image(labels), path, format='TIFF'),
    'BMP=': lambda labels, path, rng: _save(_as_image(labels), path, format='BMP'),
    'GIF=': lambda labels, path, rng: _save(Image.open(path), path, format='GIF'),
    'no compression=': lambda labels, path, rng: _save(Image.open(path), path, compress_level=0),
    'coloured': lambda labels, path, rng: _save(Image.open(path).convert('RGB'), path),
    'JPEG': lambda labels, path, rng: _save(_as_image(labels), path, format='JPEG'),
    'WebP': lambda labels, path, rng: _save(_as_image(labels, 'RGB'), path, format='WEBP', quality=50),
    'floats': lambda labels, path, rng: _save(
        Image.fromarray(labels.astype(np.float32) + 0.5), path, format='TIFF'
    ),
    'half the size': lambda labels, path, rng: _save(_as_image(labels[::2, ::2]), path),
    'a row less': lambda labels, path, rng: _save(_as_image(labels[1:]), path),
    'rotated': lambda labels, path, rng: _save(_as_image(labels.T), path),
    'one pixel': lambda labels, path, rng: _save(_as_image(labels[:1, :1]), path),
    'one too high': lambda labels, path, rng: _save(_as_image(labels + 1), path),
    'value 200': lambda labels, path, rng: _save(_as_image(_with_value(labels, 200)), path),
    'value 11': lambda labels, path, rng: _save(_as_image(_with_value(labels, 11)), path),
    'value 300': lambda labels, path, rng: _save(Image.fromarray(_with_value(labels, 300, np.uint16)), path),
    'value 256': lambda labels, path, rng: _save(Image.fromarray(_with_value(labels, 256, np.uint16)), path),
    'value -1': lambda labels, path, rng: _save(
        Image.fromarray(_with_value(labels, -1, np.int32)), path, format='TIFF'
    ),
    '0 and 255': lambda labels, path, rng: _save(_as_image(np.where(labels > 0, 255, 0)), path),
    'all ignored': lambda labels, path, rng: _save(_as_image(np.full_like(labels, 255)), path),
    'CMYK': lambda labels, path, rng: _save(_as_image(labels, 'RGB').convert('CMYK'), path, format='TIFF'),
    'rotated by EXIF': lambda labels, path, rng: _save(_as_image(labels), path, exif=_turned()),
    'truncated': lambda labels, path, rng: path.write_bytes(path.read_bytes()[: rng.randrange(40, 2000)]),
    'a byte of the pixels': lambda labels, path, rng: _flip_in_pixels(path, rng),
    'a NumPy array': lambda labels, path, rng: _save_array(labels, path),
    'huge': lambda labels, path, rng: path.write_bytes(
        path.read_bytes().replace((320).to_bytes(4, 'big'), (60000).to_bytes(4, 'big'), 1)
    ),
}


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _save_array(labels, path: Path) -> None:
    with path.open('wb') as file:
        np.save(file, labels)


def _flip_in_pixels(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = data.index(b'IDAT') + 4
    at = rng.randrange(start + 2, len(data) - 20)
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


MUTATIONS: dict[str, tuple[Callable, ...]] = {
    'COCO': (change_json_value,) * 4 + (make_coco_mistake,) * 6
    + (change_bytes, replace_file, change_encoding),
    'VOC': (change_xml_value,) * 4 + (make_xml_mistake,) * 4
    + (change_list, change_bytes, replace_file, change_encoding),
    'label maps': (change_label_map,) * 7 + (change_bytes,) * 3 + (replace_file,),
}  # fmt: skip
