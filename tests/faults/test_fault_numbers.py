"""NaN and infinite numbers, and annotations that would make them, in all four systems."""

import argparse
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

from mmssl.config.load import load_config
from mmssl.engine.launch import prepare
from mmssl.engine.nonfinite import NonFiniteError
from mmssl.engine.runner import build_dataloader, runner_class
from mmssl.engine.sanity import check_labels, heads

# a module of each system's smoke model whose output is spoilt
SYSTEMS = {
    'mae': 'neck.decoder_pred',
    'rfcn': 'rpn_head.rpn_conv',
    'gcn': 'decode_head.gcn.1',
    'sam': 'mask_decoder.transformer',
}


@pytest.fixture(autouse=True)
def no_pretty_printing(forget_runs, monkeypatch):
    """A Runner formats its whole config, which is most of the time of a run of two steps.

    Runs of one second have the same name, by which mmengine would return the scope of the one before.
    """
    monkeypatch.setattr('mmengine.config.Config.pretty_text', 'pass')


@pytest.fixture(scope='module')
def demo(tmp_path_factory, with_demo):
    return with_demo(tmp_path_factory.mktemp('demo')) / 'data/demo'


def settings_of(name, demo, work_dir, monkeypatch, *options):
    """A smoke config as ``mmssl train`` prepares it, without validation."""
    monkeypatch.chdir(demo.parents[1])
    cfg = load_config(
        f'configs/smoke/{name}.py', ['train_dataloader.batch_size=2', 'log_level=ERROR', *options]
    )
    prepare(cfg, argparse.Namespace(data=None, launcher='none', work_dir=str(work_dir), local_rank=0), name)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = cfg.test_cfg = cfg.test_dataloader = (
        cfg.test_evaluator
    ) = None
    return cfg


def runner_of(*arguments):
    """The Runner that ``mmssl train`` makes of it."""
    cfg = settings_of(*arguments)
    return runner_class(cfg).from_cfg(cfg)


def loader_of(name, demo, monkeypatch, *options):
    """Its training data alone."""
    cfg = settings_of(name, demo, 'run', monkeypatch, *options)
    init_default_scope(cfg.default_scope)
    return build_dataloader(cfg.train_dataloader, seed=0)


def first_tensor(output):
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


@pytest.mark.parametrize('system', SYSTEMS)
@pytest.mark.parametrize('way', ['forward', 'backward'])
def test_the_module_that_made_it_is_named_at_its_step(system, way, demo, tmp_path, monkeypatch):
    runner = runner_of(system, demo, tmp_path / 'run', monkeypatch)
    spoilt = runner.model.get_submodule(SYSTEMS[system])
    before = {}

    def spoil(module, inputs, output):
        if runner.iter < 1:
            return None
        before.setdefault('weights', {name: value.clone() for name, value in runner.model.named_parameters()})
        value = first_tensor(output)
        if way == 'forward':
            value.data.mul_(math.nan)
        elif value.requires_grad:
            value.register_hook(lambda gradient: gradient * math.inf)
        return None

    spoilt.register_forward_hook(spoil)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    assert (
        message.startswith('iteration 2: ')
        and '; the batch: ' in message
        and re.search(r'(digit_\d|scene_\d+)', message)
    )
    if way == 'forward':
        assert f'the first output that is not finite is that of {SYSTEMS[system]} (' in message
    else:
        assert f'the gradient is first not finite at the output of {SYSTEMS[system]}' in message
    assert all(torch.equal(value, before['weights'][name]) for name, value in runner.model.named_parameters())


def test_nan_in_an_image_is_not_blamed_on_a_module(demo, tmp_path, monkeypatch):
    runner = runner_of('mae', demo, tmp_path / 'run', monkeypatch)
    host = runner.model.data_preprocessor.forward

    def forward(data, training=False):
        prepared = host(data, training)
        first_tensor(prepared['inputs']).view(-1)[5] = math.nan
        return prepared

    runner.model.data_preprocessor.forward = forward
    with pytest.raises(
        NonFiniteError, match='iteration 1: .*the images hold NaN or infinity when they reach the model'
    ):
        runner.train()


def test_weights_that_a_step_made_infinite_are_named(demo, tmp_path, monkeypatch):
    runner = runner_of(
        'mae',
        demo,
        tmp_path / 'run',
        monkeypatch,
        'optim_wrapper.optimizer.lr=1e39',
        'param_scheduler.warmup=0',
    )
    with pytest.raises(
        NonFiniteError,
        match=r'the weights .* are not finite before the step|first output that is not finite is that of',
    ):
        runner.train()


@pytest.mark.parametrize(
    'system, part', [('gcn', 'decode_head.gcn.1'), ('sam', 'mask_decoder.iou_prediction_head')]
)
def test_a_prediction_that_is_no_number_is_refused(system, part, demo, tmp_path, monkeypatch):
    """R-FCN's: tests/detection/test_rfcn_detector.py."""
    runner = runner_of(system, demo, tmp_path / 'run', monkeypatch)
    model = runner.model.eval()
    batch = next(iter(runner.build_dataloader(runner._train_dataloader)))
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).fill_(math.nan)
        if system == 'gcn':
            with pytest.raises(ValueError, match=r'scene_\d+\.jpg: the scores are NaN or infinite'):
                model.test_step(batch)
        else:
            sam = model.to_sam().eval()
            with pytest.raises(ValueError, match='Segment Anything predicts NaN or infinite masks'):
                sam(
                    [
                        dict(
                            image=torch.zeros(3, 64, 64),
                            original_size=(64, 64),
                            point_coords=torch.ones(1, 1, 2),
                            point_labels=torch.ones(1, 1),
                        )
                    ],
                    True,
                )


@pytest.mark.parametrize('average', [True, False])
def test_nothing_but_ignored_pixels_is_a_loss_of_zero(average, demo, tmp_path, monkeypatch):
    runner = runner_of(
        'gcn', demo, tmp_path / 'run', monkeypatch, f'model.decode_head.loss_decode.avg_non_ignore={average}'
    )
    batch = next(iter(runner.build_dataloader(runner._train_dataloader)))
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data.fill_(255)
    data = runner.model.data_preprocessor(batch, True)
    losses = runner.model.loss(**{'inputs': data['inputs'], 'data_samples': data['data_samples']})
    loss = sum(value for name, value in losses.items() if 'loss' in name)
    assert float(loss.detach()) == 0
    loss.backward()
    gradients = [parameter.grad for parameter in runner.model.parameters() if parameter.grad is not None]
    assert gradients and all(bool((gradient == 0).all()) for gradient in gradients)


def test_a_label_out_of_range_names_its_file_before_the_step(demo, tmp_path, monkeypatch):
    root = tmp_path / 'scenes'
    shutil.copytree(demo / 'scenes', root)
    for path in (root / 'labels/train').glob('*.png'):
        label = np.array(Image.open(path))
        label[:] = 11
        Image.fromarray(label).save(path)
    runner = runner_of(
        'gcn', demo, tmp_path / 'run', monkeypatch, f'train_dataloader.dataset.data_root={root}'
    )
    with pytest.raises(
        ValueError,
        match=r'labels/train/scene_\d+\.png: label 11 is none of the 11 classes of decode_head, 0 to 10, nor '
        'ignore_index=255; check reduce_zero_label',
    ):
        runner.train()


def test_labels_of_every_kind():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    model = torch.nn.ModuleDict({name: torch.nn.Module() for name in ('head', 'decode_head', 'bbox_head')})
    for part in model.values():
        part.num_classes = 4
    model['decode_head'].ignore_index = 255

    def samples(label):
        boxes = DetDataSample(metainfo=dict(img_path='d.jpg'))
        boxes.gt_instances = InstanceData(bboxes=torch.zeros(2, 4), labels=torch.tensor([0, label]))
        mask = SegDataSample(metainfo=dict(seg_map_path='s.png'))
        mask.gt_sem_seg = PixelData(data=torch.tensor([[[0, label, 255]]]))
        return DataSample(metainfo=dict(img_path='c.jpg')).set_gt_label(label), boxes, mask

    for label in (0, 3):
        check_labels(heads(model), dict(data_samples=list(samples(label))))
    for label in (4, -1):
        for sample, name in zip(samples(label), ('c.jpg', 'd.jpg', 's.png'), strict=True):
            with pytest.raises(ValueError, match=rf'{name}: label {label} is none of the 4 classes'):
                check_labels(heads(model), dict(data_samples=[sample]))
    check_labels(heads(model), dict(inputs=None))


def spoil_coco(demo, folder, change):
    root = folder / 'scenes'
    shutil.copytree(demo / 'scenes', root)
    path = root / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return [f'train_dataloader.dataset.data_root={root}']


def same_image(content):
    content['images'][1]['id'] = content['images'][0]['id']


def same_annotation(content):
    content['annotations'][3]['id'] = content['annotations'][0]['id']


def unknown_category(content):
    content['annotations'][0]['category_id'] = 77


def nan_box(content):
    content['annotations'][0]['bbox'][2] = math.nan


def no_annotation(content):
    content['annotations'] = []


@pytest.mark.parametrize(
    'change, message',
    [
        (same_image, 'instances_train.json: several images have the id 1'),
        (same_annotation, 'several annotations have the id 1'),
        (
            unknown_category,
            '1 annotations have a category_id that is not listed: category_id 77 of annotation 1;',
        ),
        (nan_box, r'annotation 1 has the box \[.*nan'),
    ],
)
def test_coco_files_that_would_train_wrongly_in_silence(change, message, demo, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=message):
        loader_of('rfcn', demo, monkeypatch, *spoil_coco(demo, tmp_path, change))


def test_no_objects_at_all(demo, tmp_path, monkeypatch):
    """They are trained on, unless images without objects are filtered and none remains."""
    options = spoil_coco(demo, tmp_path, no_annotation)
    runner = runner_of('rfcn', demo, tmp_path / 'run', monkeypatch, *options, 'train_cfg.max_iters=1')
    runner.train()
    assert runner.iter == 1 and all(bool(torch.isfinite(value).all()) for value in runner.model.parameters())
    with pytest.raises(ValueError, match='the data set .*instances_train.json of .* is empty'):
        loader_of(
            'rfcn', demo, monkeypatch, *options, 'train_dataloader.dataset.filter_cfg.filter_empty_gt=True'
        )


def test_boxes_without_area_change_nothing(demo, tmp_path, monkeypatch):
    def flat(content):
        extra = dict(content['annotations'][0], id=10**6, bbox=[5, 5, 0, 7], area=0)
        content['annotations'].append(extra)
        content['annotations'].append(
            dict(extra, id=10**6 + 1, bbox=[5000, 5000, 9, 9], area=81)
        )  # outside the image

    counts = []
    for options in ([], spoil_coco(demo, tmp_path, flat)):
        dataset = loader_of('rfcn', demo, monkeypatch, *options).dataset
        counts.append([len(dataset.get_data_info(number)['instances']) for number in range(len(dataset))])
    assert counts[0] == counts[1]


def test_fewer_samples_than_a_batch(demo, monkeypatch):
    with pytest.raises(ValueError, match='1 samples of .*imagenet make no batch of 2'):
        loader_of(
            'mae',
            demo,
            monkeypatch,
            'train_dataloader.dataset.indices=1',
            'train_dataloader.drop_last=True',
            'train_dataloader.sampler.type=DefaultSampler',
        )
