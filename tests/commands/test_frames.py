"""``mmssl frames``: the right frames, near-identical ones skipped, interrupted runs, damaged videos."""

import multiprocessing
import os
import signal
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from mmssl.apis import frames
from mmssl.apis import video_frames as module
from mmssl.cli import main
from mmssl.data.folder import ImageFolder
from mmssl.data.video import SimilarityFilter, parse_interval

RATE = 10


def picture(number, noise=0):
    """A grey that changes every two seconds, with a square of the size of three cells that appears at 3 s."""
    pixels = np.full((96, 128, 3), 40 + 60 * (number // 20), np.uint8)
    if number >= 30:
        pixels[10:15, 10:16] = 255
    draw = np.random.default_rng(number).integers(-noise, noise + 1, pixels.shape)
    return (pixels + draw).clip(0, 255).astype(np.uint8)


def write_video(path, count=50, noise=0, codec='ffv1', pixels='bgr0', times=None):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, noise), 'rgb24')
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def names(folder):
    return sorted(path.name for path in folder.glob('*.*') if path.name[0] != '.')


def test_frames_are_those_of_their_times_pixel_by_pixel(tmp_path):
    video = write_video(tmp_path / 'a.mkv', noise=20)
    result = frames(video, tmp_path / 'out', every='500ms', to='png')
    assert result == (1, 10, 0, 0, [])
    assert names(tmp_path / 'out/a') == [f'a_{500 * index:09}.png' for index in range(10)]
    for index, name in enumerate(names(tmp_path / 'out/a')):
        assert (np.asarray(Image.open(tmp_path / 'out/a' / name)) == picture(5 * index, 20)).all()
    assert len(ImageFolder(tmp_path / 'out')) == 10


def test_a_varying_frame_rate_keeps_the_times(tmp_path):
    times = [0, 1, 2, 9, 11, 30, 31, 41]
    video = write_video(tmp_path / 'a.mkv', count=8, times=times)
    frames(video, tmp_path / 'out', every='1s')
    assert names(tmp_path / 'out/a') == [f'a_{100 * time:09}.jpg' for time in (0, 11, 30, 41)]


def test_similar_frames_are_skipped_and_small_changes_are_not(tmp_path):
    video = write_video(tmp_path / 'a.mkv', noise=3)
    result = frames(video, tmp_path / 'out', every='100ms', skip_similar=0.1)
    assert names(tmp_path / 'out/a') == [f'a_{time:09}.jpg' for time in (0, 2000, 3000, 4000)]
    assert result.similar == 46
    coarse = frames(video, tmp_path / 'coarse', every='100ms', skip_similar=1)
    assert names(tmp_path / 'coarse/a') == [f'a_{time:09}.jpg' for time in (0, 2000, 4000)]
    assert coarse.written == 3
    similarity = SimilarityFilter(0.1)
    assert [similarity.is_similar(picture(number)) for number in (0, 19, 25, 29, 31)] == [
        False,
        True,
        False,
        True,
        False,
    ]


def extract_and_die(video, out, count):
    write = module._write_image

    def write_some(pixels, path, done=[]):  # noqa: B006
        if len(done) == count:
            path.with_name(f'.{path.name}.1.part').write_bytes(b'half')
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)
        write(pixels, path)

    module._write_image = write_some
    frames(video, out, every='200ms', skip_similar=0.1)


def test_a_killed_run_continues_to_the_same_images(tmp_path):
    videos = [write_video(tmp_path / 'a.mkv'), write_video(tmp_path / 'b.mkv', count=30)]
    straight = frames(videos, tmp_path / 'straight', every='200ms', skip_similar=0.1)
    for count in (1, 2):
        process = multiprocessing.get_context('fork').Process(
            target=extract_and_die, args=(videos, tmp_path / 'out', count)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    result = frames(videos, tmp_path / 'out', every='200ms', skip_similar=0.1)
    assert result.existing == 3 and result.written + result.existing == straight.written
    for folder in 'ab':
        first, second = tmp_path / 'straight' / folder, tmp_path / 'out' / folder
        assert names(first) == names(second) and not list(second.glob('*.part'))
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names(first))
    again = frames(videos, tmp_path / 'out', every='200ms', skip_similar=0.1)
    assert again == (2, 0, straight.written, 0, [])
    with pytest.raises(ValueError, match='was started with every=1/5, not every=1'):
        frames(videos, tmp_path / 'out', skip_similar=0.1)
    write_video(videos[1], count=20)
    with pytest.raises(ValueError, match='b.mkv has changed since .* was written; remove that folder'):
        frames(videos, tmp_path / 'out', every='200ms', skip_similar=0.1)


def test_a_rotated_video_is_upright(tmp_path):
    path = write_video(tmp_path / 'a.mp4', count=32, codec='mpeg4', pixels='yuv420p')
    content = path.read_bytes()
    matrix = content.index(b'tkhd') + 44
    turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], '>i4').tobytes()
    path.write_bytes(content[:matrix] + turned + content[matrix + 36 :])
    frames(path, tmp_path / 'out', every='3100ms', to='png')
    pixels = np.asarray(Image.open(tmp_path / 'out/a/a_000003100.png')).astype(int)
    capture = cv2.VideoCapture(str(path))
    for _ in range(32):
        _, peer = capture.read()
    assert pixels.shape == peer.shape == (128, 96, 3)
    assert np.abs(pixels - peer[..., ::-1].astype(int)).mean() < 4


def test_damaged_videos_are_named_and_the_others_written(tmp_path, capsys):
    write_video(tmp_path / 'good.mkv', count=20)
    cut = write_video(tmp_path / 'part.avi', count=40, codec='mjpeg', pixels='yuvj420p', noise=20)
    content = bytearray(cut.read_bytes())
    middle = content.index(b'\xff\xd8', len(content) // 2)
    content[middle : middle + 600] = bytes(600)
    cut.write_bytes(content)
    (tmp_path / 'none.mp4').write_bytes(b'no video')
    assert main(['frames', str(tmp_path), '--out', str(tmp_path / 'out')]) == 1
    captured = capsys.readouterr()
    assert 'none.mp4: no video that FFmpeg reads: Invalid data found when processing input' in captured.err
    assert 'part.avi: 1 packets cannot be decoded, the first: Invalid data found' in captured.err
    assert f'{tmp_path / "out"}: 6 images of 3 videos' in captured.out
    assert len(names(tmp_path / 'out/good')) == 2 and not (tmp_path / 'out/none').exists()


def test_wrong_arguments(tmp_path, monkeypatch):
    video = write_video(tmp_path / 'a.mkv', count=2)
    for text in ('0s', '-1s', 'often', '1d'):
        with pytest.raises(ValueError, match='is no interval; give for example 1s, 500ms or 2m'):
            frames(video, tmp_path / 'out', every=text)
    assert [parse_interval(text) for text in ('2', '1.5m', '250 ms')] == [2, 90, 0.25]
    with pytest.raises(FileNotFoundError, match='b.mkv does not exist; did you mean'):
        frames(tmp_path / 'b.mkv', tmp_path / 'out')
    (tmp_path / 'sub').mkdir()
    write_video(tmp_path / 'sub/a.mkv', count=2)
    with pytest.raises(ValueError, match='have the same name'):
        frames(tmp_path, tmp_path / 'out')
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r"decoded by PyAV, which is missing: pip install 'mmssl\[video\]'"):
        frames(video, tmp_path / 'out')
    assert not (tmp_path / 'out/a').exists()
