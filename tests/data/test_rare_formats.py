"""Image files of rarer forms: palettes, netpbm, volumes, lossless JPEG and windows of DICOM."""

import numpy as np
import pytest
from test_array_formats import HEIGHT, TWELVE_BITS, WIDTH, values_of, write_dicom

from mmssl.data.array_formats import open_array, read_page
from mmssl.data.eight_bits import ImageSettingError
from mmssl.data.images import BadImageError, read_rgb
from mmssl.data.reader import ImageReader
from mmssl.data.transforms import LoadImage
from mmssl.layers.preprocessing import SelfSupDataPreprocessor

tifffile = pytest.importorskip('tifffile')
pydicom = pytest.importorskip('pydicom')


def decoded(path, channel_axis=None):
    file = open_array(path.read_bytes(), str(path), channel_axis)
    return [read_page(file, page, str(path)) for page in range(file.pages)]


def test_colors_of_palettes_are_looked_up(tmp_path):
    rng = np.random.default_rng(0)
    indices, colors = values_of('uint8', 1)[..., 0], rng.integers(0, 1 << 16, (3, 256), np.uint16)
    tifffile.imwrite(tmp_path / 'a.tif', indices, photometric='palette', colormap=colors)
    assert (decoded(tmp_path / 'a.tif')[0] == (colors >> 8).T[indices]).all()
    dataset = pydicom.dcmread(write_dicom(tmp_path / 'a.dcm', indices[None]))
    dataset.PhotometricInterpretation = 'PALETTE COLOR'
    for index, table in enumerate(colors, 1):  # descriptors and data of red, green and blue
        dataset.add_new((0x28, 0x1100 + index), 'US', [256, 0, 16])
        dataset.add_new((0x28, 0x1200 + index), 'OW', table.tobytes())
    dataset.save_as(tmp_path / 'a.dcm')
    assert (decoded(tmp_path / 'a.dcm')[0] == colors.T[indices]).all()


def test_netpbm_of_16_bits_is_neither_cut_nor_scaled(tmp_path):
    for kind, channels in (('5', 1), ('6', 3)):
        path, values = tmp_path / f'{kind}.ppm', values_of('uint16', channels) >> 4
        header = f'P{kind}\n# 12 bits\n{WIDTH} {HEIGHT}\n4095\n'.encode()
        path.write_bytes(header + values.astype('>u2').tobytes())
        assert (decoded(path)[0] == values).all()
        with pytest.raises(ImageSettingError, match='12 bits have no known range'):
            read_rgb(path)


def test_bands_of_jpeg_2000_and_slices_of_a_volume(tmp_path):
    import imagecodecs

    bands = values_of('uint16', 5)
    (tmp_path / 'a.jp2').write_bytes(imagecodecs.jpeg2k_encode(bands, level=0))
    assert (decoded(tmp_path / 'a.jp2')[0] == bands).all()
    with pytest.raises(BadImageError, match='max_pixels=10'):
        ImageReader(max_pixels=10, channels=5).open(str(tmp_path / 'a.jp2'))
    slices = np.stack([values_of('uint8', 1, seed)[:32, :16, 0] for seed in range(16)])
    settings = dict(tile=(16, 16, 16), volumetric=True, photometric='minisblack')
    tifffile.imwrite(tmp_path / 'a.tif', slices, **settings)
    assert (np.stack(decoded(tmp_path / 'a.tif'))[..., 0] == slices).all()
    with pytest.raises(ImageSettingError, match='16 pages'):
        read_rgb(tmp_path / 'a.tif')


def test_few_channels_are_known_by_the_shape(tmp_path):
    for shape in ((40, 52, 1), (40, 52, 3)):
        np.save(tmp_path / 'a.npy', np.zeros(shape, np.uint8))
        assert decoded(tmp_path / 'a.npy')[0].shape == shape
    np.save(tmp_path / 'a.npy', np.zeros((3, 40, 4), np.uint8))
    with pytest.raises(ImageSettingError, match='channel_axis'):
        decoded(tmp_path / 'a.npy')


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('syntax', ['JPEGLosslessSV1', 'JPEGLSLossless'])
def test_lossless_jpeg_of_dicom_needs_no_other_package(tmp_path, syntax, signed):
    import imagecodecs
    from pydicom.encaps import encapsulate

    encode = {'JPEGLosslessSV1': imagecodecs.ljpeg_encode, 'JPEGLSLossless': imagecodecs.jpegls_encode}
    frames = np.stack([values_of('int16', 1, seed)[..., 0] >> 4 for seed in range(2)])
    frames = frames if signed else frames.view(np.uint16) & 0xFFF
    dataset = pydicom.dcmread(write_dicom(tmp_path / 'a.dcm', frames, signed=signed))
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    stored = frames.view(np.uint16) & 0xFFF
    dataset.PixelData = encapsulate([encode[syntax](np.ascontiguousarray(frame)) for frame in stored])
    dataset['PixelData'].is_undefined_length = True
    dataset.save_as(tmp_path / 'a.dcm')
    assert (np.stack(decoded(tmp_path / 'a.dcm'))[..., 0] == frames).all()


def test_jpeg_of_12_bits_and_of_8_in_color(tmp_path):
    import imagecodecs
    from pydicom.encaps import encapsulate

    gray = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint16) * 30
    color = np.stack([gray >> 5, 200 - (gray >> 5), gray >> 6], 2).astype(np.uint8)
    for values, bits, space in ((gray, 12, 'MONOCHROME2'), (color, 8, 'YBR_FULL_422')):
        path = write_dicom(tmp_path / 'a.dcm', values[None], color=values.ndim == 3)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
        dataset.BitsStored, dataset.HighBit, dataset.PhotometricInterpretation = bits, bits - 1, space
        dataset.PixelData = encapsulate([imagecodecs.jpeg_encode(values)])
        dataset['PixelData'].is_undefined_length = True
        dataset.save_as(path)
        image = decoded(path)[0].astype(int).reshape(values.shape)
        assert np.abs(image - values).max() <= 12 if bits == 8 else np.abs(image - values).max() <= 2


@pytest.mark.parametrize('space', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('function', ['LINEAR', 'LINEAR_EXACT'])
def test_windows_of_dicom_are_those_of_pydicom(tmp_path, space, function):
    path = write_dicom(tmp_path / 'a.dcm', values_of('uint16', 1)[None, ..., 0] >> 4, slope=(1, -1024))
    dataset = pydicom.dcmread(path)
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = [40, 300], [400, 1500], function
    dataset.PhotometricInterpretation = space
    dataset.save_as(path)
    pixels = pydicom.pixels
    shown = pixels.apply_voi_lut(pixels.apply_modality_lut(dataset.pixel_array, dataset), dataset, index=0)
    shown = (shown - shown.min()) / np.ptp(shown) * 255
    image = LoadImage(value_range='window')(dict(img_path=str(path)))['img'][..., 0]
    np.testing.assert_allclose(image, 255 - shown if space == 'MONOCHROME1' else shown, atol=1e-3)


def test_frames_of_enhanced_dicom_have_their_own_slope_and_window(tmp_path):
    frames = np.stack([values_of('uint16', 1, seed)[..., 0] >> 4 for seed in range(2)])
    dataset = pydicom.dcmread(write_dicom(tmp_path / 'a.dcm', frames))
    groups = []
    for slope in (2, 3):
        group, rescale, window = (pydicom.Dataset() for _ in range(3))
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, -5
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 100 * slope, 200, 'LINEAR_EXACT'
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.save_as(tmp_path / 'a.dcm')
    for page, (values, frame) in enumerate(zip(decoded(tmp_path / 'a.dcm'), frames, strict=True)):
        slope = page + 2
        assert (values[..., 0] == frame * float(slope) - 5).all()
        image = LoadImage(value_range='window', pages=page)(dict(img_path=str(tmp_path / 'a.dcm')))['img']
        expected = np.clip((values - (100 * slope - 100)) / 200, 0, 1) * 255
        np.testing.assert_allclose(image, expected, atol=1e-3)


def test_a_window_that_does_not_exist_or_is_no_range(tmp_path):
    path = write_dicom(tmp_path / 'a.dcm', TWELVE_BITS[None])
    reader = ImageReader(value_range='window')
    with pytest.raises(ImageSettingError, match='a.dcm: has no window'):
        reader.open(str(path))
    dataset = pydicom.dcmread(path)
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 40, 400, 'SIGMOID'
    dataset.save_as(path)
    with pytest.raises(BadImageError, match='SIGMOID'):
        reader.open(str(path))
    with pytest.raises(ValueError, match="value_range='window' is for the loader"):
        SelfSupDataPreprocessor(mean=[1.0], std=[1.0], value_range='window')
