"""``mmssl check-data`` of images that are not 8-bit RGB: a histogram of each channel, and its faults."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from mmssl.cli import main
from mmssl.data.checks.bands import band_warnings, count_bands, merge_bands

CONFIG = """
_base_ = 'mmssl::smoke/mae.py'
model = dict(backbone=dict(in_channels=5))
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, {reading}),
    {step}
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
"""


@pytest.fixture
def bands(tmp_path):
    """Three TIFF of five bands, uint16: 0 to 4095, 0 to 1000, all 7, 3000 to 8000, and 0 to 4095 again."""
    folder = tmp_path / 'images'
    folder.mkdir()
    ramp = np.linspace(0, 1, 20 * 30).reshape(20, 30)
    planes = [ramp * 4095, ramp * 1000, ramp * 0 + 7, 3000 + ramp * 5000, ramp[::-1] * 4095]
    for number in range(3):
        values = np.stack(planes, axis=2).round().astype(np.uint16)
        tifffile.imwrite(folder / f'{number}.tif', values, planarconfig='contig')
    return folder


def check(capsys, tmp_path, reading, *more, step=''):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(reading=reading, step=step))
    arguments = ['check-data', config, '--data', tmp_path / 'images', '--out', tmp_path / 'out', *more]
    status = main([*map(str, arguments)])
    done = capsys.readouterr()
    return status, ' '.join((done.out + done.err).split())


def test_channels_with_a_range(bands, tmp_path, capsys):
    status, text = check(capsys, tmp_path, 'channels=5, value_range=(0, 4095)', '--bands', '4,3,0')
    assert status == 0, text
    assert '| 4095, values 0 to 1000' in text and '| 4095, values 3000 to 8000' in text
    assert 'channel 2 constant: 7' in text
    assert (
        'channel 1 with an unused range: 0 to 1000 of 0 to 4095; measure the range by `mmssl stats`' in text
    )
    assert 'channel 3 with values beyond value_range, which are clipped: 78.' in text
    (report,) = json.loads((tmp_path / 'out/check.json').read_text())
    channels = report['facts']['channels']
    ramp = (np.linspace(0, 1, 600) * 4095).round()
    assert channels[0]['histogram'] == (3 * np.histogram(ramp, 32, (0, 4095))[0]).tolist()
    assert [channel['values'] for channel in channels][1:4] == [[0, 1000], [7, 7], [3000, 8000]]
    assert (tmp_path / 'out/contact_sheet.png').is_file()


def test_the_sheet_shows_the_chosen_channels(bands, tmp_path, capsys):
    pictures = []
    for chosen in ('2', '0,0,0', '4,0,1'):
        assert check(capsys, tmp_path, 'channels=5, value_range=(0, 4095)', '--bands', chosen)[0] == 0
        pictures.append(np.asarray(Image.open(tmp_path / 'out/contact_sheet.png')))
    tiles = [picture[80:200, 20:180] for picture in pictures]
    assert tiles[0].max() == 0  # all 7 of 4095
    assert np.array_equal(tiles[1][..., 0], tiles[1][..., 2]) and tiles[1].std() > 10
    assert not np.array_equal(tiles[2][..., 0], tiles[2][..., 1])
    status, text = check(capsys, tmp_path, 'channels=5, value_range=(0, 4095)', '--bands', '1,2')
    assert status and '--bands 1,2: give three channels' in text


def test_files_without_the_setting_are_bad_files(bands, tmp_path, capsys):
    status, text = check(capsys, tmp_path, 'channels=5')
    assert status == 1
    assert 'uint16 values have no known range' in text


def test_changes_of_colors_are_a_problem(bands, tmp_path, capsys):
    step = "dict(type='ColorJitter', brightness=0.4),"
    status, text = check(capsys, tmp_path, 'channels=5, value_range=(0, 4095)', step=step)
    assert status == 1
    assert 'ColorJitter: it changes the colors of 8-bit RGB' in text and 'mmssl.BandJitter' in text


def test_no_data_and_merging():
    values = np.array([[[np.nan, 1.0, np.inf]], [[0.5, 2.0, np.nan]]], np.float32)
    counts = count_bands(values, np.array([[0.0, 4.0]]), no_data=2.0)
    assert counts.missing.tolist() == [1, 1, 2]
    assert counts.extremes.tolist()[0][:2] == [0.5, 1.0]
    warnings = band_warnings(merge_bands([counts, counts]))
    assert 'channel 2 without data' in warnings
    assert any(text.startswith('channels 0, 1 with pixels without data: 50 %, 50 %') for text in warnings)
    assert count_bands(values) is None  # floats without a range
    assert merge_bands([counts, None]) is None and merge_bands([]) is None


def test_eight_bits_use_the_range_of_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    counts = merge_bands([count_bands(pixels), count_bands(pixels)])
    assert counts.total == 3200 and counts.histogram.sum() == 9600
    assert counts.histogram[1].tolist() == (2 * np.histogram(pixels[..., 1], 32, (0, 255))[0]).tolist()
    assert band_warnings(counts) == []
