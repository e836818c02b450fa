"""``mmssl predict`` on tiles, videos, archives and with several processes: as one process on plain images."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.apis import DetectionInferencer, SegmentationInferencer, get_model, predict, predict_models
from mmssl.apis.predict_files import plan
from mmssl.apis.predict_models import Thresholds
from mmssl.apis.predict_pixels import PixelScores
from mmssl.apis.predict_tiles import Tiling, detect_in_tiles, segment_in_tiles, suppress
from mmssl.checkpoint import save_file
from mmssl.data.label_formats import read_labels
from mmssl.data.label_formats.convert import label_map_of
from mmssl.data.label_formats.shapes import encode
from mmssl.errors import BadImageError, UserError

NAMES = ('a/one.jpg', 'a/two.jpg', 'three.jpg')


@pytest.fixture(scope='module')
def work(tmp_path_factory, data_root):
    """Three photographs of cells, and random weights of a detector and of a segmentor."""
    folder = tmp_path_factory.mktemp('sources')
    for index, name in enumerate(NAMES):
        (folder / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root / f'bccd/JPEGImages/BloodImage_0000{index}.jpg', folder / 'images' / name)
    torch.manual_seed(0)
    for name in ('rfcn', 'gcn'):
        model = get_model(f'smoke/{name}')
        with torch.no_grad():
            for key, value in model.named_parameters():
                if any(part in key for part in ('rfcn_cls', 'rfcn_reg', 'decode_head')):
                    value.normal_(std=0.3)
        save_file({'state_dict': model.state_dict(), 'meta': {}}, folder / f'{name}.pth')
    return folder


def found(work, out, images, model='rfcn', format='coco', threshold=0.0, **options):
    weights = work / f'{model}.pth'
    return predict(f'smoke/{model}', weights, images, out, format, threshold, device='cpu', **options)


@pytest.fixture(scope='module')
def whole(work):
    return found(work, work / 'whole', work / 'images')


def comparable(labels):
    return [(image.name, [vars(each) for each in image.objects]) for image in labels.images]


def test_images_that_fit_into_a_tile_are_predicted_whole(work, whole, tmp_path):
    tiled = found(work, tmp_path, work / 'images', tile=640)
    assert comparable(tiled.labels) == comparable(whole.labels) and whole.labels.num_objects > 10
    with pytest.raises(ValueError, match='was started with tile=640, not the default tile'):
        found(work, tmp_path, work / 'images')
    with pytest.raises(ValueError, match='--overlap 128 must be at least 0 and below --tile 100'):
        found(work, tmp_path / 'b', work / 'images', tile=100)


def test_the_objects_of_a_tile_are_those_of_its_pixels(work, tmp_path):
    done = found(work, tmp_path, work / 'images/three.jpg', tile=480, overlap=320)
    infer = DetectionInferencer('smoke/rfcn', work / 'rfcn.pth', 'cpu')
    pixels = np.asarray(Image.open(work / 'images/three.jpg'))
    boxes = np.concatenate(
        [
            infer(np.ascontiguousarray(pixels[:, left : left + 480, ::-1]))[0]['bboxes'] + [left, 0, left, 0]
            for left in (0, 160)
        ]
    )
    (image,) = done.labels.images
    differences = [
        np.abs(boxes.clip(0, [640, 480, 640, 480]) - each.box).max(1).min() for each in image.objects
    ]
    assert differences and max(differences) < 1e-3


def test_tiles_cover_an_image_and_their_objects_are_merged():
    """Squares of an image, found exactly in each tile: all come back, once each."""
    assert Tiling(100, 30).starts(100) == [0] and Tiling(100, 30).starts(99) == [0]
    assert Tiling(100, 30).starts(101) == [0, 1] and Tiling(100, 30).starts(240) == [0, 70, 140]
    generator = np.random.default_rng(0)
    image = np.zeros((260, 310, 3), np.uint8)
    squares = []
    for index in range(60):  # each on a cell of its own, many on borders of tiles
        top, left = 26 * (index // 10) + generator.integers(4), 31 * (index % 10) + generator.integers(8)
        image[top : top + 20, left : left + 22] = index + 1
        squares.append((left, top, left + 22, top + 20))

    def detect(tile):
        values = [value for value in np.unique(tile[..., 0]) if value]
        places = [np.nonzero(tile[..., 0] == value) for value in values]
        boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in places]
        sizes = np.array([len(y) / 440 for y, _ in places])
        return dict(
            bboxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(values) % 3,
            scores=sizes,
            masks=[encode(tile[..., 0] == value) for value in values],
        )

    result = detect_in_tiles(image, Tiling(100, 30), detect)
    assert sorted(map(tuple, result['bboxes'].tolist())) == sorted(squares)
    assert (result['scores'] == 1).all()
    for box, mask in zip(result['bboxes'].astype(int), result['masks'], strict=True):
        value = image[box[1], box[0], 0]
        assert mask == encode(image[..., 0] == value)


def test_suppression_is_per_class():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 0, 60, 10]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.1], np.float32)
    assert suppress(boxes, scores, np.array([0, 0, 1, 0]), 0.5).tolist() == [1, 2, 3]


@pytest.mark.parametrize('size', [(50, 70), (96, 33), (30, 30)])
def test_scores_of_pixels_are_means_over_the_tiles(size):
    image = np.random.default_rng(1).integers(0, 255, (*size, 3)).astype(np.uint8)
    tiling = Tiling(32, 12)

    def scores_of(tile):  # depends on the place inside the tile, so that tiles disagree
        return np.stack([tile[..., 0] + 1.0, tile[..., 1] * np.arange(tile.shape[1])[None]]).astype(
            np.float32
        )

    expected, count = np.zeros((2, *size)), np.zeros(size)
    for top in tiling.starts(size[0]):
        for left in tiling.starts(size[1]):
            part = (slice(top, top + 32), slice(left, left + 32))
            expected[(slice(None), *part)] += scores_of(image[part])
            count[part] += 1
    bands = list(segment_in_tiles(image, tiling, scores_of))
    np.testing.assert_allclose(np.concatenate(bands, axis=1), expected / count, rtol=1e-6)


def test_label_maps_of_tiles_and_of_probable_pixels(work, tmp_path):
    plain = found(work, tmp_path / 'plain', work / 'images', 'gcn', 'png', None)
    maps = [label_map_of(plain.labels, image) for image in plain.labels.images]
    tiled = found(work, tmp_path / 'tiled', work / 'images/three.jpg', 'gcn', 'png', None, tile=400)
    scores_of = PixelScores(SegmentationInferencer('smoke/gcn', work / 'gcn.pth', 'cpu'))
    pixels = np.asarray(Image.open(work / 'images/three.jpg'))[..., ::-1]
    total, count = 0, np.zeros((480, 640))
    for top in (0, 80):
        for left in (0, 240):
            scores = scores_of(np.ascontiguousarray(pixels[top : top + 400, left : left + 400]))
            place = ((top, 80 - top), (left, 240 - left))
            total = total + np.pad(scores, ((0, 0), *place))
            count += np.pad(np.ones((400, 400)), place)
    expected = (total / count).argmax(0)
    assert (label_map_of(tiled.labels, tiled.labels.images[0]) == expected).mean() > 0.9999
    certain = found(work, tmp_path / 'plain', work / 'images', 'gcn', 'png', 0.5)
    assert certain.predicted == 3  # the first run has kept no probabilities
    again = found(work, tmp_path / 'plain', work / 'images', 'gcn', 'png', Thresholds(0.5, {'zero': 1.0}))
    assert again.predicted == 0
    shares = []
    for image, classes in zip(certain.labels.images, maps, strict=True):
        kept = label_map_of(certain.labels, image)
        assert set(np.unique(kept)) <= {*np.unique(classes), 255}
        assert (kept == classes)[kept != 255].all()
        shares.append((kept == 255).mean())
    assert 0 < np.mean(shares) < 1
    read = read_labels(tmp_path / 'plain', 'semantic', images=[work / 'images'])
    assert read.label_map[255] is None


def test_images_of_an_archive(work, whole, tmp_path):
    with zipfile.ZipFile(tmp_path / 'cells.zip', 'w') as archive:
        for name in NAMES:
            archive.write(work / 'images' / name, name)
    done = found(work, tmp_path / 'out', tmp_path / 'cells.zip')
    names = [image.name for image in done.labels.images]
    assert names == sorted(NAMES)
    for ours, theirs in zip(comparable(done.labels), comparable(whole.labels), strict=True):
        assert ours == theirs
    again = found(work, tmp_path / 'out', tmp_path / 'cells.zip')
    assert (again.predicted, again.skipped) == (0, 3)
    (tmp_path / 'list.txt').write_text('cells.zip/a/one.jpg\ncells.zip/three.jpg\n')
    assert [job.name for job in plan(tmp_path / 'list.txt', tmp_path)[1]] == ['a/one.jpg', 'three.jpg']


def write_video(path: Path, count: int) -> None:
    av = pytest.importorskip('av', reason="pip install 'mmssl[video]'")
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg4', rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, 'yuv420p'
        for index in range(count):
            pixels = np.full((240, 320, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        container.mux(stream.encode())


def test_frames_of_a_video(work, tmp_path):
    (tmp_path / 'videos').mkdir()
    write_video(tmp_path / 'videos/clip.mp4', 9)
    done = found(work, tmp_path / 'out', tmp_path / 'videos', every=4)
    names = [f'clip-{index:06d}.jpg' for index in (0, 4, 8)]
    assert [image.name for image in done.labels.images] == names
    for index, name in zip((0, 4, 8), names, strict=True):
        pixels = np.asarray(Image.open(tmp_path / 'out/images' / name))
        assert pixels.shape == (240, 320, 3) and abs(pixels.mean() - 20 * index) < 4
    assert [image.name for image in read_labels(tmp_path / 'out/annotations.json').images] == names
    (tmp_path / 'out/images/clip-000004.jpg').unlink()  # as if it had been stopped
    record = tmp_path / 'out/.predict/clip.frames.json'
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, 'frames': None}))
    again = found(work, tmp_path / 'out', tmp_path / 'videos/clip.mp4', every=4)
    assert (again.predicted, again.skipped) == (1, 2)
    other = found(work, tmp_path / 'out', tmp_path / 'videos/clip.mp4', every=8)
    assert [image.name for image in other.labels.images] == [names[0], names[2]]
    with pytest.raises(UserError, match='clip.mp4 is a video and .*three.jpg an image'):
        plan([tmp_path / 'videos/clip.mp4', work / 'images/three.jpg'], tmp_path)
    (tmp_path / 'no.mp4').write_bytes(b'no video')
    with pytest.raises(BadImageError, match='not a readable video'):
        plan(tmp_path / 'no.mp4', tmp_path)


def test_without_pyav_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'av', None)
    (tmp_path / 'a.mp4').write_bytes(b'')
    with pytest.raises(ImportError, match=r"videos need PyAV: pip install 'mmssl\[video\]'"):
        plan(tmp_path / 'a.mp4', tmp_path / 'out')


def test_processes_share_the_images_and_the_last_writes_the_labels(work, whole, tmp_path):
    first = found(work, tmp_path, work / 'images', rank=0, world_size=2)
    assert (first.predicted, first.pending) == (2, 1) and not (tmp_path / 'annotations.json').exists()
    last = found(work, tmp_path, work / 'images', rank=1, world_size=2)
    assert (last.predicted, last.skipped, last.pending) == (1, 2, 0)
    assert (tmp_path / 'annotations.json').read_bytes() == (work / 'whole/annotations.json').read_bytes()
    assert comparable(last.labels) == comparable(whole.labels)


def test_an_image_that_one_process_cannot_read_holds_up_no_other(work, tmp_path):
    shutil.copytree(work / 'images', tmp_path / 'images')
    (tmp_path / 'images/a/two.jpg').write_bytes(b'no image')
    second = found(work, tmp_path / 'out', tmp_path / 'images', rank=1, world_size=2)
    assert second.pending == 2 and 'two.jpg' in second.unreadable[0]
    first = found(work, tmp_path / 'out', tmp_path / 'images', rank=0, world_size=2)
    assert first.pending == 0 and len(first.unreadable) == 1 and len(first.labels.images) == 2
    shutil.copy(work / 'images/a/two.jpg', tmp_path / 'images/a/two.jpg')  # repaired
    assert len(found(work, tmp_path / 'out', tmp_path / 'images').labels.images) == 3


def test_uncertain_boxes_become_crowds(work, whole, tmp_path, monkeypatch):
    scores = [each.score for image in whole.labels.images for each in image.objects]
    lowest, middle = (float(np.quantile(scores, part)) for part in (0.2, 0.5))
    monkeypatch.setattr(predict_models, 'UNCERTAIN', lowest)
    done = found(work, tmp_path, work / 'images', threshold=middle, keep_uncertain=True)
    objects = [each for image in done.labels.images for each in image.objects]
    assert sum(not each.crowd for each in objects) == sum(score >= middle for score in scores)
    assert sum(each.crowd for each in objects) == sum(lowest <= score < middle for score in scores) > 0
    read = read_labels(tmp_path / 'annotations.json', images=[work / 'images'])
    assert comparable(read) == comparable(done.labels)
    with pytest.raises(ValueError, match='--keep-uncertain is for boxes and masks'):
        found(work, tmp_path / 'gcn', work / 'images', 'gcn', 'png', None, keep_uncertain=True)
