"""Label images of every type are read as the numbers they hold, or refused by name."""

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmssl.data.images import BadImageError
from mmssl.data.label_maps import LoadLabelMap, read_label_map
from mmssl.data.transforms import LoadImage

CLASSES = np.arange(1200).reshape(30, 40) % 11


def save(path, values, mode=None, **options):
    Image.fromarray(values, mode).save(path, **options)
    return path


def load(path, img_shape=(30, 40), told=False, label_map=None, transform=None):
    results = dict(
        img_path='photo.jpg',
        seg_map_path=str(path),
        ori_shape=img_shape,
        reduce_zero_label=told,
        label_map=label_map,
        seg_fields=[],
    )
    return (transform or LoadLabelMap()).transform(results)


@pytest.mark.parametrize(
    'name',
    [
        'grey',
        'palette',
        'sixteen bits',
        'rgb of one value',
        'rgba of one value',
        'grey with alpha',
        '32 bits, tiff',
        'bmp',
    ],
)
def test_the_numbers_are_read(name, tmp_path):
    grey = CLASSES.astype(np.uint8)
    path = tmp_path / f'label.{dict(bmp="bmp", tiff="tif").get(name[-4:].strip(), "png")}'
    stack = np.stack([grey] * 3, -1)
    if name == 'palette':
        picture = Image.fromarray(grey, 'P')
        picture.putpalette([200, 30, 40] * 5 + list(range(3, 36)))  # some classes have one colour
        picture.save(path)
    else:
        save(
            path,
            {
                'sixteen bits': CLASSES.astype(np.uint16),
                '32 bits, tiff': CLASSES.astype(np.int32),
                'rgb of one value': stack,
                'rgba of one value': np.concatenate([stack, np.full_like(stack[..., :1], 9)], -1),
                'grey with alpha': np.stack([grey, np.full_like(grey, 9)], -1),
            }.get(name, grey),
        )
    found = load(path)
    assert (
        found['gt_seg_map'].dtype == np.uint8
        and (found['gt_seg_map'] == CLASSES).all()
        and found['seg_fields'] == ['gt_seg_map']
    )


def test_values_above_a_byte_stay(tmp_path):
    """mmseg's loader makes 300 to 44."""
    path = save(tmp_path / 'wide.png', (CLASSES + 290).astype(np.uint16))
    found = load(path)['gt_seg_map']
    assert found.dtype == np.uint16 and (found == CLASSES + 290).all()
    with pytest.raises(
        BadImageError, match=r'wide\.png: reduce_zero_label turns 0 into 255, which is a class here'
    ):
        load(path, told=True)
    bits = tmp_path / 'bits.png'
    Image.fromarray((CLASSES > 4).astype(np.uint8) * 255).convert('1').save(bits)
    assert sorted(np.unique(load(bits)['gt_seg_map'])) == [0, 1]


def test_refused_by_name(tmp_path):
    grey = CLASSES.astype(np.uint8)
    colours = np.stack([grey, grey, grey + 1], -1)
    cases = {
        'colours.png': (colours, r'pixel \(0, 0\) is \(0, 0, 1\), which is not a class index'),
        'lossy.jpg': (grey, 'JPEG changes the numbers'),
        'size.png': (grey[:20], 'the label has 40x20 pixels and the image photo'),
        'turned.png': (np.ascontiguousarray(grey.T), 'rotated by its EXIF tag'),
        'float.tif': (grey.astype(np.float32), 'mode F'),
    }
    for name, (values, reason) in cases.items():
        with pytest.raises(BadImageError, match=rf'{name}: .*{reason}'):
            load(save(tmp_path / name, values))
    negative = save(tmp_path / 'negative.tif', CLASSES.astype(np.int32) - 3)
    with pytest.raises(BadImageError, match='negative.tif: holds numbers from -3 to 7'):
        load(negative)
    whole = save(tmp_path / 'cut.png', grey).read_bytes()
    (tmp_path / 'cut.png').write_bytes(whole[:-80])
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'folder.png').mkdir()
    for name, reason in (
        ('cut.png', 'undecodable|truncated'),
        ('empty.png', 'empty'),
        ('folder.png', 'folder'),
    ):
        with pytest.raises(BadImageError, match=f'{name}: .*({reason})'):
            read_label_map(str(tmp_path / name))
    with pytest.raises(ValueError, match='reduce_zero_label=True of LoadLabelMap, but False of the data set'):
        load(save(tmp_path / 'a.png', grey), transform=LoadLabelMap(reduce_zero_label=True))
    assert 'gt_seg_map' not in LoadLabelMap().transform(dict(img_path='alone.jpg'))


@pytest.mark.parametrize(
    'told, label_map',
    [(False, None), (True, None), (False, {0: 3, 3: 0, 7: 255}), (True, {0: -1, 1: 0, 2: 1})],
)
def test_usual_files_are_read_as_the_host_reads_them(told, label_map, tmp_path):
    transforms = pytest.importorskip('mmseg.datasets.transforms')
    from mmcv.transforms import LoadImageFromFile

    label = CLASSES.astype(np.uint8)
    label[:3], label[3:5] = 255, 254
    path = save(tmp_path / 'label.png', label)
    host_map = {old: new % 256 for old, new in label_map.items()} if label_map else None
    host = load(path, told=told, label_map=host_map, transform=transforms.LoadAnnotations())['gt_seg_map']
    mine = load(path, told=told, label_map=label_map)['gt_seg_map']
    assert mine.dtype == host.dtype and (mine == host).all()
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for name in ('a.jpg', 'a.png', 'a.bmp'):
        image = dict(img_path=str(save(tmp_path / name, photo)))
        assert (
            LoadImage().transform(dict(image))['img'] == LoadImageFromFile().transform(dict(image))['img']
        ).all()


def test_data_sets_of_the_host_differ_in_their_readers_alone(repo_root):
    mmseg = pytest.importorskip('mmseg')
    from pathlib import Path

    from mmssl.hosts import patches

    patches.apply()
    readers = {
        'mmssl.LoadImage': 'image',
        'LoadImageFromFile': 'image',
        'mmssl.LoadLabelMap': 'label',
        'LoadAnnotations': 'label',
    }

    def plain(node):
        if isinstance(node, dict):
            node = {
                key: plain(value) for key, value in node.items() if key not in ('_scope_', 'backend_args')
            }
            return {**node, 'type': readers.get(node['type'], node['type'])} if 'type' in node else node
        return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node

    for host, mine in (
        ('ade20k', 'ade20k_512'),
        ('cityscapes', 'cityscapes_512x1024'),
        ('pascal_voc12_aug', 'voc12aug_512'),
    ):
        theirs = Config.fromfile(
            Path(mmseg.__file__).parent / f'.mim/configs/_base_/datasets/{host}.py'
        )._cfg_dict.to_dict()
        ours = Config.fromfile(repo_root / f'configs/_base_/datasets/{mine}.py')._cfg_dict.to_dict()
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline'):
            assert plain(ours[key]) == plain(theirs[key]), (mine, key)
