"""HEIC, AVIF and JPEG 2000 equal their libraries; deep ones need a range; missing packages are named."""

import io
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mmssl.data.array_formats import open_array, read_page
from mmssl.data.eight_bits import ImageSettingError
from mmssl.data.folder import ImageFolder
from mmssl.data.heif import bits_of, register_heic
from mmssl.data.images import read_rgb
from mmssl.data.transforms import LoadImage

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(32), np.arange(48))[..., None] + np.array([0, 20, 40])
RGB = SMOOTH.astype(np.uint8)
TEN_BITS = (SMOOTH * 7).astype(np.uint16)
TWELVE_BITS = RNG.integers(0, 4096, (32, 48), dtype=np.uint16)


def heic(values, **options):
    mode = 'RGB' if values.dtype == np.uint8 else 'RGB;16'
    stored = values if mode == 'RGB' else (values << 6).astype('<u2')
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode, values.shape[1::-1], stored.tobytes()).save(buffer, quality=90, **options)
    return buffer.getvalue()


def avif(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'AVIF')
    return buffer.getvalue()


def values_of(data, name='a'):
    return read_page(open_array(data, name), 0, name)


def test_8_bits_equal_the_libraries(tmp_path):
    files = {
        'a.heic': (heic(RGB), lambda data: np.asarray(pillow_heif.open_heif(io.BytesIO(data)))),
        'a.avif': (avif(RGB), lambda data: np.asarray(Image.open(io.BytesIO(data)))),
        'a.jp2': (imagecodecs.jpeg2k_encode(RGB, level=0), lambda data: RGB),
        'a.j2k': (imagecodecs.jpeg2k_encode(RGB, level=0, codecformat='j2k'), lambda data: RGB),
    }
    for name, (data, decode) in files.items():
        (tmp_path / name).write_bytes(data)
        rgb = read_rgb(tmp_path / name)
        assert (rgb == decode(data)).all() and np.abs(rgb.astype(int) - RGB).mean() < 4, name
        assert (values_of(data) == rgb).all(), name
    assert len(ImageFolder(tmp_path)) == 4


def test_the_orientation_of_heic_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / 'a.heic').write_bytes(heic(RGB, exif=exif.tobytes()))
    rotated = read_rgb(tmp_path / 'a.heic')
    assert rotated.shape == (48, 32, 3)
    assert np.abs(rotated.astype(int) - np.rot90(RGB, -1)).mean() < 4


def deep_files():
    return {
        'ten.heic': heic(TEN_BITS),
        'ten.avif': imagecodecs.avif_encode(TEN_BITS, bitspersample=10, level=100),
        'twelve.avif': imagecodecs.avif_encode(TWELVE_BITS, bitspersample=12, level=100),
        'twelve.jp2': imagecodecs.jpeg2k_encode(TWELVE_BITS, level=0),
        'twelve.j2k': imagecodecs.jpeg2k_encode(TWELVE_BITS, level=0, codecformat='j2k'),
    }


def test_more_than_8_bits_are_read_as_they_are():
    for name, data in deep_files().items():
        values = values_of(data, name)
        assert values.dtype == np.uint16
        if name == 'ten.heic':
            peer = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
            assert (values == np.asarray(peer) // 64).all() and bits_of(data) == 10
            assert values.max() > 255 and np.abs(values.astype(int) - TEN_BITS).mean() < 16
        else:
            expected = TEN_BITS if name == 'ten.avif' else TWELVE_BITS[..., None]
            assert (values == expected).all(), name


def test_more_than_8_bits_need_a_range(tmp_path):
    for name, data in deep_files().items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageSettingError, match=f'{name}: .* have no known range; .*value_range='):
            LoadImage()(dict(img_path=str(path)))
        image = LoadImage(value_range=(0, 4095))(dict(img_path=str(path)))['img']
        assert image.dtype == np.float32 and image.max() <= 255


def test_a_missing_package_ends_the_run_by_name(tmp_path, monkeypatch):
    (tmp_path / 'a.heic').write_bytes(heic(RGB))
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    register_heic.cache_clear()
    message = r"a.heic: HEIC is read by pillow-heif, which is missing: pip install 'mmssl\[images\]'$"
    dataset = ImageFolder(tmp_path, pipeline=[LoadImage()])
    with pytest.raises(ImportError, match=message):
        dataset.prepare_data(0)
    with pytest.raises(ImportError, match=message):
        LoadImage(value_range='image')(dict(img_path=str(tmp_path / 'a.heic')))


def test_avif_without_its_decoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'OPEN', {'PNG': Image.OPEN['PNG']})
    monkeypatch.setattr(Image, 'ID', ['PNG'])
    (tmp_path / 'a.avif').write_bytes(AVIF)
    with pytest.raises(ValueError, match='AVIF, which Pillow reads from version 11.3 on'):
        read_rgb(tmp_path / 'a.avif')


AVIF = avif(RGB)
