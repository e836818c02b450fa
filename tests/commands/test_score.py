"""``mmssl score``: equal to scikit-learn, pycocotools and the metrics of training; bad files in one line."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.apis.score import score
from mmssl.cli import main
from mmssl.data.label_formats import ImageLabels, LabelSet, ObjectLabel, read_labels, write_labels
from mmssl.evaluation.average_precision import class_matches, evaluate_coco, resampled_precision
from mmssl.evaluation.boundary import BoundaryMetric
from mmssl.evaluation.segmentation import SegmentationMetric


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    if palette:
        image.putpalette(palette)
    image.save(path)


@pytest.fixture(scope='module')
def maps(tmp_path_factory):
    """Six label maps of five classes in blocks, one class in no truth, some pixels ignored."""
    root = tmp_path_factory.mktemp('maps')
    generator = np.random.default_rng(0)
    pairs = []
    for index in range(6):
        label = np.kron(generator.integers(0, 4, (6, 8)), np.ones((6, 5), int))
        pred = np.where(generator.random(label.shape) < 0.2, generator.integers(0, 5, label.shape), label)
        label[:2] = 255
        pairs.append((label, pred))
        save(root / f'truth/{index}.png', label)
        save(root / f'pred/{index}.png', pred)
    return root, pairs


def run(capsys, *arguments):
    status = main(['score', *map(str, arguments)])
    done = capsys.readouterr()
    return status, done.out, done.err


def test_label_maps_equal_scikit_learn_and_the_metrics_of_training(maps, capsys):
    from sklearn import metrics

    root, pairs = maps
    status, out, _ = run(
        capsys, root / 'truth', root / 'pred', '--task', 'semantic', '--ignore', 255, '--json'
    )
    assert status == 0
    result = json.loads(out)
    valid = [label != 255 for label, _ in pairs]
    labels = np.concatenate([label[mask] for (label, _), mask in zip(pairs, valid, strict=True)])
    preds = np.concatenate([pred[mask] for (_, pred), mask in zip(pairs, valid, strict=True)])
    ious = metrics.jaccard_score(labels, preds, average=None, labels=range(5))
    assert result['pixel_accuracy'] == metrics.accuracy_score(labels, preds)
    assert result['mean_iou'] == pytest.approx(ious.mean(), rel=1e-15)
    recalls = metrics.recall_score(labels, preds, average=None, labels=range(4))
    assert result['mean_pixel_accuracy'] == pytest.approx(recalls.mean(), rel=1e-15)
    assert result['frequency_weighted_iou'] == pytest.approx(
        metrics.jaccard_score(labels, preds, average='weighted'), rel=1e-14
    )
    assert result['kappa'] == pytest.approx(metrics.cohen_kappa_score(labels, preds), rel=1e-14)
    precisions = metrics.precision_score(labels, preds, average=None, labels=range(5))
    for index in range(5):
        of_class = result['per_class'][str(index)]
        assert of_class['iou'] == ious[index] and of_class['precision'] == precisions[index]
    assert result['per_class']['4']['accuracy'] is None
    for name, (low, high) in result['interval'].items():
        assert 0 <= low <= result[name] <= high <= 1, name
    assert result['images'] == 6

    names = {'pixel_accuracy': 'PA', 'mean_pixel_accuracy': 'MPA', 'mean_iou': 'mIoU'}
    names['frequency_weighted_iou'] = 'FWIoU'
    metric, boundary = SegmentationMetric(), BoundaryMetric()
    for each in (metric, boundary):
        each.dataset_meta = dict(classes=tuple('abcde'))
        samples = [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(pred)[None]),
                gt_sem_seg=dict(data=torch.from_numpy(label)[None]),
            )
            for label, pred in pairs
        ]
        each.process(None, samples)
    trained = metric.evaluate(6)
    assert {name: 100 * result[name] for name in names} == {
        name: trained[short] for name, short in names.items()
    }
    assert 100 * result['boundary_iou'] == boundary.evaluate(6)['boundary_IoU']


def test_the_interval_is_that_of_resampled_images(maps):
    from mmssl.evaluation.bootstrap import resample_counts
    from mmssl.evaluation.confusion import confusion_matrix, mean_iou

    root, pairs = maps
    result = score(root / 'truth', root / 'pred', 'semantic', resamples=150, seed=3)
    matrices = np.stack([confusion_matrix(pred, label, 5) for label, pred in pairs])
    draws = np.concatenate(list(resample_counts(6, 150, 3)))
    assert draws.shape == (150, 6) and set(draws.sum(1)) == {6}
    values = [mean_iou((row[:, None, None] * matrices).sum(0)) for row in draws]
    assert result['interval']['mean_iou'] == pytest.approx(np.percentile(values, [2.5, 97.5]).tolist())


def test_a_table_for_people(maps, capsys):
    root, _ = maps
    status, out, _ = run(capsys, root / 'truth', root / 'pred', '--task', 'semantic')
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ['mIoU', *next(line for line in lines if line[:1] == ['mIoU'])[1:]] in lines
    assert lines[0][:2] == ['6', 'images;']
    assert [line[0] for line in lines if line and line[0].isdigit()][1:] == ['0', '1', '2', '3', '4']


def test_classes_are_compared_by_name(tmp_path):
    label = np.array([[0, 0, 1, 2]])
    save(tmp_path / 'truth/a.png', label)
    (tmp_path / 'truth/classes.txt').write_text('sky\nroad\nvoid\n')
    save(tmp_path / 'pred/a_mask.png', [[1, 0, 0, 0]])
    (tmp_path / 'pred/classes.txt').write_text('road\nsky\n')
    result = score(tmp_path / 'truth', tmp_path / 'pred', 'semantic')
    assert result['pixel_accuracy'] == 2 / 3
    assert result['per_class']['road']['iou'] == 0.5
    assert result['interval']['mean_iou'] is None  # of a single image
    colors = [[[9, 9, 9], [9, 9, 9], [0, 255, 0], [1, 1, 1]]]
    save(tmp_path / 'colors/a.png', colors)
    (tmp_path / 'colors/classes.csv').write_text('name,r,g,b\nsky,9,9,9\nroad,0,255,0\nvoid,1,1,1\n')
    assert score(tmp_path / 'colors', tmp_path / 'pred', 'semantic')['pixel_accuracy'] == 2 / 3
    assert score(tmp_path / 'colors', tmp_path / 'truth', 'semantic')['mean_iou'] == 1


def test_predicted_label_maps_with_a_palette_against_class_numbers(tmp_path):
    """Classes that are never predicted are in the table of the predictions, too."""
    from mmssl.data.label_formats import class_palette, save_png, write_class_table

    for name, values in (('a', [[0, 1, 3, 11]]), ('b', [[2, 2, 1, 1]])):
        save(tmp_path / f'truth/{name}.png', values)
    for name, values in (('a', [[0, 1, 1, 0]]), ('b', [[0, 2, 1, 1]])):
        save_png(np.array(values, np.uint8), tmp_path / f'out/masks/{name}.png', class_palette(4))
    write_class_table(['sky', 'road', 'car', 'tree'], tmp_path / 'out')
    result = score(tmp_path / 'truth', tmp_path / 'out', 'semantic', ignore=11)
    assert result['pixel_accuracy'] == 5 / 7
    assert [result['per_class'][name]['iou'] for name in ('sky', 'road', 'car', 'tree')] == [
        1 / 2, 3 / 4, 1 / 2, 0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match='truth/a.png: holds 11, which is no class in the table'):
        score(tmp_path / 'truth', tmp_path / 'out', 'semantic')


def test_masks_of_0_and_255_are_two_classes_unless_255_is_ignored(tmp_path):
    save(tmp_path / 'truth/a.png', [[0, 255, 255, 0]])
    save(tmp_path / 'pred/a.png', [[0, 255, 0, 0]])
    result = score(tmp_path / 'truth', tmp_path / 'pred', 'semantic')
    assert result['pixel_accuracy'] == 0.75 and set(result['per_class']) == {'background', 'foreground'}
    assert 'background and foreground' in result['notes'][0]
    save(tmp_path / 'pred/a.png', [[0, 0, 0, 0]])
    assert score(tmp_path / 'truth', tmp_path / 'pred', 'semantic', ignore=255)['pixel_accuracy'] == 1


def test_names_of_both_sides_may_differ_in_folders_and_endings(tmp_path):
    for index, name in enumerate(('a', 'b')):
        save(tmp_path / f'data/images/{name}.png', np.zeros((1, 4, 3)))
        save(tmp_path / f'data/masks/{name}_mask.png', [[0, 1, 1, index]])
        save(tmp_path / f'out/masks/{name}.png', [[0, 1, 0, 0]])
    result = score(tmp_path / 'data', tmp_path / 'out', 'semantic')
    assert (result['images'], result['pixel_accuracy']) == (2, 5 / 8)
    for side in ('left', 'right'):  # not an image and its label map, although one name ends like that
        save(tmp_path / side / 'a.png', [[0, 1, 1, 1]])
        save(tmp_path / side / 'a_m.png', [[0, 1, 1, 1]])
    assert score(tmp_path / 'left', tmp_path / 'right', 'semantic')['images'] == 2


@pytest.mark.parametrize(
    ('change', 'file', 'reason'),
    [
        (lambda root: (root / 'pred/3.png').unlink(), 'truth/3.png', 'has no partner in'),
        (lambda root: (root / 'truth/2.png').unlink(), 'pred/2.png', 'has no partner in'),
        (lambda root: save(root / 'pred/1.png', np.zeros((5, 7))), 'pred/1.png', 'is 7x5, the truth'),
        (lambda root: save(root / 'pred/1.png', np.full((36, 40), 255)), 'pred/1.png', 'holds 255'),
        (lambda root: save(root / 'pred/1.png', np.full((36, 40), 77)), 'pred/1.png', 'holds 77'),
        (lambda root: save(root / 'truth/1.png', np.full((36, 40), 9)), 'truth/1.png', 'holds 9'),
        (lambda root: (root / 'pred/0.png').write_bytes(b'x'), 'pred/0.png', 'no known image format'),
    ],
)
def test_bad_files_are_named_in_a_line(maps, tmp_path, capsys, change, file, reason):
    for side in ('truth', 'pred'):
        for index, pair in enumerate(maps[1]):
            save(tmp_path / f'{side}/{index}.png', pair[side == 'pred'])
    change(tmp_path)
    arguments = (tmp_path / 'truth', tmp_path / 'pred', '--task', 'semantic', '--num-classes', 5)
    status, out, err = run(capsys, *arguments)
    assert status == 1 and out == ''
    assert f'{tmp_path}/{file}' in err.splitlines()[0] and reason in err.splitlines()[0], err


def jittered(labels: LabelSet, seed=0) -> LabelSet:
    """Predictions: objects moved, some dropped or of another class, with scores of which some are equal."""
    generator = np.random.default_rng(seed)
    images = []
    for image in labels.images:
        objects = []
        for each in image.objects:
            if each.crowd or generator.random() < 0.2:
                continue
            label = int(generator.integers(len(labels.classes))) if generator.random() < 0.1 else each.label
            shift = np.round(generator.normal(0, 4, 4), 2)
            left, top, right, bottom = (np.array(each.box) + shift).round(2).tolist()
            if right > left and bottom > top:
                points = float(np.round(generator.random(), 1))
                objects.append(
                    ObjectLabel(label, (left, top, right, bottom), each.polygons, each.rle, score=points)
                )
        images.append(type(image)(**{**vars(image), 'objects': objects}))
    return LabelSet(**{**vars(labels), 'images': images})


def reference(file, results, iou_type):
    """pycocotools on the files themselves."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def subset(file, folder, count=20):
    """Write the first images of a COCO file."""
    content = json.loads(file.read_text())
    content['images'] = content['images'][:count]
    used = {each['id'] for each in content['images']}
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] in used]
    (folder / 'truth.json').write_text(json.dumps(content))
    return folder / 'truth.json', content


@pytest.fixture(scope='module')
def coco(data_root, tmp_path_factory):
    """A COCO file, its predictions as labels, and as COCO's list of results."""
    root = tmp_path_factory.mktemp('coco')
    (root / 'predicted').mkdir()
    file, content = subset(data_root / 'coco_mini/annotations/instances_val2017.json', root)
    (root / 'images').symlink_to(data_root / 'coco_mini/val2017')
    labels = read_labels(file)
    for image in labels.images:
        image.objects = [ObjectLabel(each.label, each.box) for each in image.objects if not each.crowd]
    predicted = jittered(labels)
    ids = {image['file_name']: image['id'] for image in content['images']}
    categories = {each['name']: each['id'] for each in content['categories']}
    results = []
    for image in predicted.images:
        for each in image.objects:
            left, top, right, bottom = each.box
            result = dict(
                image_id=ids[image.name],
                category_id=categories[predicted.classes[each.label]],
                bbox=[left, top, right - left, bottom - top],
                score=each.score,
            )
            results.append(result)
    (root / 'predicted/results.json').write_text(json.dumps(results))
    return file, predicted, root / 'predicted/results.json'


def test_boxes_equal_pycocotools(coco, tmp_path):
    file, predicted, results = coco
    expected = reference(file, results, 'bbox')
    result = score(file, results, 'detect', resamples=20)
    assert [result[name] for name in ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large')] == (
        expected.stats[:6].tolist()
    )
    assert result['ar_100'] == expected.stats[8]
    precision = expected.eval['precision'][:, :, :, 0, -1]
    for name, of_class in result['per_class'].items():
        values = precision[:, :, predicted.classes.index(name)]
        assert of_class['ap'] == values[values > -1].mean()
    low, high = result['interval']['ap']
    assert low < result['ap'] < high
    write_labels(predicted, tmp_path, 'voc')
    assert score(file, tmp_path, 'detect', resamples=1)['ap'] == result['ap']


def test_precision_and_recall_of_the_boxes_as_they_are(tmp_path):
    """By hand: of a class one box is right, one its double, one nowhere, one on a crowd does not count."""
    image = ImageLabels('a.png', '', 100, 100)
    image.objects = [
        ObjectLabel(0, (0.0, 0.0, 10.0, 10.0)),
        ObjectLabel(0, (50.0, 0.0, 60.0, 10.0)),
        ObjectLabel(0, (0.0, 50.0, 40.0, 90.0), crowd=True),
        ObjectLabel(1, (80.0, 80.0, 90.0, 90.0)),
    ]
    truth = LabelSet('', 'coco', ['a', 'b'], [image])
    boxes = [(0.0, 0.0, 10.0, 9.0), (0.0, 0.0, 9.0, 10.0), (30.0, 30.0, 40.0, 40.0), (5.0, 55.0, 15.0, 65.0)]
    objects = [ObjectLabel(0, box, score=0.9 - 0.1 * index) for index, box in enumerate(boxes)]
    objects.append(ObjectLabel(1, (80.0, 80.0, 90.0, 90.0), score=0.5))
    predicted = ImageLabels('a.png', '', 100, 100, objects)
    write_labels(truth, tmp_path / 'truth', 'coco')
    write_labels(LabelSet('', 'coco', ['a', 'b'], [predicted]), tmp_path / 'out', 'coco')
    result = score(tmp_path / 'truth', tmp_path / 'out', 'detect', resamples=1)
    assert (result['precision'], result['recall']) == (2 / 4, 2 / 3)
    assert (result['per_class']['a']['precision'], result['per_class']['a']['recall']) == (1 / 3, 1 / 2)
    assert (result['per_class']['b']['precision'], result['per_class']['b']['recall']) == (1, 1)


def test_images_are_not_needed_wherever_others_of_the_same_name_lie(coco, tmp_path):
    file, predicted, _ = coco
    for format in ('coco', 'voc', 'labelme', 'cvat', 'label-studio'):
        write_labels(predicted, tmp_path / format, format)
    for folder in ('one', 'two'):
        save(tmp_path / folder / predicted.images[0].name, np.zeros((2, 2)))
    (tmp_path / 'coco/annotations.json').rename(tmp_path / 'found.json')
    expected = score(file, tmp_path / 'found.json', 'detect', resamples=1)['ap']
    for format in ('voc', 'labelme', 'cvat', 'label-studio'):
        assert score(file, tmp_path / format, 'detect', resamples=1)['ap'] == expected


def test_yolo_predictions_of_boxes(coco, tmp_path):
    file, predicted, _ = coco
    write_labels(predicted, tmp_path, 'yolo')
    (tmp_path / f'labels/{predicted.images[0].name[:-4]}.txt').unlink()
    first = type(predicted.images[0])(**{**vars(predicted.images[0]), 'objects': []})
    predicted = LabelSet(**{**vars(predicted), 'images': [first, *predicted.images[1:]]})
    result = score(file, tmp_path, 'detect', resamples=1)
    assert '1 images have no predictions' in ' '.join(result['notes'])
    write_labels(predicted, tmp_path / 'coco', 'coco')
    assert result['ap'] == score(file, tmp_path / 'coco', 'detect', resamples=1)['ap']


def test_masks_equal_pycocotools(data_root, tmp_path):
    (tmp_path / 'truth').mkdir()
    file, content = subset(data_root / 'coco_light/instances_val2017.json', tmp_path / 'truth')
    (tmp_path / 'truth/images').symlink_to(data_root / 'coco_light/images/val2017')
    ids = {image['file_name']: image['id'] for image in content['images']}
    categories = {each['name']: each['id'] for each in content['categories']}
    predicted = jittered(read_labels(file))
    results = [
        dict(
            image_id=next(number for name, number in ids.items() if name.endswith(image.name)),
            category_id=categories[predicted.classes[each.label]],
            segmentation=each.rle,
            score=each.score,
        )
        for image in predicted.images
        for each in image.objects
    ]
    (tmp_path / 'results.json').write_text(json.dumps(results))
    expected = reference(file, tmp_path / 'results.json', 'segm')
    for source in (tmp_path / 'results.json', tmp_path / 'coco'):
        if source.suffix != '.json':
            write_labels(predicted, source, 'coco')
        result = score(file, source, 'instance', resamples=1)
        assert [result[name] for name in ('ap', 'ap50', 'ap75')] == expected.stats[:3].tolist()


def test_resampled_precision_of_all_images_once_is_pycocotools(coco):
    file, _, results = coco
    evaluation = evaluate_coco(json.loads(file.read_text()), json.loads(results.read_text()), 'bbox')
    ones = np.ones((1, len(evaluation.params.imgIds)))
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    for index, matches in enumerate(class_matches(evaluation)):
        values = resampled_precision(matches, ones, evaluation.params.recThrs)[0]
        if np.isnan(values).any():
            assert (precision[:, :, index] == -1).all()
        else:
            np.testing.assert_allclose(values, precision[:, :, index].mean(1), rtol=1e-12)


def test_resampled_precision_of_an_image_twice_is_that_of_two_images(coco):
    """Against pycocotools on a data set in which the image is there twice."""
    file, _, results = coco
    content, detections = json.loads(file.read_text()), json.loads(results.read_text())
    for index, each in enumerate(detections):
        each['score'] += index * 1e-6  # copies share their scores, others do not
    number = content['annotations'][0]['image_id']
    twice = json.loads(json.dumps(content))
    twice['images'].append({**next(each for each in content['images'] if each['id'] == number), 'id': 0})
    copies = [each for each in content['annotations'] if each['image_id'] == number]
    twice['annotations'] += [{**each, 'image_id': 0, 'id': -each['id']} for each in copies]
    more = [{**each, 'image_id': 0} for each in detections if each['image_id'] == number]
    expected = evaluate_coco(twice, [*detections, *more], 'bbox').eval['precision'][:, :, :, 0, -1]
    evaluation = evaluate_coco(content, detections, 'bbox')
    draws = np.ones((1, len(evaluation.params.imgIds)))
    draws[0, evaluation.params.imgIds.index(number)] = 2
    for index, matches in enumerate(class_matches(evaluation)):
        values = resampled_precision(matches, draws, evaluation.params.recThrs)[0]
        if not np.isnan(values).any():
            np.testing.assert_allclose(values, expected[:, :, index].mean(1), rtol=1e-12)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda each: each.update(image_id=5), 'image_id 5 is not in the truth'),
        (lambda each: each.update(category_id=1000), 'category_id 1000 is not in the truth'),
        (lambda each: each.update(bbox=[1, 2]), 'needs four numbers'),
        (lambda each: each.update(bbox=[1, 2, float('nan'), 3]), 'all must be finite numbers'),
        (lambda each: each.update(score=float('nan')), 'has the score nan'),
        (lambda each: each.update(score='high'), 'has the score high'),
    ],
)
def test_results_that_do_not_fit(coco, tmp_path, change, reason):
    file, _, results = coco
    content = json.loads(results.read_text())
    change(content[3])
    (tmp_path / 'results.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        score(file, tmp_path / 'results.json', 'detect', resamples=1)


def test_predictions_for_other_images_or_classes_are_refused(coco, tmp_path):
    file, predicted, _ = coco
    write_labels(LabelSet(**{**vars(predicted), 'images': predicted.images[1:]}), tmp_path / 'a', 'coco')
    with pytest.raises(ValueError, match=f'{predicted.images[0].name} is not in'):
        score(file, tmp_path / 'a', 'detect')
    image = type(predicted.images[0])(**{**vars(predicted.images[0]), 'name': 'other.jpg'})
    write_labels(
        LabelSet(**{**vars(predicted), 'images': [*predicted.images, image]}), tmp_path / 'b', 'coco'
    )
    with pytest.raises(ValueError, match='other.jpg is not in'):
        score(file, tmp_path / 'b', 'detect')
    classes = ['unknown', *predicted.classes[1:]]
    write_labels(LabelSet(**{**vars(predicted), 'classes': classes}), tmp_path / 'c', 'coco')
    with pytest.raises(ValueError, match="predicts the class 'unknown'"):
        score(file, tmp_path / 'c', 'detect')


def test_classes_of_images_equal_scikit_learn(tmp_path, capsys):
    from sklearn import metrics

    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 40)
    preds = np.where(generator.random(40) < 0.3, generator.integers(0, 4, 40), labels)
    names = ['ant', 'bee', 'cat', 'dog']
    for index, label in enumerate(labels):
        save(tmp_path / f'truth/{names[label]}/{index}.png', np.zeros((2, 2)))
    rows = [f'{index}.png,{names[pred]}' for index, pred in enumerate(preds)]
    (tmp_path / 'pred.csv').write_text('\n'.join(['path,label', *rows]))
    status, out, _ = run(capsys, tmp_path / 'truth', tmp_path / 'pred.csv', '--task', 'classify', '--json')
    assert status == 0
    result = json.loads(out)
    assert result['accuracy'] == metrics.accuracy_score(labels, preds)
    assert result['kappa'] == pytest.approx(metrics.cohen_kappa_score(labels, preds), rel=1e-14)
    f1 = metrics.f1_score(labels, preds, average=None)
    assert result['mean_f1'] == pytest.approx(f1.mean(), rel=1e-15)
    recalls = metrics.recall_score(labels, preds, average=None, labels=range(3))
    assert result['mean_accuracy'] == pytest.approx(recalls.mean(), rel=1e-15)
    assert [of_class['images'] for of_class in result['per_class'].values()] == [*np.bincount(labels), 0]
    low, high = result['interval']['accuracy']
    assert 0 < low < result['accuracy'] < high < 1
    (tmp_path / 'pred.csv').write_text('\n'.join(['path,label', *rows[1:]]))
    status, _, err = run(capsys, tmp_path / 'truth', tmp_path / 'pred.csv', '--task', 'classify')
    assert status == 1 and '0.png is not in' in err


def test_a_part_of_the_truth(tmp_path):
    for name in ('train/cat/1', 'train/dog/2', 'val/cat/3', 'val/dog/4'):
        save(tmp_path / f'truth/{name}.png', np.zeros((2, 2)))
    (tmp_path / 'pred.csv').write_text('path,label\n3.png,cat\n4.png,cat\n')
    assert score(tmp_path / 'truth', tmp_path / 'pred.csv', 'classify', split='val')['accuracy'] == 0.5
    with pytest.raises(ValueError, match="has no part 'test'; parts of the layout: train, val"):
        score(tmp_path / 'truth', tmp_path / 'pred.csv', 'classify', split='test')
    with pytest.raises(ValueError, match='name the folder of its label maps'):
        score(tmp_path / 'truth', tmp_path / 'pred.csv', 'semantic', split='val')


def test_wrong_arguments(tmp_path, capsys):
    (tmp_path / 'a').mkdir()
    status, _, err = run(capsys, tmp_path / 'no', tmp_path / 'a', '--task', 'semantic')
    assert status == 1 and f'{tmp_path}/no does not exist' in err
    status, _, err = run(capsys, tmp_path / 'a', tmp_path / 'a', '--task', 'semantic')
    assert status == 1 and 'holds no label map' in err
    status, _, err = run(capsys, tmp_path / 'a', tmp_path / 'a', '--task', 'semantic', '--resamples', 0)
    assert status == 1 and '--resamples 0 must be at least 1' in err
    with pytest.raises(ValueError, match="task 'semantics' does not exist; did you mean 'semantic'"):
        score(tmp_path, tmp_path, 'semantics')
