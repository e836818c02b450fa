"""Images of any values: what is decoded equals tifffile, pydicom and NumPy; nothing is lost silently."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.array_formats import open_array, plain_type, read_page
from mmssl.data.eight_bits import ImageSettingError
from mmssl.data.folder import ImageFolder
from mmssl.data.images import BadImageError, decode, open_image, read_rgb
from mmssl.data.reader import ImageReader
from mmssl.data.transforms import LoadCenterCrop, LoadImage, LoadRandomResizedCrop
from mmssl.data.value_range import range_of_image
from mmssl.data.views import LoadViews
from mmssl.layers.preprocessing import SelfSupDataPreprocessor

tifffile = pytest.importorskip('tifffile')
pytest.importorskip('imagecodecs')
pydicom = pytest.importorskip('pydicom')
TYPES = ('uint8', 'uint16', 'int16', 'float32')
HEIGHT, WIDTH = 33, 20


def values_of(dtype, channels, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == 'float32':
        return rng.normal(0, 100, (HEIGHT, WIDTH, channels)).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (HEIGHT, WIDTH, channels), dtype=dtype, endpoint=True)


def tiff(path, values, planar=False, **options):
    kind = dict(photometric='minisblack', planarconfig='separate' if planar else 'contig')
    if values.shape[2] == 1:
        values, kind = values[..., 0], dict(photometric='minisblack')
    elif planar:
        values = values.transpose(2, 0, 1)
    tifffile.imwrite(path, values, **kind, **options)
    return path


def write_tiffs(root):
    """Every type and number of channels, each with another layout and compression, and all of those once."""
    compressions = itertools.cycle([None, 'lzw', 'zlib', 'zstd', 'packbits'])
    layouts = itertools.cycle(
        [{}, dict(planar=True), dict(tile=(16, 16)), dict(planar=True, tile=(16, 32)), dict(bigtiff=True)]
    )
    for number, (dtype, channels) in enumerate(itertools.product(TYPES, (1, 2, 3, 4, 5, 13, 64))):
        yield tiff(
            root / f'{number}.tif',
            values_of(dtype, channels),
            **next(layouts),
            compression=next(compressions),
        )
        next(layouts)
    for dtype in TYPES:
        for number, options in enumerate(
            [
                dict(compression='lzw', predictor=True),
                dict(compression='zlib', predictor=True, tile=(16, 16)),
                dict(byteorder='>'),
                dict(byteorder='>', planar=True, bigtiff=True, compression='zlib'),
                dict(rowsperstrip=7),
            ]
        ):
            yield tiff(root / f'{dtype}_{number}.tiff', values_of(dtype, 4), **options)
    jpeg = root / 'jpeg.tif'
    tifffile.imwrite(jpeg, values_of('uint8', 3), photometric='rgb', compression='jpeg', tile=(16, 16))
    yield jpeg
    yield tiff(root / 'jpeg_gray.tif', values_of('uint8', 1), compression='jpeg')


def write_arrays(root):
    for dtype, channels in itertools.product(TYPES, (1, 3, 13)):
        path = root / f'{dtype}_{channels}.npy'
        np.save(path, values_of(dtype, channels))
        yield path
    np.savez_compressed(root / 'a.npz', values_of('int16', 5))
    yield root / 'a.npz'
    np.save(root / 'fortran.npy', np.asfortranarray(values_of('uint16', 4)))
    yield root / 'fortran.npy'


def write_dicom(path, frames, slope=None, signed=False, color=False):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=['a'])
    bits = 8 * frames.dtype.itemsize
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.NumberOfFrames = len(frames)
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = 'RGB' if color else 'MONOCHROME2'
    if color:
        dataset.PlanarConfiguration = 0
    if slope is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope
    dataset.PixelData = frames.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_dicoms(root):
    for dtype, frames in itertools.product(('uint8', 'uint16', 'int16'), (1, 3)):
        values = np.stack([values_of(dtype, 1, seed)[..., 0] for seed in range(frames)])
        signed = dtype == 'int16'
        yield write_dicom(root / f'{dtype}_{frames}.dcm', values, signed=signed)
        yield write_dicom(root / f'{dtype}_{frames}_hu.dcm', values // 4, slope=(1, -1024), signed=signed)
    yield write_dicom(root / 'dose.dcm', values_of('uint16', 1)[None, ..., 0], slope=(0.25, 3))
    yield write_dicom(root / 'color.dcm', values_of('uint8', 3)[None], color=True)


def write_pngs(root):
    imagecodecs = pytest.importorskip('imagecodecs')
    for dtype, channels in itertools.product(('uint8', 'uint16'), (1, 2, 3, 4)):
        path = root / f'{dtype}_{channels}.png'
        path.write_bytes(imagecodecs.png_encode(np.squeeze(values_of(dtype, channels))))
        yield path


def expected(path):
    """Pages (P, H, W, C) by the library of the format."""
    if path.suffix in ('.tif', '.tiff'):
        page = tifffile.TiffFile(path).pages[0]
        values = page.asarray()
        return (
            np.moveaxis(values, 0, -1)[None] if page.axes == 'SYX' else values.reshape(1, HEIGHT, WIDTH, -1)
        )
    if path.suffix == '.dcm':
        dataset = pydicom.dcmread(path)
        values = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
        return values.reshape(-1, HEIGHT, WIDTH, dataset.SamplesPerPixel)
    if path.suffix == '.png':
        return values_of(*path.stem.split('_')[:1], int(path.stem[-1]))[None]
    loaded = np.load(path)
    return (loaded if path.suffix == '.npy' else loaded['arr_0'])[None]


def test_decoded_values_equal_the_libraries_of_the_formats(tmp_path):
    files = [*write_tiffs(tmp_path), *write_arrays(tmp_path), *write_dicoms(tmp_path), *write_pngs(tmp_path)]
    assert len(files) >= 60
    for path in files:
        file = open_array(path.read_bytes(), str(path), channel_axis=-1)
        pages = expected(path)
        assert file.pages == len(pages), path
        for page, values in enumerate(pages):
            decoded = read_page(file, page, str(path))
            assert decoded.dtype.name in TYPES and decoded.dtype.isnative, path
            assert decoded.shape == values.shape and (decoded == values).all(), path
            if path.suffix != '.dcm':
                assert decoded.dtype == values.dtype, path


def test_other_types_become_one_of_the_four_exactly():
    for dtype, result in (
        ('bool', 'uint8'),
        ('int8', 'int16'),
        ('int64', 'uint16'),
        ('>u2', 'uint16'),
        ('float16', 'float32'),
    ):
        values = np.array([0, 1, 100]).astype(dtype)
        assert plain_type(values).dtype == result and (plain_type(values) == values).all()
    assert (
        plain_type(np.array([-1, 5])).dtype == np.int16
        and plain_type(np.array([-1, 70000])).dtype == np.float32
    )
    with pytest.raises(ValueError, match='do not fit float32'):
        plain_type(np.array([(1 << 24) + 1]))
    with pytest.raises(ValueError, match='complex'):
        plain_type(np.array([1j]))


TWELVE_BITS = np.linspace(0, 4095, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)


def stack(path, count=3, **options):
    tifffile.imwrite(
        path, np.stack([values_of('uint8', 1, page)[..., 0] for page in range(count)]), **options
    )
    return path


@pytest.fixture
def files(tmp_path):
    tifffile.imwrite(tmp_path / 'deep.tif', TWELVE_BITS)
    tifffile.imwrite(tmp_path / 'deep_rgb.tif', np.stack([TWELVE_BITS] * 3, -1), photometric='rgb')
    Image.fromarray(TWELVE_BITS).save(tmp_path / 'deep.png')
    import imagecodecs

    (tmp_path / 'deep_rgb.png').write_bytes(imagecodecs.png_encode(np.stack([TWELVE_BITS] * 3, -1)))
    (tmp_path / 'deep.jp2').write_bytes(imagecodecs.jpeg2k_encode(TWELVE_BITS, level=0))
    tifffile.imwrite(tmp_path / 'float.tif', TWELVE_BITS.astype(np.float32))
    tiff(tmp_path / 'four.tif', values_of('uint8', 4))
    tifffile.imwrite(
        tmp_path / 'infrared.tif', values_of('uint8', 4), photometric='rgb', extrasamples=['unspecified']
    )
    tiff(tmp_path / 'thirteen.tif', values_of('uint16', 13))
    stack(tmp_path / 'stack.tif', photometric='minisblack')
    np.save(tmp_path / 'a.npy', values_of('uint16', 13))
    write_dicom(tmp_path / 'a.dcm', TWELVE_BITS[None])
    return tmp_path


@pytest.mark.parametrize(
    'name, setting',
    [
        ('deep.tif', 'value_range'),
        ('deep_rgb.tif', 'value_range'),
        ('deep.png', 'value_range'),
        ('deep_rgb.png', 'value_range'),
        ('deep.jp2', 'value_range'),
        ('float.tif', 'value_range'),
        ('four.tif', 'channels'),
        ('infrared.tif', 'channels'),
        ('thirteen.tif', 'value_range'),
        ('stack.tif', 'pages'),
        ('a.npy', 'value_range'),
        ('a.dcm', 'value_range'),
    ],
)
def test_what_8_bit_rgb_cannot_hold_is_an_error_that_names_the_setting(files, name, setting):
    for load in (read_rgb, lambda path: LoadImage()(dict(img_path=path))):
        with pytest.raises(ImageSettingError, match=f'{name}: .*{setting}=') as error:
            load(str(files / name))
        assert '\n' not in str(error.value)
        if setting == 'value_range':
            assert 'mmssl stats' in str(error.value)


def test_a_stack_with_settings_still_needs_its_pages_and_range(files):
    with pytest.raises(BadImageError, match='pages='):
        ImageReader(value_range=(0, 1)).open(str(files / 'stack.tif'))
    with pytest.raises(BadImageError, match='value_range='):
        ImageReader(channels=1).open(str(files / 'deep.tif'))
    with pytest.raises(BadImageError, match='has 13 channels, and channels=5'):
        ImageReader(channels=5, value_range='image').open(str(files / 'thirteen.tif'))
    with pytest.raises(BadImageError, match='has 3 pages'):
        ImageReader(pages=3).open(str(files / 'stack.tif'))
    np.save(files / 'small.npy', np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(BadImageError, match='small.npy: .*channel_axis='):
        ImageReader(channels=5).open(str(files / 'small.npy'))
    assert ImageReader(channels=8, channel_axis=0).open(str(files / 'small.npy')).values.shape == (8, 5, 8)


def test_thumbnails_and_alpha_are_no_pages_and_no_channels(tmp_path):
    rgb = values_of('uint8', 3)
    with tifffile.TiffWriter(tmp_path / 'overview.tif') as file:
        file.write(rgb, photometric='rgb')
        file.write(rgb[::2, ::2], photometric='rgb', subfiletype=1)
    assert (read_rgb(tmp_path / 'overview.tif') == rgb).all()
    tifffile.imwrite(
        tmp_path / 'alpha.tif', values_of('uint8', 4), photometric='rgb', extrasamples=['unassalpha']
    )
    assert (read_rgb(tmp_path / 'alpha.tif') == values_of('uint8', 4)[..., :3]).all()


def test_twelve_bits_with_their_range_fill_all_gray_levels(files):
    image = LoadImage(value_range=(0, 4095))(dict(img_path=str(files / 'deep.tif')))['img']
    assert image.dtype == np.float32 and image.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(image[..., 0], TWELVE_BITS * (255 / 4095), rtol=1e-6)
    for name in ('deep.png', 'deep.jp2', 'a.dcm', 'float.tif'):
        same = LoadImage(value_range=(0, 4095))(dict(img_path=str(files / name)))['img']
        assert (same == image).all(), name
    clipped = LoadImage(value_range=(1000, 2000))(dict(img_path=str(files / 'deep.tif')))['img']
    assert clipped.min() == 0 and clipped.max() == 255
    own = LoadImage(value_range='image')(dict(img_path=str(files / 'deep.tif')))['img']
    low, high = np.percentile(TWELVE_BITS, [0.5, 99.5])
    np.testing.assert_allclose(
        own[..., 0], np.clip((TWELVE_BITS - low) / (high - low), 0, 1) * 255, atol=1e-3
    )


def test_a_range_for_each_channel_keeps_the_order_of_the_file(tmp_path):
    """Three channels are BGR in the loader and in the order of the file after the data preprocessor."""
    values = values_of('uint16', 3)
    path = str(tiff(tmp_path / 'a.tif', values))
    pairs = [(0, 65535), (0, 6553.5), (100, 655.35)]
    scaled = np.stack(
        [np.clip((values[..., i].astype(float) - a) / (b - a), 0, 1) * 255 for i, (a, b) in enumerate(pairs)]
    )
    by_loader = LoadImage(value_range=pairs)(dict(img_path=path))['img']
    np.testing.assert_allclose(by_loader[..., ::-1].transpose(2, 0, 1), scaled, atol=1e-2)
    raw = LoadImage(value_range='raw')(dict(img_path=path))['img']
    batch = torch.from_numpy(raw.transpose(2, 0, 1).copy())[None]
    by_preprocessor = SelfSupDataPreprocessor(
        mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 4.0], to_rgb=True, value_range=pairs
    )(dict(inputs=batch))['inputs'][0]
    mean, std = np.array([1.0, 2, 3])[:, None, None], np.array([2.0, 2, 4])[:, None, None]
    np.testing.assert_allclose(by_preprocessor, (scaled - mean) / std, atol=1e-2)


def test_thirteen_channels_through_loader_and_preprocessor(files):
    path = str(files / 'thirteen.tif')
    pipeline = LoadRandomResizedCrop(scale=16, value_range=(0, 65535), channels=13)
    image = pipeline(dict(img_path=path))['img']
    assert (
        image.shape == (16, 16, 13) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 255
    )
    preprocessor = SelfSupDataPreprocessor(mean=[127.0] * 13, std=[70.0] * 13, to_rgb=True)
    views = LoadViews(
        views=[dict(num=2, scale=16, blur_prob=1.0)], value_range='image', channels=(12, 3, 3, 0)
    )(dict(img_path=path))['img']
    assert [view.shape for view in views] == [(16, 16, 4)] * 2
    inputs = preprocessor(dict(inputs=torch.from_numpy(image.transpose(2, 0, 1).copy())[None]))['inputs']
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0), (image - 127) / 70, atol=1e-5)
    center = LoadCenterCrop(scale=16, value_range='image', interpolation='lanczos')(dict(img_path=path))[
        'img'
    ]
    assert center.shape == (16, 16, 13)


def test_color_changes_beyond_rgb_are_refused_by_name():
    with pytest.raises(ValueError, match='jitter, gray: .*jitter=None, gray_prob=0'):
        LoadViews(preset='moco-v2', value_range=(0, 4095))
    with pytest.raises(ValueError, match='not for images of 4 channels; take preset=moco-v2-bands'):
        LoadViews(preset='moco-v2', channels=4, scale=16)


def test_values_that_are_missing_become_the_low_end(tmp_path):
    values = values_of('float32', 2)
    values[0, 0], values[1, 1] = np.nan, np.inf
    path = str(tiff(tmp_path / 'a.tif', values))
    image = LoadImage(value_range=(-50, 50))(dict(img_path=path))['img']
    assert np.isfinite(image).all() and (image[0, 0] == 0).all() and (image[1, 1] == 0).all()
    assert np.isfinite(range_of_image(values)).all()


def test_pages_as_channels_as_images_or_one_of_them(tmp_path):
    for name, options in (('a.tif', {}), ('b.tif', dict(imagej=True)), ('c.tif', dict(compression='lzw'))):
        path = str(stack(tmp_path / name, photometric='minisblack', **options))
        channels = LoadImage(pages='channels', channels=3)(dict(img_path=path))['img']
        expected = np.concatenate([values_of('uint8', 1, page) for page in range(3)], 2)
        assert (channels[..., ::-1] == expected).all(), name
        assert (LoadImage(pages=1)(dict(img_path=path))['img'] == expected[..., 1:2]).all(), name
    dataset = ImageFolder(tmp_path, pages='images', pipeline=[LoadImage()])
    assert len(dataset) == 9
    assert (dataset[4]['img'] == values_of('uint8', 1, 1)).all() and dataset[4]['page'] == 1


def test_orientation_is_applied(tmp_path):
    values = values_of('uint8', 5)
    path = tiff(tmp_path / 'a.tif', values, extratags=[(274, 'H', 1, 6, True)])
    image = LoadImage(channels=5)(dict(img_path=str(path)))['img']
    assert (image == np.rot90(values, -1)).all()


def test_damaged_files_are_bad_and_named(files):
    for name in ('thirteen.tif', 'deep.tif', 'deep.png', 'a.npy', 'a.dcm', 'float.tif'):
        path = files / f'cut_{name}'
        path.write_bytes((files / name).read_bytes()[: -HEIGHT * WIDTH // 2])
        with pytest.raises(BadImageError, match=f'cut_{name}: '):
            ImageReader(value_range=(0, 4095)).open(str(path))
    np.save(files / 'objects.npy', np.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(BadImageError, match='objects.npy: undecodable: .*allow_pickle'):
        ImageReader(channels=1).open(str(files / 'objects.npy'))
    with pytest.raises(BadImageError, match='max_pixels=10'):
        ImageReader(max_pixels=10, channels=1).open(str(files / 'deep.tif'))


def test_arrays_are_images_only_where_there_are_no_others(tmp_path, caplog):
    for number in range(2):
        np.save(tmp_path / f'{number}.npy', values_of('uint16', 13))
    assert len(ImageFolder(tmp_path)) == 2
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    dataset = ImageFolder(tmp_path)
    assert [info['img_path'][-5:] for info in map(dataset.get_data_info, range(len(dataset)))] == ['a.png']


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(value_range=(5, 5)), 'low value below its high'),
        (dict(value_range=5), 'must be .low, high'),
        (dict(value_range='dtype'), 'must be .low, high'),
        (dict(channels=0), 'number of channels'),
        (dict(channels='rgb'), 'number of channels'),
        (dict(pages='all'), "or 'channels'"),
        (dict(channel_axis=1), 'channels first'),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        LoadImage(**settings)


def test_8_bit_rgb_is_read_alike_by_both_roads(tmp_path):
    rgb = values_of('uint8', 3)
    for name in ('a.png', 'a.tif', 'a.bmp'):
        Image.fromarray(rgb).save(tmp_path / name)
        path = str(tmp_path / name)
        assert (ImageReader(channels=3).open(path).values == decode(open_image(path))).all()
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert('P').save(buffer, 'PNG')
    (tmp_path / 'p.png').write_bytes(buffer.getvalue())
    assert ImageReader(channels=3).open(str(tmp_path / 'p.png')).values.shape == rgb.shape
