"""Classes by name, accuracies over more classes than there are, and a last batch of one image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmpretrain.evaluation import Accuracy
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from mmssl.data.folder import ImageFolder
from mmssl.engine.run_checks import (
    check_label_maps,
    check_last_batch,
    limit_topk,
    number_folders_by_name,
)
from mmssl.engine.sanity import SanityHook, check_same_classes
from mmssl.engine.seeding import SeededDataset


def folder(root, names, **settings):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name / f'{name}.png')
    return ImageFolder(str(root), **settings)


def labels(dataset):
    return {
        info['img_path'][-5]: info['gt_label']
        for info in (dataset.get_data_info(index) for index in range(len(dataset)))
    }


@pytest.mark.parametrize('wrapped', [False, True])
def test_folders_that_lack_classes_are_numbered_by_name(tmp_path, wrapped):
    val = folder(tmp_path, 'bdf')
    if wrapped:
        val = SeededDataset(ConcatDataset([val]))
    assert labels(val) == dict(b=0, d=1, f=2)
    number_folders_by_name(val, 'abcdef', 'the validation data')
    assert labels(val) == dict(b=1, d=3, f=5)
    assert val.metainfo['classes'] == tuple('abcdef')


@pytest.mark.parametrize('found', ['bcdefz', 'uvwxyz'])
def test_folders_of_other_names_are_refused(tmp_path, found):
    val = folder(tmp_path, found)
    number_folders_by_name(val, 'abcdef', 'the validation data')
    assert val.metainfo['classes'] == tuple(found)
    with pytest.raises(ValueError, match='the validation data has other classes than training: label 0 is'):
        check_same_classes(val.metainfo['classes'], 'abcdef', 'the validation data', same_run=True)


def test_classes_that_are_given_stay(tmp_path):
    val = folder(tmp_path, 'bd', classes=('d', 'b'))
    number_folders_by_name(val, 'abcd', 'the validation data')
    assert labels(val) == dict(d=0, b=1)


def runner_of(train, val, model, topk=(1, 5), save_best=None):
    loader = DataLoader(train, 2, sampler=DefaultSampler(train, shuffle=False), drop_last=True)
    evaluator = SimpleNamespace(metrics=[Accuracy(topk=topk)], dataset_meta=val.metainfo)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_loop=SimpleNamespace(dataloader=DataLoader(val, 2), evaluator=evaluator),
        hooks=[SimpleNamespace(save_best=save_best)],
    )


def classifier(num_classes):
    model = nn.Module()
    model.head = nn.Linear(2, num_classes)
    model.head.num_classes = num_classes
    return model


def test_the_hook_checks_validation_before_the_first_step(tmp_path):
    train, val = folder(tmp_path / 'train', 'abc'), folder(tmp_path / 'val', 'bc')
    runner = runner_of(train, val, classifier(3))
    SanityHook().before_train(runner)
    assert labels(val) == dict(b=1, c=2)
    assert runner.val_loop.evaluator.dataset_meta['classes'] == ('a', 'b', 'c')
    assert runner.val_loop.evaluator.metrics[0].topk == (1,)
    with pytest.raises(ValueError, match=r"label 2 is 'z' and 'c'"):
        SanityHook().before_train(runner_of(train, folder(tmp_path / 'other', 'abz'), classifier(3)))


def test_accuracies_that_remain():
    metric = Accuracy(topk=(1, 5))
    limit_topk([metric], 5)
    assert metric.topk == (1, 5)
    limit_topk([metric, object()], 4)
    assert metric.topk == (1,)
    with pytest.raises(ValueError, match='top5 of Accuracy needs more than the 3 classes; set topk'):
        limit_topk([Accuracy(topk=5)], 3)
    with pytest.raises(ValueError, match='top5'):
        limit_topk([Accuracy(topk=(1, 5))], 3, 'accuracy/top5')


@pytest.mark.parametrize(
    'images, drop_last, refused', [(17, False, True), (17, True, False), (18, False, False)]
)
def test_a_last_batch_of_one(images, drop_last, refused):
    images = list(range(images))
    loader = DataLoader(images, 16, sampler=DefaultSampler(images), drop_last=drop_last)
    check_last_batch(nn.Sequential(nn.Linear(2, 2)), loader)
    if not refused:
        check_last_batch(nn.Sequential(nn.BatchNorm1d(2)), loader)
        return
    with pytest.raises(ValueError, match=r'batches of 16 .* single one of the 17 images.*drop_last=True'):
        check_last_batch(nn.Sequential(nn.BatchNorm1d(2)), loader)


def test_a_last_batch_of_one_before_maps_of_a_pixel():
    from mmengine.model import revert_sync_batchnorm

    images = list(range(5))
    loader = DataLoader(images, 2, sampler=DefaultSampler(images))
    for norm in (nn.BatchNorm2d(3), revert_sync_batchnorm(nn.SyncBatchNorm(3))):
        pooled, whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), norm), nn.Sequential(norm)
        check_last_batch(pooled, loader)
        pooled.eval()(torch.rand(1, 3, 4, 4))
        with pytest.raises(ValueError, match=r'single one of the 5 images.*batch norm 1 cannot.*drop_last'):
            pooled.train()(torch.rand(2, 3, 4, 4))
        check_last_batch(whole, loader)
        whole.train()(torch.rand(2, 3, 4, 4))
        assert not norm._forward_pre_hooks
    with pytest.raises(ValueError, match=r'1, 3, 1, 1.*: a batch norm cannot.*train_dataloader.batch_size'):
        nn.BatchNorm2d(3)(torch.rand(1, 3, 1, 1))


def masks(tmp_path, value, classes=('background', 'crack'), **settings):
    """A data set of masks of 0 and another value."""
    from mmengine.registry import init_default_scope

    from mmssl.registry import DATASETS

    init_default_scope('mmseg')
    mask = np.zeros((8, 8), np.uint8)
    mask[:2] = value
    for name, pixels in (('images/a.jpg', np.zeros((8, 8, 3), np.uint8)), ('labels/a.png', mask)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    return DATASETS.build(
        dict(
            type='mmssl.SegmentationFolder',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='mmssl.LoadLabelMap')],
            classes=classes,
            **settings,
        )
    )


@pytest.mark.parametrize('classes', [('background', 'crack'), ('crack',)])
def test_masks_of_0_and_255_are_refused(tmp_path, classes):
    data = masks(tmp_path, 255, classes)
    with pytest.raises(
        ValueError, match=r'no pixel of 1 classes \(crack\), but 25 % .* ignored.*binary=True'
    ):
        check_label_maps(SeededDataset(data), 255)
    check_label_maps(SeededDataset(data), 254)


def test_masks_that_are_mapped_and_ignored_pixels_beside_all_classes(tmp_path):
    check_label_maps(masks(tmp_path, 255, binary=True), 255)
    check_label_maps(masks(tmp_path, 1), 255)


def test_one_of_several_classes_beside_ignored_pixels_is_logged(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmssl.engine.run_checks.print_log', lambda text, **options: lines.append(text))
    data = masks(tmp_path, 255, ('background', 'crack', 'stain'))
    label = np.zeros((8, 8), np.uint8)
    label[:2], label[4:] = 255, 1
    Image.fromarray(label).save(tmp_path / 'labels/a.png')
    check_label_maps(data, 255)
    (line,) = lines
    assert 'no pixel of 1 classes (stain), but 25 % of the pixels are ignored' in line


def test_the_hook_reads_label_maps_before_the_first_step(tmp_path):
    model = nn.Module()
    model.decode_head = nn.Conv2d(1, 1, 1)
    model.decode_head.num_classes = 2
    data = masks(tmp_path, 255)
    runner = runner_of(data, data, model)
    with pytest.raises(ValueError, match='binary=True'):
        SanityHook().before_train(runner)


def test_the_hook_reads_label_maps_of_the_validation_too(tmp_path):
    model = nn.Module()
    model.decode_head = nn.Conv2d(1, 1, 1)
    model.decode_head.num_classes = 2
    (tmp_path / 'train').mkdir()
    runner = runner_of(masks(tmp_path / 'train', 1), masks(tmp_path, 255), model)
    with pytest.raises(ValueError, match=r'the validation data \(.*\): no pixel of 1 classes'):
        SanityHook().before_train(runner)


def test_labels_of_validation_are_checked_too():
    from mmpretrain.structures import DataSample

    hook, train = SanityHook(), SimpleNamespace(metainfo={'classes': ('a', 'b', 'c')})
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=train), evaluator=SimpleNamespace(metrics=[], dataset_meta=None)
    )
    runner = SimpleNamespace(model=classifier(3), val_loop=loop, test_loop=loop, hooks=[])
    for before, check in ((hook.before_val, hook.before_val_iter), (hook.before_test, hook.before_test_iter)):
        before(runner)
        for label in (2, [0, 2]):
            check(runner, 0, dict(data_samples=[DataSample().set_gt_label(label)]))
        check(runner, 0, dict(data_samples=[DataSample()]))
        with pytest.raises(ValueError, match=r'x\.jpg: label 3 is none of the 3 classes of head, 0 to 2'):
            sample = DataSample(metainfo=dict(img_path='x.jpg')).set_gt_label(3)
            check(runner, 0, dict(data_samples=[sample]))
