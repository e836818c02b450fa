"""``mmssl predict`` on real images: every format is read back, runs continue, mistakes say why."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_inferencers import CLASSIFIER

from mmssl.apis import (
    DetectionInferencer,
    SegmentationInferencer,
    get_model,
    predict,
    predict_folder,
    processes,
)
from mmssl.apis.predict_calibration import smooth_threshold_of, threshold_of
from mmssl.apis.predict_files import plan
from mmssl.apis.predict_models import Predictor, Recipe, Thresholds
from mmssl.checkpoint import save_file
from mmssl.cli import main
from mmssl.config.load import find_config
from mmssl.data.label_formats import read_labels, write_labels
from mmssl.data.label_formats.convert import label_map_of
from mmssl.errors import LabelError, UserError
from mmssl.registry import MODELS, build

FORMATS = ('coco', 'yolo', 'voc', 'labelme', 'cvat', 'label-studio')


@pytest.fixture(scope='module')
def work(tmp_path_factory, data_root):
    """Three photographs of cells in two folders, and random weights of a model of each task."""
    folder = tmp_path_factory.mktemp('predict')
    for index, name in enumerate(('a/one.jpg', 'a/two.jpg', 'b/three.jpg')):
        (folder / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root / f'bccd/JPEGImages/BloodImage_0000{index}.jpg', folder / 'images' / name)
    (folder / 'classifier.py').write_text(CLASSIFIER)
    torch.manual_seed(0)
    for name, config in (('rfcn', 'smoke/rfcn'), ('gcn', 'smoke/gcn'), ('cls', folder / 'classifier.py')):
        model = get_model(config)
        with torch.no_grad():  # random weights give all classes the same score
            for key, value in model.named_parameters():
                if any(part in key for part in ('rfcn_cls', 'rfcn_reg', 'decode_head', 'head.fc')):
                    value.normal_(std=0.3)
        save_file({'state_dict': model.state_dict(), 'meta': {}}, folder / f'{name}.pth')
    return folder


@pytest.fixture(scope='module')
def found(work):
    """The detector's own results on the images, by their names."""
    infer = DetectionInferencer('smoke/rfcn', work / 'rfcn.pth', 'cpu')
    names = ('a/one.jpg', 'a/two.jpg', 'b/three.jpg')
    results = infer([work / 'images' / name for name in names])
    for result in results:
        result['names'] = [infer.class_name(label) for label in result['labels']]
    return dict(zip(names, results, strict=True))


@pytest.fixture(scope='module')
def detected(work):
    """The folder of a finished run, which other formats continue from."""
    predict('smoke/rfcn', work / 'rfcn.pth', work / 'images', work / 'found', threshold=0.0, device='cpu')
    return work / 'found'


def run(work, model, out, *more, images='images'):
    config = work / 'classifier.py' if model == 'cls' else f'smoke/{model}'
    arguments = ['predict', config, work / f'{model}.pth', work / images, '--device', 'cpu', '--out', out]
    return main([*map(str, arguments), *map(str, more)])


@pytest.mark.parametrize('format', FORMATS)
def test_boxes_are_read_back_from_every_format(work, detected, found, format, tmp_path, capsys):
    shutil.copytree(detected, tmp_path / 'out')
    assert run(work, 'rfcn', tmp_path / 'out', '--to', format, '--threshold', 0) == 0
    assert '3 images were done before' in capsys.readouterr().out
    labels = read_labels(tmp_path / 'out', 'detect', format, images=[work / 'images'])
    assert [Path(image.name).name for image in labels.images] == ['one.jpg', 'two.jpg', 'three.jpg']
    assert labels.num_objects == sum(len(each['scores']) for each in found.values()) > 10
    for image, result in zip(labels.images, found.values(), strict=True):
        names = [labels.classes[each.label] for each in image.objects]
        assert names == result['names']
        boxes = np.array([each.box for each in image.objects])
        np.testing.assert_allclose(boxes, result['bboxes'], atol=1e-3)
        np.testing.assert_allclose([each.score for each in image.objects], result['scores'], atol=1e-6)


def test_thresholds_of_classes(work, detected, found, tmp_path):
    shutil.copytree(detected, tmp_path / 'out')
    scores = np.concatenate([each['scores'] for each in found.values()])
    names = np.concatenate([each['names'] for each in found.values()])
    middle = float(np.median(scores))
    thresholds = Thresholds(middle, {str(names[0]): 1.0})
    done = predict('smoke/rfcn', work / 'rfcn.pth', work / 'images', tmp_path / 'out', 'coco', thresholds)
    assert done.skipped == 3 and not done.predicted
    assert done.labels.num_objects == ((scores >= middle) & (names != names[0])).sum() > 0


def test_masks_of_a_detector_followed_by_segment_anything(work, found, tmp_path):
    encoder = dict(
        type='mmssl.SAMImageEncoder',
        img_size=64,
        embed_dim=32,
        depth=1,
        num_heads=2,
        global_attn_indexes=(0,),
    )
    sam = dict(type='mmssl.SAM', image_encoder=encoder)
    torch.manual_seed(0)
    save_file(build(sam, MODELS).state_dict(), tmp_path / 'sam.pth')
    (tmp_path / 'cells-sam.py').write_text(
        "default_scope = 'mmdet'\n"
        f'_base_ = {str(find_config("smoke/rfcn"))!r}\n'
        "model = dict(_delete_=True, type='mmssl.PromptedInstanceSegmentor', detector=_base_.model, "
        f'sam={sam!r}, sam_checkpoint={str(tmp_path / "sam.pth")!r})\n'
    )
    done = predict(
        tmp_path / 'cells-sam.py', work / 'rfcn.pth', work / 'images/a/one.jpg', tmp_path / 'out',
        threshold=0.0, device='cpu',
    )  # fmt: skip
    (image,) = done.labels.images
    assert [each.score for each in image.objects] == found['a/one.jpg']['scores'].tolist()
    assert all(each.rle['size'] == [480, 640] for each in image.objects)


def test_the_threshold_of_a_precision():
    generator = np.random.default_rng(0)
    scores = generator.random(2000)
    right = generator.random(2000) < scores
    threshold = threshold_of(scores, right, 0.9)
    above = scores >= threshold
    assert right[above].mean() >= 0.9 > right[scores >= threshold - 0.02].mean()
    assert threshold_of(scores, ~right & (scores > 0.9), 0.9) == np.inf
    assert threshold_of(np.array([0.5, 0.5]), np.array([True, False]), 0.9) == np.inf  # of equal scores, all
    assert threshold_of(np.zeros(0), np.zeros(0, bool), 0.9) == np.inf


def test_a_promised_share_holds_on_other_images():
    """The mean over many small sets of labels; the lowest measured threshold alone promises too much."""
    shares, measured = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        scores = generator.random(2000) ** 0.5
        right = generator.random(2000) < scores**0.5
        few = slice(0, 80)
        for results, method in ((shares, smooth_threshold_of), (measured, threshold_of)):
            above = scores >= method(scores[few], right[few], 0.95)
            results.append(right[above].mean() if above.any() else np.nan)
    assert abs(np.nanmean(shares) - 0.95) < 0.01 and np.nanmean(measured) < np.nanmean(shares)
    assert smooth_threshold_of(np.array([0.9, 0.4]), np.array([True, False]), 1) == 0.9
    assert smooth_threshold_of(np.zeros(0), np.zeros(0, bool), 0.9) == np.inf


def test_thresholds_are_measured_on_labels(work, detected, found, tmp_path, capsys):
    shutil.copytree(detected, tmp_path / 'out')
    copies = tmp_path / 'labels'
    middle = float(np.median(np.concatenate([each['scores'] for each in found.values()])))
    labels = predict(
        'smoke/rfcn', work / 'rfcn.pth', work / 'images', tmp_path / 'out', 'labelme', threshold=middle
    ).labels  # the better half of the boxes is the truth
    write_labels(labels, copies, 'coco', images='copy')
    status = run(work, 'rfcn', tmp_path / 'out', '--to', 'coco', '--calibrate', copies, '--precision', 1)
    assert status == 0, capsys.readouterr().err
    assert 'boxes are right in 100% above: ' in capsys.readouterr().out
    measured = read_labels(tmp_path / 'out/annotations.json', images=[work / 'images'])
    scores = [each.score for image in measured.images for each in image.objects]
    assert measured.num_objects == labels.num_objects > 0 and min(scores) >= middle
    assert run(work, 'rfcn', tmp_path / 'out', '--to', 'coco', '--calibrate', copies, '--threshold', 0.5) == 1
    assert 'give one of them' in capsys.readouterr().err
    assert run(work, 'gcn', tmp_path / 'gcn', '--to', 'png', '--calibrate', copies) == 1
    assert '--calibrate measures the boxes of detectors' in capsys.readouterr().err


def _die_after(count, work, out, **options):
    write = predict_folder.Predictor.__call__
    calls = []

    def call(self, job):
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(job)
        return write(self, job)

    predict_folder.Predictor.__call__ = call
    predict('smoke/rfcn', work / 'rfcn.pth', work / 'images', out, threshold=0.0, device='cpu', **options)


def test_a_killed_process_of_two_is_started_again(work, detected, tmp_path):
    out = tmp_path / 'out'
    context = multiprocessing.get_context('fork')
    options = dict(rank=0, world_size=2)
    process = context.Process(target=_die_after, args=(1, work, out), kwargs=options)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    def again(rank):
        return predict(
            'smoke/rfcn', work / 'rfcn.pth', work / 'images', out, threshold=0.0, device='cpu',
            rank=rank, world_size=2,
        )  # fmt: skip

    assert again(1).pending == 1 and not (out / 'annotations.json').exists()
    done = again(0)
    assert (done.predicted, done.skipped, done.pending) == (1, 2, 0)
    assert (out / 'annotations.json').read_bytes() == (detected / 'annotations.json').read_bytes()


def test_a_killed_run_continues(work, detected, tmp_path):
    out = tmp_path / 'out'
    process = multiprocessing.get_context('fork').Process(target=_die_after, args=(2, work, out))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (out / 'annotations.json').exists()
    (out / '.predict/a/two.jpg.json').write_text('{"labels": {"na')  # as of a full disk
    done = predict('smoke/rfcn', work / 'rfcn.pth', work / 'images', out, threshold=0.0, device='cpu')
    assert (done.predicted, done.skipped) == (2, 1)
    assert (out / 'annotations.json').read_bytes() == (detected / 'annotations.json').read_bytes()


def test_an_image_that_has_changed_is_predicted_anew(work, detected, tmp_path):
    shutil.copytree(detected, tmp_path / 'out')
    shutil.copytree(work / 'images', tmp_path / 'images')
    shutil.copy(work / 'images/b/three.jpg', tmp_path / 'images/a/one.jpg')
    (tmp_path / 'images/b/new.txt').write_text('no image')
    done = predict('smoke/rfcn', work / 'rfcn.pth', tmp_path / 'images', tmp_path / 'out', device='cpu')
    assert (done.predicted, done.skipped) == (1, 2)


def test_processes_write_the_same_files(work, detected, tmp_path):
    recipe = Recipe('smoke/rfcn', str(work / 'rfcn.pth'), (), False, 'cpu')
    _, jobs = plan(work / 'images', tmp_path)
    results = list(processes.run_in_processes(recipe, jobs, 2, start_method='fork'))
    assert len(results) == 3 and not any(reason for _, reason in results)
    for job in jobs:
        assert job.file.read_bytes() == (detected / '.predict' / f'{job.name}.json').read_bytes()


def test_label_maps(work, tmp_path, capsys):
    infer = SegmentationInferencer('smoke/gcn', work / 'gcn.pth', 'cpu')
    assert run(work, 'gcn', tmp_path, '--to', 'png') == 0
    maps = read_labels(tmp_path, 'semantic', images=[work / 'images'])
    assert run(work, 'gcn', tmp_path, '--to', 'coco') == 0
    assert '3 images were done before' in capsys.readouterr().out
    objects = read_labels(tmp_path / 'annotations.json', images=[work / 'images'])
    for image, other in zip(maps.images, objects.images, strict=True):
        (result,) = infer(work / 'images' / image.name)
        predicted = result['pred_sem_seg']
        np.testing.assert_array_equal(label_map_of(maps, image), predicted)
        first = int(infer.classes[0] == 'background')
        drawn = label_map_of(objects, other)
        np.testing.assert_array_equal(drawn[predicted >= first], predicted[predicted >= first] + 1 - first)


def test_classes_of_images(work, tmp_path, capsys):
    assert run(work, 'cls', tmp_path / 'coco', '--to', 'coco') == 1
    assert 'holds no classes of whole images' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run(work, 'cls', tmp_path, '--to', 'label-studio', '--threshold', 0) == 0
    predictor = Predictor(Recipe(work / 'classifier.py', str(work / 'cls.pth'), (), False, 'cpu'))
    labels = read_labels(tmp_path, 'classify', images=[work / 'images'])
    for image in labels.images:
        (result,) = predictor.infer(work / 'images' / image.name)
        assert labels.classes[image.label] == result['pred_class']
    done = predict(work / 'classifier.py', work / 'cls.pth', work / 'images', tmp_path, 'cvat', 1.0)
    assert done.skipped == 3 and all(image.label is None for image in done.labels.images)


def test_mistakes_say_why_and_write_nothing(work, tmp_path, capsys):
    shutil.copy(work / 'rfcn.pth', tmp_path / 'rfcn.pth')
    for arguments, words in (
        (('--to', 'coco', '--threshold', 'RBC'), '--threshold RBC is neither a number nor CLASS=number'),
        (('--to', 'coco', '--threshold', 'RBCC=0.5'), "the model has no class 'RBCC'"),
        (('--to', 'coco', '--threshold', '2'), 'a threshold of 2.0 is no score'),
        (('--to', 'coco', '--workers', 0), '--workers 0 must be at least 1'),
    ):
        assert run(work, 'rfcn', tmp_path / 'out', *arguments) == 1
        assert words in capsys.readouterr().err and not (tmp_path / 'out').exists()
    (tmp_path / 'list.txt').write_text(f'{work}/images/a/one.jpg\nmissing.jpg\n')
    with pytest.raises(LabelError, match='missing.jpg is listed and does not exist'):
        plan(tmp_path / 'list.txt', tmp_path)
    with pytest.raises(UserError, match='masks would be taken for images'):
        predict('smoke/gcn', work / 'gcn.pth', work / 'images', work / 'images/out', 'png')
    with pytest.raises(ValueError, match="format 'cocoo' cannot be written; did you mean 'coco'"):
        predict('smoke/gcn', work / 'gcn.pth', work / 'images', tmp_path / 'out', 'cocoo')


def test_another_model_is_refused_and_a_bad_image_left_out(work, tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    shutil.copy(work / 'images/a/one.jpg', images / 'good.jpg')
    (images / 'bad.jpg').write_bytes(b'no image')
    (tmp_path / 'list.txt').write_text('# two images\nimages/good.jpg\nimages/bad.jpg\n')
    assert run(work, 'rfcn', tmp_path / 'out', '--to', 'yolo', images=tmp_path / 'list.txt') == 1
    said = capsys.readouterr()
    assert 'left out' in said.err and 'bad.jpg' in said.err and '1 could not be read' in said.out
    assert [file.name for file in (tmp_path / 'out/labels').iterdir()] == ['good.txt']
    model = torch.load(work / 'rfcn.pth', weights_only=False)
    next(iter(model['state_dict'].values())).add_(1)
    save_file(model, tmp_path / 'rfcn.pth')
    assert main(['predict', 'smoke/rfcn', f'{tmp_path}/rfcn.pth', f'{images}', '--to', 'yolo', '--out',
                 f'{tmp_path}/out', '--device', 'cpu']) == 1  # fmt: skip
    assert 'was started with checkpoint_digest=' in capsys.readouterr().err
    assert json.loads((tmp_path / 'out/.predict-settings').read_text())['config'] == 'smoke/rfcn'
