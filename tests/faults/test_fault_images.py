"""Every odd kind of image through the pipeline of every system: converted, or refused by name."""

import struct
import zlib

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image

from mmssl.data.images import BadImageError

ANNOTATIONS = ('LoadAnnotations', 'mmssl.LoadLabelMap', 'mmssl.LoadMasks', 'mmssl.FlipWithMasks')
SYSTEMS = ('mae', 'rfcn', 'gcn', 'sam')
WIDE = (40, 30)


def picture(size=WIDE):
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def png_of_size(width, height):
    """A PNG that promises a size and holds a few bytes."""

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """One file of each kind."""
    root = tmp_path_factory.mktemp('odd images ä')
    rgb = picture()
    rgb.save(root / 'plain.jpg')
    picture((1, 1)).save(root / 'one_pixel.png')
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54).save(root / 'sixteen_bits.png')
    for mode, name in (
        ('CMYK', 'cmyk.jpg'),
        ('RGBA', 'rgba.png'),
        ('LA', 'grey_alpha.png'),
        ('P', 'palette.png'),
        ('1', 'bits.png'),
        ('L', 'grey.jpg'),
    ):
        rgb.convert(mode).save(root / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(root / 'turned.jpg', exif=exif)
    rgb.save(root / 'animated.gif', save_all=True, append_images=[rgb.rotate(180)])
    whole = (root / 'plain.jpg').read_bytes()
    (root / 'cut.jpg').write_bytes(whole[:-40])
    rgb.save(root / 'cut.png')
    (root / 'cut.png').write_bytes((root / 'cut.png').read_bytes()[:-60])
    (root / 'empty.jpg').touch()
    (root / 'folder.jpg').mkdir()
    (root / 'text.jpg').write_text('no image')
    Image.fromarray(np.ones((4, 4), np.float32)).save(root / 'floats.tif')
    (root / 'huge.png').write_bytes(png_of_size(20000, 20000))
    return root


@pytest.fixture(scope='module')
def pipelines(repo_root):
    """The training pipeline of a smoke config of each system, without annotations."""
    found = {}
    for name in SYSTEMS:
        cfg = Config.fromfile(repo_root / f'configs/smoke/{name}.py')
        DefaultScope._instance_dict.clear()
        init_default_scope(cfg.default_scope)
        found[name] = Compose([step for step in cfg.train_pipeline if step['type'] not in ANNOTATIONS])
    return found


def read(pipeline, path):
    return pipeline(dict(img_path=str(path), img_id=1, seg_fields=[], sample_idx=0))


@pytest.mark.parametrize('system', SYSTEMS)
@pytest.mark.parametrize(
    'name',
    [
        'plain.jpg',
        'one_pixel.png',
        'cmyk.jpg',
        'rgba.png',
        'grey_alpha.png',
        'palette.png',
        'bits.png',
        'grey.jpg',
        'turned.jpg',
        'animated.gif',
    ],
)
def test_converted(system, name, folder, pipelines):
    packed = read(pipelines[system], folder / name)
    inputs = packed['inputs'][0] if isinstance(packed['inputs'], (list, tuple)) else packed['inputs']
    assert inputs.ndim == 3 and inputs.shape[0] == 3 and str(inputs.dtype) == 'torch.uint8'
    shape = getattr(packed['data_samples'], 'ori_shape', None)
    if shape is not None:
        assert tuple(shape[:2]) == {'one_pixel.png': (1, 1), 'turned.jpg': WIDE}.get(name, WIDE[::-1])


@pytest.mark.parametrize('system', SYSTEMS)
@pytest.mark.parametrize(
    'name, reason',
    [
        ('cut.jpg', 'undecodable|unreadable'),
        ('cut.png', 'undecodable|unreadable'),
        ('empty.jpg', 'empty'),
        ('folder.jpg', 'folder'),
        ('text.jpg', 'no known image format'),
        ('floats.tif', 'value_range='),
        ('sixteen_bits.png', 'value_range='),
        ('huge.png', '20000x20000|400000000'),
    ],
)
def test_refused_by_name(system, name, reason, folder, pipelines):
    with pytest.raises(BadImageError, match=f'{name}: .*({reason})'):
        read(pipelines[system], folder / name)


def test_every_config_reads_images_by_a_loader_that_refuses_by_name(repo_root):
    """Data sets that are inherited from a host have our readers in place of its own."""
    texts = {path: path.read_text(encoding='utf-8') for path in (repo_root / 'configs').rglob('*.py')}
    assert [
        path.name
        for path, text in texts.items()
        if 'LoadImageFromFile' in text or "'LoadAnnotations')" in text
    ] == []
    inherited = [path for path, text in texts.items() if '::_base_/datasets' in text]
    assert len(inherited) == 3
    for path in inherited:
        cfg = Config.fromfile(path)._cfg_dict
        steps = [
            step['type']
            for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline')
            for step in steps_of(cfg[key])
        ]
        assert steps.count('mmssl.LoadImage') == steps.count('mmssl.LoadLabelMap') >= 4
        assert not {'LoadImageFromFile', 'LoadAnnotations'} & set(steps)


def steps_of(node):
    """Every dict with a type in nested dicts and lists."""
    if isinstance(node, dict):
        yield from [node] if 'type' in node else []
        for value in node.values():
            yield from steps_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from steps_of(value)
