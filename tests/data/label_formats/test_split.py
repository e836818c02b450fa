"""Training and validation parts: by the layout, or by a hash that new images do not disturb."""

import pytest

from mmssl.data.label_formats import ImageLabels, LabelSet, split_labels


def labels_of(root, names, splits=None):
    images = [
        ImageLabels(name, str(root / name), 4, 4, split=(splits or {}).get(name)) for name in sorted(names)
    ]
    return LabelSet(str(root), 'coco', ['a'], images, str(root))


def names(part):
    return [image.name for image in part.images]


def test_a_fifth_is_validated_and_the_rule_is_stated(tmp_path):
    labels = labels_of(tmp_path, [f'{index}.png' for index in range(1000)])
    split = split_labels(labels)
    assert 160 < len(split.val) < 240 and len(split.train) + len(split.val) == 1000
    assert split.rule == '20% for validation, by a hash of the file name (seed 0)'
    assert names(split_labels(labels).val) == names(split.val)
    assert names(split_labels(labels, seed=1).val) != names(split.val)
    assert 400 < len(split_labels(labels, fraction=0.5).val) < 600


def test_images_that_are_added_do_not_move_others(tmp_path):
    before = split_labels(labels_of(tmp_path, [f'{index}.png' for index in range(100)]), tmp_path / 'work')
    more = labels_of(tmp_path, [f'{index}.png' for index in range(150)])
    after = split_labels(more, tmp_path / 'work')
    assert set(names(before.val)) < set(names(after.val)) and set(names(before.train)) < set(
        names(after.train)
    )
    listed = (tmp_path / 'work/val.txt').read_text().splitlines()
    assert listed == names(after.val)


def test_the_lists_may_be_edited(tmp_path):
    labels = labels_of(tmp_path, ['a b.png', '#c.png', 'd.png'])
    (tmp_path / 'train.txt').write_text('a b.png\n#c.png\n')
    (tmp_path / 'val.txt').write_text('d.png\n')
    split = split_labels(labels, tmp_path)
    assert names(split.val) == ['d.png'] and names(split.train) == ['#c.png', 'a b.png']


def test_folders_stay_together(tmp_path):
    labels = labels_of(tmp_path, [f'{folder}/{index}.png' for folder in range(20) for index in range(5)])
    split = split_labels(labels, by_folder=True)
    folders = [{name.partition('/')[0] for name in names(part)} for part in (split.train, split.val)]
    assert not folders[0] & folders[1] and len(folders[1]) >= 1
    mixed = split_labels(labels)  # names repeat, so that paths are hashed
    assert {name.partition('/')[0] for name in names(mixed.val)} & {
        name.partition('/')[0] for name in names(mixed.train)
    }


def test_the_parts_of_the_layout_are_followed(tmp_path):
    all_names = ['a.png', 'b.png', 'c.png']
    split = split_labels(labels_of(tmp_path, all_names, {'a.png': 'train', 'b.png': 'val', 'c.png': 'test'}))
    assert (names(split.train), names(split.val)) == (['a.png'], ['b.png'])
    assert split.rule == 'train and val of the layout'
    split = split_labels(labels_of(tmp_path, all_names, {'a.png': 'train', 'c.png': 'test'}))
    assert names(split.val) == ['c.png']
    with pytest.raises(ValueError, match="has a part 'val' but none for training"):
        split_labels(labels_of(tmp_path, all_names, {'a.png': 'val'}))


def test_two_images_are_enough_and_one_is_not(tmp_path):
    split = split_labels(labels_of(tmp_path, ['a.png', 'b.png']))
    assert len(split.train) == len(split.val) == 1
    with pytest.raises(ValueError, match='1 image cannot be split'):
        split_labels(labels_of(tmp_path, ['a.png']))
    with pytest.raises(ValueError, match='1 folder cannot be split'):
        split_labels(labels_of(tmp_path, ['x/a.png', 'x/b.png']), by_folder=True)
    with pytest.raises(ValueError, match='fraction=1 of the validation part'):
        split_labels(labels_of(tmp_path, ['a.png', 'b.png']), fraction=1)
