"""Classes of masks against loops, NumPy and scikit-learn; prompts and confidence in whole commands."""

import json

import numpy as np
import pytest
import torch
from sam_case import GENERATOR, of_images, write_model, write_photographs

from mmssl.apis.mask_classes import MaskClasses
from mmssl.cli import main
from mmssl.promptable.mask_features import mask_features


def test_features_are_means_weighted_by_the_covered_part_of_each_cell():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 3, 4, 4, generator=generator)
    # an image of 48x64 is resized to 24x32 in a square of 32, with cells of 8
    masks = torch.rand(20, 48, 64, generator=generator) > 0.7
    masks[1] = False
    masks[1, 47, 63] = True
    features = mask_features(embedding, masks, (24, 32), 32)
    for mask, feature in zip(masks.double().numpy(), features, strict=True):
        weights = np.zeros((4, 4))
        for row in range(3):
            for column in range(4):
                weights[row, column] = mask[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].mean()
        expected = (embedding[0].double().numpy() * weights).sum((1, 2)) / weights.sum()
        np.testing.assert_allclose(feature, expected, atol=1e-5)
    with pytest.raises(ValueError, match='without a pixel'):
        mask_features(embedding, torch.zeros(1, 48, 64, dtype=torch.bool), (24, 32), 32)


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(4)
    centers = torch.randn(3, 8, generator=generator)
    return centers, centers[labels] + 0.8 * torch.randn(12, 8, generator=generator) + 5, labels


def test_the_nearest_examples_vote(examples):
    centers, features, labels = examples
    queries = centers.repeat_interleave(5, 0) + torch.randn(15, 8) + 5
    probabilities = MaskClasses(['a', 'b', 'c'], features, labels).probabilities(queries)
    mean = features.double().numpy().mean(0)
    bank, rows = features.double().numpy() - mean, queries.double().numpy() - mean
    for row, probability in zip(rows, probabilities, strict=True):
        cosines = [float(row @ each / np.linalg.norm(row) / np.linalg.norm(each)) for each in bank]
        votes = np.zeros(3)
        for index in np.argsort(cosines)[-5:]:
            votes[labels[index]] += np.exp(cosines[index] / 0.07)
        np.testing.assert_allclose(probability, votes / votes.sum(), atol=1e-4)


def test_the_linear_head_is_that_of_scikit_learn(examples):
    linear = pytest.importorskip('sklearn.linear_model')
    centers, features, labels = examples
    queries = centers + 5
    probabilities = MaskClasses(['a', 'b', 'c'], features, labels, 'linear').probabilities(queries)

    def normalized(values):
        values = values.double().numpy() - features.double().numpy().mean(0)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    reference = linear.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    reference.fit(normalized(features), labels)
    np.testing.assert_allclose(probabilities, reference.predict_proba(normalized(queries)), atol=1e-3)


@pytest.fixture(scope='module')
def case(tmp_path_factory, data_root):
    """A model, four photographs, and files of their masks, boxes and points."""
    folder = tmp_path_factory.mktemp('stages')
    write_model(folder)
    truth = write_photographs(data_root, folder / 'images', 4)
    (folder / 'masks.json').write_text(json.dumps(truth))
    boxes = [{**each, 'segmentation': []} for each in truth['annotations']]
    (folder / 'boxes.json').write_text(json.dumps({**truth, 'annotations': boxes}))
    return folder, truth


def annotate(folder, out, *arguments):
    sides = [f'--{name.replace("_", "-")}={value}' for name, value in GENERATOR.items()]
    model = ['--model', folder / 'sam.py', '--checkpoint', folder / 'sam.pth', '--device', 'cpu', *sides]
    return main(['annotate', *map(str, [folder / 'images', '--out', out, *model, *arguments])])


def test_automatic_masks_get_the_classes_of_their_examples(case, tmp_path):
    folder, truth = case
    coco = tmp_path / 'out.json'
    assert annotate(folder, tmp_path / 'out', '--classes', folder / 'masks.json', '--coco', coco) == 0
    content = json.loads(coco.read_text())
    used = {each['name'] for each in truth['categories']}
    names = {each['id']: each['name'] for each in content['categories']}
    assert set(names.values()) <= used and len(content['images']) == 4 and len(content['annotations']) > 8
    for image in content['images']:
        file = tmp_path / 'out' / image['file_name'].replace('.jpg', '.json')
        records = json.loads(file.read_text())['annotations']
        written = [each for each in content['annotations'] if each['image_id'] == image['id']]
        assert [names[each['category_id']] for each in written] == [each['category'] for each in records]
        for each, record in zip(written, records, strict=True):
            confidence = min(max(record['predicted_iou'], 0), 1) * record['category_score']
            assert each['score'] == pytest.approx(confidence) and each['area'] == record['area'] > 0


def test_boxes_and_points_become_masks_and_masks_stay(case, tmp_path):
    from mmssl.apis import PromptInferencer

    folder, truth = case
    names = {each['id']: each['name'] for each in truth['categories']}
    contents = {}
    for kind in ('boxes', 'masks'):
        coco = tmp_path / f'{kind}.json'
        assert annotate(folder, tmp_path / kind, '--prompts', folder / f'{kind}.json', '--coco', coco) == 0
        contents[kind] = json.loads(coco.read_text())
    categories = {each['id']: each['name'] for each in contents['masks']['categories']}
    kept = contents['masks']['annotations']
    assert len(kept) == len(truth['annotations'])
    assert sorted(categories[each['category_id']] for each in kept) == sorted(
        names[each['category_id']] for each in truth['annotations']
    )
    assert {each['area'] for each in kept} != {each['area'] for each in contents['boxes']['annotations']}
    # the masks of boxes are those of the predictor
    image = truth['images'][0]
    own = of_images(truth, [image['file_name']])['annotations']
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (each['bbox'] for each in own)]
    infer = PromptInferencer(folder / 'sam.py', folder / 'sam.pth', device='cpu')
    (result,) = infer(folder / 'images' / image['file_name'], prompts=dict(boxes=boxes))
    records = json.loads((tmp_path / 'boxes' / f'{image["file_name"][:-4]}.json').read_text())['annotations']
    expected = [each['segmentation'] for each in result['annotations'] if each['area']]
    assert [each['segmentation'] for each in records] == expected

    point = dict(id=1, image_id=image['id'], category_id=own[0]['category_id'], point_coords=[[30, 40]],
                 point_labels=[1])  # fmt: skip
    (tmp_path / 'points.json').write_text(json.dumps({**truth, 'annotations': [point]}))
    assert annotate(folder, tmp_path / 'points', '--prompts', tmp_path / 'points.json') == 0
    (record,) = json.loads((tmp_path / 'points' / f'{image["file_name"][:-4]}.json').read_text())[
        'annotations'
    ]
    (result,) = infer(folder / 'images' / image['file_name'], prompts=dict(points=[(30, 40)]))
    assert record['segmentation'] == result['annotations'][0]['segmentation']
    assert record['category'] == names[own[0]['category_id']]


def test_confident_masks_are_separated_from_the_others(case, tmp_path, capsys):
    folder, _ = case
    coco = tmp_path / 'out.json'
    options = ['--coco', coco, '--calibrate', folder / 'masks.json', '--precision', 0.05, '--min-iou', 0.1]
    assert annotate(folder, tmp_path / 'out', *options) == 0
    said = capsys.readouterr().out
    threshold = float(said.split('confidence of at least ')[1].split(',')[0])
    certain, uncertain = (json.loads(path.read_text()) for path in (coco, tmp_path / 'out-uncertain.json'))
    records = [
        each
        for file in (tmp_path / 'out').glob('*.json')
        for each in json.loads(file.read_text())['annotations']
    ]
    scores = sorted(min(max(each['predicted_iou'], 0), 1) for each in records)
    assert sorted(each['score'] for each in certain['annotations']) == pytest.approx(
        [score for score in scores if score >= threshold - 5e-4]
    )
    assert len(certain['annotations']) + len(uncertain['annotations']) == len(records)
    assert len(certain['images']) == len(uncertain['images']) == 4
    assert annotate(folder, tmp_path / 'out', '--calibrate', folder / 'masks.json') == 1
    assert '--coco FILE.json' in capsys.readouterr().err
