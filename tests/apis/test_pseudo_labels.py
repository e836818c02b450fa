"""Self-training: predictions become labels, uncertain ones are ignored, validation images stay unseen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from mmssl.apis import finetune
from mmssl.apis.predict_files import save_image_root
from mmssl.data.label_formats import ImageLabels, LabelSet, ObjectLabel, read_labels, write_labels
from mmssl.errors import LabelError, UserError

BACKBONE = 'bccd/rfcn_mobilenetv2_1xb4-600i_bccd-480x360'


def pictures(folder: Path, names) -> list[ImageLabels]:
    images = []
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(path)
        images.append(ImageLabels(name, str(path), 64, 48))
    return images


def tune(task, data, work, pseudo=None, **options):
    options = dict(backbone_config=BACKBONE, dry_run=True, pseudo=pseudo, **options)
    return Config.fromfile(finetune('random', task, data, work, **options).config)


@pytest.fixture
def boxes(tmp_path):
    """Labels of six images, and predictions for four others, with an uncertain box in each."""
    labelled = pictures(tmp_path / 'labelled', [f'{index}.png' for index in range(6)])
    for image in labelled:
        image.objects = [ObjectLabel(0, (1.0, 2.0, 21.0, 32.0)), ObjectLabel(1, (30.0, 2.0, 51.0, 32.0))]
    labels = LabelSet('', 'coco', ['cat', 'dog'], labelled, str(tmp_path / 'labelled'))
    write_labels(labels, tmp_path / 'data', 'coco', 'copy')
    others = pictures(tmp_path / 'new', [f'a/{index}.png' for index in range(4)])
    for image in others:
        image.objects = [
            ObjectLabel(0, (5.0, 5.0, 15.0, 15.0), score=0.9),
            ObjectLabel(1, (20.0, 20.0, 40.0, 40.0), score=0.3, crowd=True),
        ]
    predictions = LabelSet('', 'coco', ['dog', 'cat'], others, str(tmp_path / 'new'))
    write_labels(predictions, tmp_path / 'out', 'coco')
    save_image_root(tmp_path / 'out', str(tmp_path / 'new'))
    return tmp_path, predictions


def test_predicted_boxes_are_added_to_the_training_part(boxes):
    root, _ = boxes
    plain = tune('detect', root / 'data', root / 'plain')
    config = tune('detect', root / 'data', root / 'work', root / 'out/annotations.json')
    before, after = (
        json.loads(Path(each.train_dataloader.dataset.ann_file).read_text()) for each in (plain, config)
    )
    assert len(after['images']) == len(before['images']) + 4
    added = {image['id'] for image in after['images'] if '/new/' in f'/{image["file_name"]}'}
    assert len(added) == 4
    assert [category['name'] for category in after['categories']] == ['cat', 'dog']
    found = [each for each in after['annotations'] if each['image_id'] in added]
    assert [(each['category_id'], each['iscrowd']) for each in found] == [(2, 0), (1, 1)] * 4  # by name
    for image in after['images']:
        assert (Path(config.train_dataloader.dataset.data_prefix.img) / image['file_name']).is_file()
    val = json.loads(Path(config.val_dataloader.dataset.ann_file).read_text())
    assert val['annotations'] == json.loads((root / 'plain/data/val.json').read_text())['annotations']
    for image in val['images']:
        assert (Path(config.val_dataloader.dataset.data_prefix.img) / image['file_name']).is_file()
    assert 'predictions as labels' in (root / 'work/config.py').read_text()


def test_nothing_inside_an_uncertain_box_is_background(boxes):
    from mmdet.registry import TASK_UTILS

    root, _ = boxes
    config = tune('detect', root / 'data', root / 'work', root / 'out')
    for part in (config.model.train_cfg.rpn, config.model.train_cfg.rcnn):
        assigner = TASK_UTILS.build(part.assigner)
        priors = InstanceData(priors=torch.tensor([[5.0, 5, 15, 15], [22, 22, 32, 32], [50, 0, 60, 10]]))
        truth = InstanceData(bboxes=torch.tensor([[5.0, 5, 15, 15]]), labels=torch.tensor([1]))
        ignored = InstanceData(bboxes=torch.tensor([[20.0, 20, 40, 40]]), labels=torch.tensor([0]))
        assert assigner.assign(priors, truth, ignored).gt_inds.tolist() == [1, -1, 0]


def test_images_with_labels_are_left_out_and_mistakes_say_why(boxes):
    root, predictions = boxes
    own = read_labels(root / 'data')
    write_labels(own, root / 'same', 'coco')
    save_image_root(root / 'same', str(root / 'data/images'))
    with pytest.raises(LabelError, match='adds no image: of 6, 6 have labels already'):
        tune('detect', root / 'data', root / 'work', root / 'same')
    predictions.classes[0] = 'cow'
    write_labels(predictions, root / 'cow', 'labelme')
    with pytest.raises(LabelError, match="predicts the class 'cow', which the labels do not have"):
        tune('detect', root / 'data', root / 'work', root / 'cow')
    with pytest.raises(UserError, match='--pseudo adds images to all labelled ones'):
        tune('detect', root / 'data', root / 'work', root / 'out', labels='3')
    with pytest.raises(LabelError, match='outlines'):
        tune('instance', root / 'data', root / 'work', root / 'out')


def test_predicted_label_maps_and_their_ignored_pixels(tmp_path):
    for name in [*(f'{index}.png' for index in range(6)), '../new/0.png']:
        pictures(tmp_path / 'data/images', [name])
    values = np.zeros((48, 64), np.uint8)
    values[10:] = 1
    (tmp_path / 'data/masks').mkdir()
    for index in range(6):
        Image.fromarray(values).save(tmp_path / f'data/masks/{index}.png')
    (tmp_path / 'data/classes.txt').write_text('sky\nroad\n')
    shutil.move(tmp_path / 'data/new', tmp_path / 'new')
    predicted = np.full((48, 64), 255, np.uint8)
    predicted[:, :9] = 1  # sky, in the order of the model
    (tmp_path / 'out/masks').mkdir(parents=True)
    Image.fromarray(predicted).save(tmp_path / 'out/masks/0.png')
    (tmp_path / 'out/classes.txt').write_text('road\nsky\n')
    save_image_root(tmp_path / 'out', str(tmp_path / 'new'))
    tune('semantic', tmp_path / 'data', tmp_path / 'work', tmp_path / 'out')
    written = np.asarray(Image.open(tmp_path / 'work/data/labels/train/pseudo/0.png'))
    assert (written[:, :9] == 0).all() and (written[:, 9:] == 255).all()
    assert (tmp_path / 'work/data/images/train/pseudo/0.jpg').resolve() == tmp_path / 'new/0.png'
    tune('semantic', tmp_path / 'data', tmp_path / 'work')
    assert not (tmp_path / 'work/data/images/train/pseudo').exists()


def test_predicted_classes_of_images(tmp_path):
    names = [f'{label}/{index}.png' for label in ('cat', 'dog') for index in range(5)]
    pictures(tmp_path / 'data', names)
    others = pictures(tmp_path / 'new', ['x.png', 'y.png', 'z.png'])
    others[0].label, others[0].score = 0, 0.99
    others[2].label, others[2].score = 1, 0.8  # y was below the threshold
    write_labels(
        LabelSet('', 'classes', ['dog', 'cat'], others, str(tmp_path / 'new')), tmp_path / 'out', 'cvat'
    )
    save_image_root(tmp_path / 'out', str(tmp_path / 'new'))
    config = tune('classify', tmp_path / 'data', tmp_path / 'work', tmp_path / 'out')
    lines = Path(config.train_dataloader.dataset.ann_file).read_text().splitlines()
    assert [line for line in lines if line.startswith('new/')] == ['new/x.png 1', 'new/z.png 0']
    assert (Path(config.train_dataloader.dataset.data_root) / 'new/x.png').is_file()
