"""Inferencers of every system on real image files; their results equal those of ``mmssl test``."""

import json
import pickle
import warnings

import cv2
import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image

from mmssl.apis import (
    DetectionInferencer,
    FeatureInferencer,
    PromptInferencer,
    SegmentationInferencer,
    get_model,
)
from mmssl.checkpoint import save_file
from mmssl.checkpoint.weight_files import write_weights
from mmssl.cli import main
from mmssl.data.images import read_rgb
from mmssl.data.suffixes import IMAGE_SUFFIXES

CLASSIFIER = """
default_scope = 'mmpretrain'
_base_ = ['mmssl::_base_/runtime.py']
data_preprocessor = dict(
    num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmssl.ViT', img_size=32, patch_size=8,
        arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
                  out_type='avg_featmap', final_norm=False),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=24))
test_dataloader = dict(
    batch_size=64, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmssl.ImageFolder', data_root='data/demo/imagenet', data_prefix='val', labels='folder',
        test_mode=True,
                 pipeline=[dict(type='mmssl.LoadCenterCrop', scale=32), dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy')
test_cfg = dict()
"""


@pytest.fixture(scope='module')
def work(tmp_path_factory, demo_data):
    """A folder with the demo data and random checkpoints of smoke configs, with larger weights in heads."""
    folder = tmp_path_factory.mktemp('work')
    (folder / 'data').mkdir()
    (folder / 'data/demo').symlink_to(demo_data, target_is_directory=True)
    (folder / 'classifier.py').write_text(CLASSIFIER)
    torch.manual_seed(0)
    for name in ('gcn', 'rfcn', 'mae', 'sam'):
        model = get_model(f'smoke/{name}')
        save_file({'state_dict': model.state_dict(), 'meta': {}}, folder / f'{name}.pth')
        write_weights(model.state_dict(), str(folder / f'{name}.safetensors'))
    model = get_model(folder / 'classifier.py')
    model.head.fc.weight.data.normal_()
    save_file(
        {
            'state_dict': model.state_dict(),
            'meta': {'dataset_meta': {'classes': tuple(f'digit {n}' for n in range(10))}},
        },
        folder / 'classifier.pth',
    )
    return folder


@pytest.fixture(scope='module')
def scenes(demo_data):
    return sorted((demo_data / 'scenes/images/val').glob('*.jpg'))


@pytest.fixture(scope='module')
def segment(work):
    return SegmentationInferencer('smoke/gcn', work / 'gcn.pth', device='cpu')


@pytest.fixture(scope='module')
def detect(work):
    return DetectionInferencer('smoke/rfcn', work / 'rfcn.safetensors', device='cpu', score_thr=0.1)


@pytest.fixture(scope='module')
def prompt(work):
    return PromptInferencer(
        'smoke/sam',
        work / 'sam.pth',
        device='cpu',
        points_per_side=2,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
    )


def run_test(work, monkeypatch, *arguments):
    """``mmssl test`` in this process, in the folder with the data."""
    monkeypatch.chdir(work)
    assert main(['test', *map(str, arguments), '--work-dir', str(work / 'runs')]) == 0


def test_classes_equal_those_of_mmssl_test(work, segment, scenes, monkeypatch):
    run_test(work, monkeypatch, 'smoke/gcn', work / 'gcn.safetensors', '--out', work / 'masks')
    results = segment(work / 'data/demo/scenes/images/val', batch_size=3)
    assert [result['img_path'] for result in results] == [
        str(work / 'data/demo/scenes/images/val' / path.name) for path in scenes
    ]
    assert len(np.unique(results[0]['pred_sem_seg'])) > 2
    for path, result in zip(scenes, results, strict=True):
        assert np.array_equal(
            np.asarray(Image.open(work / f'masks/{path.stem}.png')), result['pred_sem_seg']
        ), path


def test_detections_equal_those_of_mmssl_test(work, detect, scenes, monkeypatch):
    run_test(work, monkeypatch, 'smoke/rfcn', work / 'rfcn.pth', '--out', work / 'found.pkl')
    samples = pickle.loads((work / 'found.pkl').read_bytes())
    expected = {sample['img_path'].rpartition('/')[2]: sample['pred_instances'] for sample in samples}
    results = detect([str(path) for path in scenes], batch_size=4)
    assert len(results) == len(expected) and max(len(result['scores']) for result in results) > 0
    for path, result in zip(scenes, results, strict=True):
        order = expected[path.name]['scores'].argsort(descending=True, stable=True)
        np.testing.assert_allclose(result['bboxes'], expected[path.name]['bboxes'][order], atol=1e-3)
        np.testing.assert_allclose(result['scores'], expected[path.name]['scores'][order], atol=1e-6)
        assert np.array_equal(result['labels'], expected[path.name]['labels'][order])


def test_scores_of_a_classifier_equal_those_of_mmssl_test(work, monkeypatch):
    run_test(work, monkeypatch, work / 'classifier.py', work / 'classifier.pth', '--out', work / 'scores.pkl')
    expected = pickle.loads((work / 'scores.pkl').read_bytes())
    infer = FeatureInferencer(work / 'classifier.py', work / 'classifier.pth', device='cpu')
    results = infer('data/demo/imagenet/val', batch_size=64)
    assert len(results) == len(expected) > 100 and len({result['pred_label'] for result in results}) > 1
    scores = np.stack([result['pred_scores'] for result in results])
    assert np.allclose(scores, torch.stack([sample['pred_score'] for sample in expected]), atol=1e-5)
    assert [result['pred_label'] for result in results] == [int(sample['pred_label']) for sample in expected]
    assert (
        infer.classes[3] == 'digit 3' and results[0]['pred_class'] == infer.classes[results[0]['pred_label']]
    )  # of the checkpoint
    images = torch.from_numpy(np.stack([infer.read(work / results[0]['img_path'], 0)['inputs'].numpy()]))
    with torch.no_grad():
        features = infer.model.backbone(infer.model.data_preprocessor(dict(inputs=images), False)['inputs'])[
            0
        ]
    assert np.allclose(results[0]['features'], features[0], atol=1e-5)
    found = infer(str(work / results[0]['img_path']), out_dir=work / 'classes')
    (saved,) = (work / 'classes/predictions').glob('*.json')
    assert json.loads(saved.read_text())['pred_class'] == found[0]['pred_class']
    assert Image.open(work / f'classes/pictures/{saved.stem}.png').height > 360
    infer.pool = 'cls'
    token = infer(str(work / results[0]['img_path']))[0]
    assert np.allclose(token['pred_scores'], scores[0], atol=1e-5) and not np.allclose(
        token['features'], results[0]['features']
    )


def test_features_equal_those_of_knn(work, demo_data):
    from mmssl.evaluation.features import extract_features
    from mmssl.evaluation.labelled import labelled_images

    images = labelled_images(str(demo_data / 'imagenet'), 32)[1]
    infer = FeatureInferencer('smoke/mae', work / 'mae.pth', device='cpu', image_size=32)
    paths = [images.folder.get_data_info(index)['img_path'] for index in range(6)]
    pixels = torch.stack([images[index][0] for index in range(6)])
    expected, _ = extract_features(infer.model, [(pixels, torch.zeros(6))])
    results = infer(paths, batch_size=4, out_dir=work / 'features')
    assert set(results[0]) == {'img_path', 'features'} and results[0]['features'].dtype == np.float32
    assert np.allclose(np.stack([result['features'] for result in results]), expected, atol=1e-5)
    saved = sorted((work / 'features/predictions').iterdir())
    assert len(saved) == 6 and len(json.loads(saved[0].read_text())['features']) == expected.shape[1]
    assert not (work / 'features/pictures').exists()


def test_every_kind_of_input_gives_the_same(segment, scenes, tmp_path):
    path = tmp_path / 'scene.png'
    Image.open(scenes[0]).save(path)
    bgr = cv2.imread(str(path))
    expected = segment(path)[0]['pred_sem_seg']
    for inputs in (str(path), tmp_path, bgr, Image.open(path), [bgr]):
        assert np.array_equal(segment(inputs)[0]['pred_sem_seg'], expected)
    assert np.array_equal(segment(bgr[..., ::-1], image_format='RGB')[0]['pred_sem_seg'], expected)
    mixed = segment([path, bgr, scenes[1], path], batch_size=4)
    assert [result['img_path'] for result in mixed] == [str(path), None, str(scenes[1]), str(path)]
    assert all(np.array_equal(mixed[number]['pred_sem_seg'], expected) for number in (0, 1, 3))


def test_images_of_several_sizes_do_not_change_each_other(detect, scenes):
    small = cv2.imread(str(scenes[1]))[:60, :100]
    together = detect([scenes[0], small, scenes[0]], batch_size=3)
    for result, alone in zip(
        together, [detect(scenes[0])[0], detect(small)[0], detect(scenes[0])[0]], strict=True
    ):
        np.testing.assert_allclose(result['bboxes'], alone['bboxes'], atol=1e-2)
        np.testing.assert_allclose(result['scores'], alone['scores'], atol=1e-4)


def test_files_of_segmentation_and_detection(segment, detect, scenes, tmp_path, capfd):
    bgr = cv2.imread(str(scenes[0]))
    result = segment([scenes[0], bgr], out_dir=tmp_path / 'seg', progress=True)[0]
    assert '2/2' in capfd.readouterr().err
    name = scenes[0].stem
    for folder, ending in (('predictions', 'json'), ('pictures', 'png'), ('masks', 'png')):
        assert {path.name for path in (tmp_path / 'seg' / folder).iterdir()} == {
            f'{name}.{ending}',
            f'000001.{ending}',
        }
    assert np.array_equal(np.asarray(Image.open(tmp_path / f'seg/masks/{name}.png')), result['pred_sem_seg'])
    saved = json.loads((tmp_path / f'seg/predictions/{name}.json').read_text())
    assert (
        saved['size'] == list(bgr.shape[:2])
        and sum(part['pixels'] for part in saved['classes']) == bgr.shape[0] * bgr.shape[1]
    )
    assert {part['name'] for part in saved['classes']} <= set(segment.classes)
    found = detect(scenes[0], out_dir=tmp_path / 'det')[0]
    assert '2/2' not in capfd.readouterr().err
    saved = json.loads((tmp_path / f'det/predictions/{name}.json').read_text())
    assert np.allclose(saved['bboxes'], found['bboxes']) and saved['classes'] == [
        detect.classes[label] for label in found['labels']
    ]
    assert Image.open(tmp_path / f'det/pictures/{name}.png').height == 480


def test_prompts_give_the_masks_of_the_predictor(prompt, scenes, tmp_path):
    from mmssl.data.images import read_rgb
    from mmssl.promptable import SamPredictor

    boxes, points = [(5, 5, 60, 50), (30, 20, 90, 80)], [(40, 30), (8, 9)]
    results = prompt(
        [scenes[0], cv2.imread(str(scenes[0])), scenes[1]],
        out_dir=tmp_path,
        prompts=[dict(boxes=boxes), dict(points=points, labels=[1, 0]), None],
    )
    predictor = SamPredictor(prompt.model)
    predictor.set_image(read_rgb(scenes[0]))
    for number, box in enumerate(boxes):
        masks, ious, _ = predictor.predict(box=np.array(box), multimask_output=False)
        assert np.array_equal(results[0]['masks'][number], masks[0]) and results[0]['scores'][
            number
        ] == pytest.approx(float(ious[0]))
    masks, _, _ = predictor.predict(np.array(points), np.array([1, 0]), multimask_output=False)
    predictor.set_image(cv2.imread(str(scenes[0])), 'BGR')
    assert np.array_equal(results[1]['masks'][0], masks[0])
    assert 'masks' not in results[2] and results[2]['annotations'] == prompt(scenes[1])[0]['annotations']
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / f'masks/{scenes[0].stem}/001.png')) > 0, results[0]['masks'][1]
    )
    assert {path.stem for path in (tmp_path / 'pictures').iterdir()} == {
        scenes[0].stem,
        '000001',
        scenes[1].stem,
    }
    assert len(json.loads((tmp_path / f'predictions/{scenes[0].stem}.json').read_text())['annotations']) == 2


@pytest.mark.parametrize(
    ('prompts', 'message'),
    [
        (dict(point=[(1, 1)]), "a prompt has no 'point'; did you mean 'points'"),
        ({}, 'a prompt without points and boxes'),
        (dict(points=[(1, 1)], labels=[1, 0]), '2 labels for 1 points'),
        (dict(points=[(1, 1)], boxes=[(1, 1, 5, 5)] * 2), 'there are 2'),
        (dict(boxes=[(1, 2, 3)]), 'give \\(N, 4\\)'),
        ([None, None], '2 prompts for 1 images'),
        (dict(points=[(5000, 1)]), 'jpg: point .* outside'),
    ],
)
def test_wrong_prompts(prompt, scenes, prompts, message):
    with pytest.raises(ValueError, match=message):
        prompt(scenes[0], prompts=prompts)


def test_wrong_inputs_are_named(segment, scenes, tmp_path):
    with pytest.raises(FileNotFoundError, match=f'{scenes[0].stem}x.jpg does not exist; did you mean'):
        segment(scenes[0].with_name(f'{scenes[0].stem}x.jpg'))
    with pytest.raises(ValueError, match='holds no image: it is empty'):
        segment(tmp_path)
    bad = tmp_path / 'bad.jpg'
    bad.write_bytes(b'no image')
    with pytest.raises(ValueError, match='bad.jpg: no known image format'):
        segment([scenes[0], bad])
    with pytest.raises(ValueError, match='an empty list'):
        segment([])
    with pytest.raises(TypeError, match='float64'):
        segment(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match='holds several images; give list'):
        segment(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(TypeError, match='an image of type int'):
        segment(3)
    with pytest.raises(ValueError, match='batch_size=0'):
        segment(scenes[0], batch_size=0)
    with pytest.raises(ValueError, match="image_format='bgr'"):
        segment(scenes[0], image_format='bgr')


def test_wrong_configs_and_checkpoints_are_named(work):
    with pytest.raises(ValueError, match='smoke/gcn is of no detector'):
        DetectionInferencer('smoke/gcn')
    with pytest.raises(ValueError, match='smoke/rfcn is of no segmentor'):
        SegmentationInferencer('smoke/rfcn')
    (work / 'untested.py').write_text(
        "_base_ = 'mmssl::smoke/gcn.py'\nval_dataloader = None\ntest_dataloader = None\n"
    )
    with pytest.raises(ValueError, match='untested has no test_dataloader'):
        SegmentationInferencer(work / 'untested.py')
    with pytest.raises(ValueError, match='is one of mmssl.apis.SegmentationInferencer'):
        FeatureInferencer('smoke/gcn')
    with pytest.raises(ValueError, match='is one of mmssl.apis.PromptInferencer'):
        FeatureInferencer('smoke/sam')
    with pytest.raises(ValueError, match="no model 'vit_bb'; did you mean"):
        PromptInferencer('vit_bb')
    with pytest.raises(ValueError, match='gcn.pth is not the checkpoint of this model|matched'):
        DetectionInferencer('smoke/rfcn', work / 'gcn.pth')
    with pytest.raises(ValueError, match="unknown device 'nowhere'"):
        DetectionInferencer('smoke/rfcn', work / 'rfcn.pth', device='nowhere')


def test_random_weights_are_said():
    with pytest.warns(UserWarning, match='smoke/mae runs with random weights'):
        FeatureInferencer('smoke/mae', device='cpu')


def test_names_of_results_are_their_own(tmp_path):
    from mmssl.apis.sources import find_sources

    for folder in 'ab':
        (tmp_path / folder).mkdir()
        Image.new('RGB', (4, 4)).save(tmp_path / folder / 'same.png')
    Image.new('RGB', (4, 4)).save(tmp_path / '000004.png')
    sources = find_sources([tmp_path, tmp_path / 'a/same.png', np.zeros((4, 4, 3), np.uint8)])
    assert [source.name for source in sources] == ['000004', 'a/same', 'b/same', 'a/same_', '000004_']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert sources[-1].pixels.shape == (4, 4, 3)


@pytest.mark.parametrize('suffix', IMAGE_SUFFIXES)
def test_what_trains_is_found_by_commands_and_inferencers(suffix, tmp_path):
    from mmssl.apis.sources import find_sources
    from mmssl.commands.segment_prompts import find_images
    from mmssl.data.annotations import plan
    from mmssl.data.folder import ImageFolder

    if suffix in ('.heic', '.heif', '.hif'):
        pillow_heif.register_heif_opener(thumbnails=False)  # Pillow alone cannot write them
    folder = tmp_path / 'images'
    folder.mkdir()
    path = folder / f'photo{suffix.upper()}'
    image = Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    formats = {'.jfif': 'JPEG', '.jpe': 'JPEG', '.pgm': 'PPM'}
    image.save(path, format=formats.get(suffix))
    assert len(ImageFolder(str(folder), labels=None)) == 1
    assert [source.path for source in find_sources(folder)] == find_images([str(folder)]) == [path]
    assert [job.image for job in plan(folder, tmp_path / 'out')] == [path]
    assert read_rgb(path).shape == (5, 5, 3)
