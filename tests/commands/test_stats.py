"""``mmssl stats``: equal to NumPy in float64, on any number of processes; settings that a config takes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmssl.apis.channel_stats import measure, source_of_folder
from mmssl.cli import main

tifffile = pytest.importorskip('tifffile')
pytest.importorskip('imagecodecs')
PERCENTS = [0.1, 1, 50, 99, 99.9]


def write(folder, dtype, count=40, channels=3, no_data=None):
    """Images of odd sizes with a tail and, for floats, values that are no data."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        values = rng.gamma(2, 300, (9 + number % 5, 7, channels)) * np.arange(1, channels + 1) - 150
        if dtype == 'float32':
            values[0, 0], values[0, 1] = np.nan, np.inf
            values[1, 0] = -0.0
        images.append(np.clip(values, 0 if dtype[0] == 'u' else -9999, 4095).astype(dtype))
        if no_data is not None:
            images[-1][2] = no_data
        options = dict(extratags=[(42113, 's', 0, str(no_data), True)]) if no_data is not None else {}
        tifffile.imwrite(
            folder / f'{number:03}.tif',
            images[-1],
            photometric='minisblack',
            planarconfig='contig',
            **options,
        )
    return images


def expected(images, channel, no_data=None):
    values = np.concatenate([image[..., channel].ravel() for image in images]).astype(np.float64)
    valid = values[np.isfinite(values)]
    valid = valid if no_data is None else valid[valid != no_data]
    return valid, 1 - valid.size / values.size


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'float32'])
def test_statistics_equal_numpy_on_one_and_three_processes(tmp_path, dtype):
    no_data = -9999 if dtype == 'int16' else None
    images = write(tmp_path, dtype, no_data=no_data)
    source = source_of_folder(tmp_path)
    alone, together = measure(source), measure(source, workers=3)
    for statistics in (alone, together):
        for channel in range(3):
            valid, missing = expected(images, channel, no_data)
            close = dict(rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(statistics.mean[channel], valid.mean(), **close)
            np.testing.assert_allclose(statistics.std[channel], valid.std(), **close)
            np.testing.assert_allclose(
                [statistics.percentiles[percent][channel] for percent in PERCENTS],
                np.percentile(valid, PERCENTS),
                **close,
            )
            assert statistics.minimum[channel] == valid.min() and statistics.maximum[channel] == valid.max()
            np.testing.assert_allclose(statistics.no_data[channel], missing, **close)
            low, high = statistics.value_range[channel]
            assert valid.min() - 1 <= low <= np.percentile(valid, 0.1) and np.percentile(valid, 99.9) <= high
            scaled = np.clip((valid - low) / (high - low), 0, 1) * 255
            np.testing.assert_allclose(statistics.scaled_mean[channel], scaled.mean(), **close)
            np.testing.assert_allclose(statistics.scaled_std[channel], scaled.std(), **close)
    assert (alone.mean == together.mean).all() and (alone.std == together.std).all()  # bit for bit


def command_of_rank(rank, folder, count):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank))
    group = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda *arguments, **options: None  # that of the test stays
    out = f'{folder}/{rank}.py'
    try:
        return main(['stats', f'{folder}/images', '--workers', '0', '--out', out]), Path(out).exists()
    finally:
        torch.distributed.init_process_group = group


def test_ranks_write_what_one_process_does(tmp_path, two_ranks, monkeypatch):
    monkeypatch.setenv('MASTER_ADDR', 'localhost')
    (tmp_path / 'images').mkdir()
    write(tmp_path / 'images', 'float32')
    (tmp_path / 'images/000.tif').write_bytes(b'no image')
    assert main(['stats', f'{tmp_path}/images', '--workers', '0', '--out', f'{tmp_path}/one.py']) == 1
    assert two_ranks(command_of_rank, tmp_path, 3, count=3) == [(1, True), (1, False), (1, False)]
    assert (tmp_path / '0.py').read_text() == (tmp_path / 'one.py').read_text()


def test_far_from_zero_the_variance_keeps_its_digits(tmp_path):
    values = (1e6 + np.random.default_rng(0).random((64, 64))).astype(np.float32)
    np.save(tmp_path / 'a.npy', values)
    np.save(tmp_path / 'b.npy', values + np.float32(1))
    statistics = measure(source_of_folder(tmp_path))
    both = np.stack([values, values + np.float32(1)]).astype(np.float64)
    np.testing.assert_allclose(statistics.std, both.std(), rtol=1e-9)


def test_photographs_need_no_range_and_damaged_files_are_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (8, 9, 3), dtype=np.uint8) for _ in range(3)]
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f'{number}.png')
    (tmp_path / 'broken.png').write_bytes(b'no image')
    assert main(['stats', str(tmp_path), '--json', '--workers', '0']) == 1
    content = json.loads(capsys.readouterr().out)
    assert content['images'] == 3 and content['value_range'] is None
    np.testing.assert_allclose(content['mean'], np.stack(photos).mean((0, 1, 2)))
    assert content['bad'][0]['path'].endswith('broken.png')


def test_the_settings_are_taken_by_a_config(tmp_path, capsys, repo_root):
    folder = tmp_path / 'images'
    folder.mkdir()
    write(folder, 'uint16', count=20, channels=5)
    out = tmp_path / 'measured.py'
    assert main(['stats', str(folder), '--out', str(out), '--workers', '0']) == 0
    table = capsys.readouterr().out
    assert '20 images (20 of uint16), 5 channels' in table and 'value_range = [(' in table
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = ['{repo_root}/configs/smoke/mae.py', '{out}']\n"
        "train_pipeline = [dict(type='mmssl.LoadRandomResizedCrop', scale=48, value_range=_base_.value_range,"
        " channels=5), dict(type='PackInputs')]\n"
        'data_preprocessor = dict(mean=_base_.mean, std=_base_.std)\n'
        f"train_dataloader = dict(dataset=dict(pipeline=train_pipeline, data_root='{folder}'))\n"
    )
    cfg = Config.fromfile(config)
    assert len(cfg.data_preprocessor.mean) == len(cfg.train_pipeline[0].value_range) == 5
    assert main(['stats', str(config), '--workers', '0', '--json']) == 0
    again = json.loads(capsys.readouterr().out)
    assert np.allclose(again['mean'], cfg.data_preprocessor.mean, atol=1e-4)


def test_constant_and_empty_channels_are_named(tmp_path, capsys):
    values = np.ones((6, 6, 2), np.float32)
    values[..., 1] = np.nan
    np.save(tmp_path / 'a.npy', values)
    assert main(['stats', str(tmp_path), '--workers', '0', '--channel-axis', '-1']) == 0
    table = capsys.readouterr().out
    assert 'constant channels: 0' in table and 'without any data: 1' in table and 'std = [1' in table


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--clip', '50'], 'below 50'),
        (['--channels', 'red'], '--channels red: give numbers'),
        (['--pages', 'all'], '--pages all'),
        (['--out', 'a.json'], r'ends in .py'),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, arguments, message):
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
    assert main(['stats', str(tmp_path), *arguments]) != 0
    assert message in capsys.readouterr().err


def test_images_that_differ_in_channels_are_refused(tmp_path, capsys):
    for channels in (4, 5):
        np.save(tmp_path / f'{channels}.npy', np.zeros((70, 70, channels), np.uint16))
    assert main(['stats', str(tmp_path), '--workers', '0']) != 0
    assert 'images of 4 and of 5 channels' in capsys.readouterr().err


def test_the_function_returns_what_the_command_prints(tmp_path, capsys):
    from mmssl.apis import stats

    write(tmp_path, 'uint16', count=5)
    assert main(['stats', str(tmp_path), '--workers', '0', '--json']) == 0
    printed = json.loads(capsys.readouterr().out)
    result = stats(tmp_path)
    assert result.value_range.tolist() == printed['value_range'] and result.images == 5
    assert stats(tmp_path, channels=[2, 0]).mean.tolist() == result.mean[[2, 0]].tolist()
    with pytest.raises(ValueError, match='clip=50 must be from 0 to 50'):
        stats(tmp_path, clip=50)
