"""Every odd kind of image file, against Pillow."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmssl.data.images import BadImageError, decode, open_image, orient, resize
from mmssl.data.label_maps import read_label_map
from mmssl.data.transforms import LoadImage


def gradient(width=64, height=48):
    """A smooth color gradient whose corners all differ, so that a wrong turn or channel order shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], -1).astype(np.uint8))


def load(path, **kwargs):
    return LoadImage(**kwargs)(dict(img_path=str(path)))


@pytest.mark.parametrize(
    'name, options',
    [
        ('a.jpg', {}),
        ('a.jpg', dict(progressive=True)),
        ('A.JPEG', dict(subsampling=0)),
        ('a.png', {}),
        ('a.webp', dict(lossless=True)),
        ('a.bmp', {}),
        ('a.tif', {}),
        ('a.tiff', dict(compression='tiff_lzw')),
    ],
)
def test_common_formats_equal_pillow(tmp_path, name, options):
    gradient().save(tmp_path / name, **options)
    results = load(tmp_path / name)
    expected = np.asarray(Image.open(tmp_path / name).convert('RGB'))[..., ::-1]
    assert results['img'].dtype == np.uint8 and results['img'].shape == (48, 64, 3)
    assert results['img_shape'] == results['ori_shape'] == (48, 64)
    assert np.abs(results['img'].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    'mode, name',
    [
        ('L', 'a.png'),
        ('L', 'a.jpg'),
        ('LA', 'a.png'),
        ('RGBA', 'a.png'),
        ('RGBA', 'a.webp'),
        ('P', 'a.png'),
        ('P', 'a.gif'),
        ('1', 'a.png'),
        ('CMYK', 'a.jpg'),
        ('CMYK', 'a.tif'),
        ('YCbCr', 'a.tif'),
    ],
)
def test_modes_equal_pillows_rgb(tmp_path, mode, name):
    gradient().convert(mode).save(tmp_path / name)
    try:
        expected = np.asarray(Image.open(tmp_path / name).convert('RGB'))[..., ::-1]
    except OSError as error:
        pytest.skip(f'this Pillow does not read what it has written: {error}')
    image = load(tmp_path / name)['img']
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_alpha_is_dropped_not_blended(tmp_path):
    Image.new('RGBA', (4, 4), (200, 100, 50, 0)).save(tmp_path / 'clear.png')
    assert (load(tmp_path / 'clear.png')['img'] == [50, 100, 200]).all()


@pytest.mark.parametrize('name, dtype', [('a.png', np.uint16), ('a.tif', np.uint16), ('a.tif', np.float32)])
def test_values_without_a_range_are_rejected_with_a_remedy(tmp_path, name, dtype):
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / name)
    with pytest.raises(BadImageError, match=f'{name}: .*mmssl stats.*value_range'):
        load(tmp_path / name)


def test_image_of_a_single_pixel(tmp_path):
    for name in ('pixel.jpg', 'pixel.png'):
        Image.new('RGB', (1, 1), (255, 0, 0)).save(tmp_path / name)
        assert np.abs(load(tmp_path / name)['img'].astype(int) - [[[0, 0, 255]]]).max() <= 2


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (8, 8), color) for color in ('red', 'blue')]
    frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=True)
    for name in ('a.gif', 'a.webp'):
        assert (load(tmp_path / name)['img'] == [0, 0, 255]).all()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_exif_orientation_equals_pillow(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient().save(tmp_path / name, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name)))[..., ::-1]
    results = load(tmp_path / name)
    assert results['ori_shape'] == expected.shape[:2]
    assert results['img'].flags.c_contiguous
    assert np.abs(results['img'].astype(int) - expected).max() <= 1


def test_undefined_orientation_is_upright():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (orient(pixels, 1) == pixels).all()


def test_pixel_limit_names_file_and_size(tmp_path):
    Image.new('L', (20000, 20000)).save(tmp_path / 'huge.png')
    with pytest.raises(BadImageError, match='huge.png.*(20000x20000|400000000)'):
        load(tmp_path / 'huge.png')
    gradient().save(tmp_path / 'a.png')
    with pytest.raises(BadImageError, match='64x48 pixels are above the limit max_pixels=3071'):
        load(tmp_path / 'a.png', max_pixels=3071)
    assert load(tmp_path / 'a.png', max_pixels=3072)['img'].shape == (48, 64, 3)


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif', 'a.gif'])
@pytest.mark.parametrize('fraction', [0.5, 0.9])
def test_truncated_file_is_bad_and_named(tmp_path, name, fraction):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(BadImageError, match=name):
        load(tmp_path / name)


def test_empty_text_and_folder_are_bad_and_named(tmp_path):
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.jpg').write_text('this is not an image')
    (tmp_path / 'folder.jpg').mkdir()
    for name, reason in (
        ('empty.jpg', 'empty'),
        ('text.jpg', 'no known image format'),
        ('folder.jpg', 'folder'),
    ):
        with pytest.raises(BadImageError, match=f'{name}: .*{reason}'):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='missing.jpg'):
        load(tmp_path / 'missing.jpg')


def test_jpeg_with_a_long_trailer_still_decodes(tmp_path):
    gradient().save(tmp_path / 'a.jpg')
    whole = load(tmp_path / 'a.jpg')['img']
    data = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(data + b'\0' * 5000)
    assert (load(tmp_path / 'a.jpg')['img'] == whole).all()


@pytest.mark.parametrize('reduction', [2, 4, 8])
def test_scaled_decode_is_close_to_a_box_average(tmp_path, reduction):
    gradient(160, 96).save(tmp_path / 'a.jpg', quality=95, subsampling=0)
    image = open_image(str(tmp_path / 'a.jpg'))
    small = decode(image, reduction)
    whole = decode(image).astype(float)
    average = whole.reshape(96 // reduction, reduction, 160 // reduction, reduction, 3).mean(axis=(1, 3))
    assert small.shape == average.shape
    assert np.abs(small - average).max() <= 4


@pytest.mark.parametrize(
    'interpolation, resample',
    [('bicubic', Image.BICUBIC), ('bilinear', Image.BILINEAR), ('lanczos', Image.LANCZOS)],
)
@pytest.mark.parametrize('size', [(24, 24), (96, 128), (48, 64), (7, 100)])
def test_resize_equals_pillow(interpolation, resample, size):
    photo = pytest.importorskip('skimage.data').coffee()[100:148, 200:264]
    expected = np.asarray(Image.fromarray(photo).resize(size[::-1], resample))
    assert np.abs(resize(photo, size, interpolation).astype(int) - expected).max() <= 2


def test_a_png_whose_checksum_differs_is_damaged(tmp_path):
    """Pillow decodes some damaged pixel data without an error."""
    path = tmp_path / 'a.png'
    gradient().save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b'IEND') - 5] ^= 1  # the last byte of the checksum of the pixels
    path.write_bytes(data)
    assert np.asarray(Image.open(path)).shape == (48, 64, 3)
    with pytest.raises(BadImageError, match=r'a\.png: damaged'):
        load(path)
    with pytest.raises(BadImageError, match=r'a\.png: damaged'):
        read_label_map(str(path))
