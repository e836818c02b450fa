"""Replacements for mmcv's compiled operators: equal to them, one by one and in whole detectors."""

import importlib
import json
import math
import sys

import pytest
import torch

import mmssl.registry  # noqa: F401  installs the import hook
from mmssl.hosts import ops_import

pytest.importorskip('mmcv')

pytestmark = pytest.mark.slow
STAND_IN = ops_import.StandInModule('stand-in')
needs_ops = pytest.mark.skipif(
    not ops_import.has_ops(), reason='mmcv has no compiled operators to compare with'
)


def draw_boxes(count, seed=0, size=100.0, whole=False):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * size
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    scores = torch.rand(count, generator=generator)
    return (boxes.round(), (scores * 10).round() / 10) if whole else (boxes, scores)


@needs_ops
@pytest.mark.parametrize('whole', [False, True], ids=['real', 'ties'])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_keeps_the_same_boxes(swap, offset, whole):
    boxes, scores = draw_boxes(300, whole=whole)
    labels = torch.arange(300) % 3
    for threshold in (0.3, 0.5, 0.7):
        results = []
        for replaced in (False, True):
            module = swap('nms', replaced)
            dets, indices = module.nms(
                boxes, scores, threshold, offset=offset, score_threshold=0.1, max_num=50
            )
            results.append(
                (
                    dets,
                    indices,
                    *module.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=threshold)),
                    *module.batched_nms(
                        boxes, scores, labels, dict(type='soft_nms', iou_threshold=threshold, min_score=0.01)
                    ),
                )
            )
        for compiled, replacement in zip(*results, strict=True):
            assert torch.equal(compiled, replacement)


def test_an_overlap_of_exactly_the_threshold_stays(swap):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 3.0, 1.0]])  # 0.3, which float32 rounds up
    indices = swap('nms').nms(boxes, torch.tensor([0.9, 0.8]), 0.3)[1]
    assert indices.tolist() == [0, 1]
    assert swap('nms').nms(boxes[:0], torch.zeros(0), 0.5)[1].dtype == torch.long


@needs_ops
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('whole', [False, True], ids=['real', 'ties'])
def test_soft_nms_equals_the_compiled_operator(swap, method, whole):
    for count, offset in ((1, 0), (40, 0), (120, 1)):
        boxes, scores = draw_boxes(count, seed=count, size=30.0, whole=whole)
        arguments = dict(iou_threshold=0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
        theirs, their_indices = swap('nms', False).soft_nms(boxes, scores, **arguments)
        mine, indices = swap('nms').soft_nms(boxes, scores, **arguments)
        assert torch.equal(their_indices, indices)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6, equal_nan=True)  # two boxes without area


def test_soft_nms_by_hand(swap):
    """Two boxes with IoU 1/3 and a separate one: the second score is multiplied by exp(-(1/9) / 0.5)."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0], [8.0, 8.0, 9.0, 9.0]])
    dets, indices = swap('nms').soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), sigma=0.5, method='gaussian')
    assert indices.tolist() == [0, 2, 1]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.7, 0.8 * math.exp(-2 / 9)]))
    dets, indices = swap('nms').soft_nms(
        boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.3, method='linear'
    )
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.7, 0.8 * 2 / 3]))
    assert swap('nms').soft_nms(boxes[:0], torch.zeros(0))[1].numel() == 0


def compare(run, tensors, swap, name, tolerance):
    """Outputs and gradients of ``run`` with the compiled operators and with the stand-in."""
    results = []
    for replaced in (False, True):
        module = swap(name, replaced)
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = run(module, *leaves)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), leaves)])
    for compiled, replacement in zip(*results, strict=True):
        torch.testing.assert_close(replacement, compiled, rtol=tolerance, atol=tolerance)


@needs_ops
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_roi_align_equals_the_compiled_operator(swap, dtype):
    torch.manual_seed(0)
    boxes = draw_boxes(12, size=60.0)[0]
    boxes[0] = torch.tensor([50.0, 50.0, 90.0, 90.0])  # half outside
    boxes[1] = torch.tensor([5.0, 5.0, 5.0, 5.0])
    rois = torch.cat([torch.arange(12)[:, None] % 2, boxes], dim=1).to(dtype)
    features = torch.randn(2, 3, 9, 11, dtype=dtype)
    for ratio, aligned in ((0, True), (2, False)):
        compare(
            lambda module, x, ratio=ratio, aligned=aligned: module.roi_align(
                x, rois, (3, 2), 1 / 8, ratio, 'avg', aligned
            ),
            [features],
            swap,
            'roi_align',
            1e-5 if dtype == torch.float32 else 1e-10,
        )


@needs_ops
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_deformable_convolutions_equal_the_compiled_operators(swap, dtype):
    torch.manual_seed(0)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for (groups, deform_groups), stride, dilation in (((1, 1), 1, 1), ((2, 4), (2, 1), (1, 2))):
        size = [
            (6 + 2 * dilated - 2 * dilated - 1) // step + 1
            for step, dilated in zip(
                torch.nn.modules.utils._pair(stride), torch.nn.modules.utils._pair(dilation), strict=True
            )
        ]
        x = torch.randn(2, 8, 6, 6, dtype=dtype)
        offset = 1.5 * torch.randn(2, 18 * deform_groups, *size, dtype=dtype)
        mask = torch.rand(2, 9 * deform_groups, *size, dtype=dtype)
        weight, bias = torch.randn(4, 8 // groups, 3, 3, dtype=dtype) / 8, torch.randn(4, dtype=dtype)
        common = (stride, dilation, dilation, groups, deform_groups)
        compare(
            lambda module, *args, common=common: module.deform_conv2d(*args, *common),
            [x, offset, weight],
            swap,
            'deform_conv',
            tolerance,
        )
        compare(
            lambda module, *args, common=common: module.modulated_deform_conv2d(*args, *common),
            [x, offset, mask, weight, bias],
            swap,
            'modulated_deform_conv',
            tolerance,
        )
        compare(
            lambda module, *args, common=common: module.modulated_deform_conv2d(*args, None, *common),
            [x, offset, mask, weight],
            swap,
            'modulated_deform_conv',
            tolerance,
        )


def test_deformable_convolution_without_offset_is_a_convolution(swap):
    """And its weight can be trained alone, or not at all."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 5, 6), torch.randn(3, 4, 3, 3, requires_grad=True)
    output = swap('deform_conv').deform_conv2d(x, torch.zeros(1, 18, 5, 6), weight, 1, 1)
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(result.square().sum(), weight)[0] for result in (output, expected)),
        rtol=1e-4,
        atol=1e-4,
    )
    x.requires_grad_()
    output = swap('deform_conv').deform_conv2d(x, torch.zeros(1, 18, 5, 6), weight.detach(), 1, 1)
    expected = torch.nn.functional.conv2d(x, weight.detach(), padding=1)
    torch.testing.assert_close(
        *(torch.autograd.grad(result.square().sum(), x)[0] for result in (output, expected)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 2.0, 1.0])])
def test_focal_loss_is_the_formula(swap, weight):
    """FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t); mmcv's own has no kernel for the CPU."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 3, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    p = logits.sigmoid()
    hot = torch.nn.functional.one_hot(target, 3)
    p_t, alpha_t = torch.where(hot == 1, p, 1 - p), torch.where(hot == 1, 0.25, 0.75)
    expected = -alpha_t * (1 - p_t) ** 1.5 * p_t.log()
    if weight is not None:
        expected = expected * weight[target][:, None]
    module = swap('focal_loss')
    weight = None if weight is None else weight.double()
    loss = module.sigmoid_focal_loss(logits, target, 1.5, 0.25, weight, 'none')
    torch.testing.assert_close(loss, expected)
    mean = module.sigmoid_focal_loss(logits, target, 1.5, 0.25, weight, 'mean')
    torch.testing.assert_close(
        torch.autograd.grad(mean, logits)[0], torch.autograd.grad(expected.sum() / 7, logits)[0]
    )
    background = module.sigmoid_focal_loss(logits[:1], torch.tensor([3]), 1.5, 0.25, weight, 'none')
    torch.testing.assert_close(background, -0.75 * p[:1] ** 1.5 * (1 - p[:1]).log())


def test_half_precision_is_computed_in_float32(swap):
    x, rois = torch.randn(1, 2, 6, 6), torch.tensor([[0.0, 0.0, 0.0, 40.0, 40.0]])
    align = swap('roi_align').roi_align
    halves = align(x.bfloat16(), rois.bfloat16(), 2, 1 / 8, 2, 'avg', True)
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(
        halves.float(), align(x.bfloat16().float(), rois, 2, 1 / 8, 2, 'avg', True), rtol=1e-2, atol=1e-2
    )
    leaves = [
        torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
        for shape in ((1, 2, 4, 4), (1, 18, 4, 4), (2, 2, 3, 3))
    ]
    swap('deform_conv').deform_conv2d(*leaves, 1, 1).sum().backward()
    assert all(leaf.grad.dtype == torch.bfloat16 and leaf.grad.isfinite().all() for leaf in leaves)


def test_other_operators_name_the_command():
    for call in (lambda: STAND_IN.box_iou_rotated(1, 2), lambda: STAND_IN.ball_query_forward(a=1)):
        with pytest.raises(
            ImportError,
            match=r'(box_iou_rotated|ball_query_forward) needs the compiled operators.*pip install .*mmcv',
        ):
            call()
    assert STAND_IN.correlation_forward.__name__ == 'correlation_forward' and not hasattr(
        STAND_IN, '__file__'
    )


@pytest.mark.parametrize('how', ['blocked', 'hidden', 'missing'])
def test_the_stand_in_serves_a_missing_extension(how, monkeypatch):
    """Blocked in sys.modules, hidden by the user, or not installed; a real one is left to its finder."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            return None if how == 'missing' else importlib.machinery.ModuleSpec(name, None, origin='real')

    finder = ops_import.StandInFinder()
    monkeypatch.setattr(ops_import, '_FINDER', finder)
    monkeypatch.setattr(sys, 'meta_path', [Finder()])
    monkeypatch.setenv('MMSSL_NO_EXT', '1' if how == 'hidden' else '0')
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    if how == 'blocked':
        ops_import.stand_in_for_ops()
        assert importlib.util.find_spec('mmcv._ext').origin == 'real'
        monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    ops_import.stand_in_for_ops()
    assert sys.meta_path[0] is finder and sys.meta_path.count(finder) == 1
    assert importlib.util.find_spec('mmcv._ext').origin == ops_import.STAND_IN
    assert finder.find_spec('mmcv.ops') is None
    ops_import.has_ops.cache_clear()
    assert not ops_import.has_ops()
    ops_import.has_ops.cache_clear()


RUN = """
import sys
how, work_dir, *configs = sys.argv[1:]

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv._ext':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

assert 'mmcv._ext' not in sys.modules
if how == 'refused':
    sys.meta_path.insert(0, Refuse())

from mmssl.hosts import ops_import
from mmssl.cli import main
for number, config in enumerate(configs):
    run = f'{work_dir}/{number}/'
    assert main(['train', config, '--work-dir', run + 'train']) == 0
    assert main(['test', config, run + 'train/iter_3.pth', '--work-dir', run + 'test']) == 0
assert ops_import.has_ops() == (how == 'compiled')
import mmcv, mmcv.ops, mmcv._ext
from mmcv.utils import ext_loader
assert ext_loader.load_ext('_ext', ['nms', 'carafe_forward']) is mmcv._ext is sys.modules['mmcv._ext']
assert hasattr(mmcv._ext, '__file__') == (how == 'compiled')
"""
FASTER_RCNN = """
default_scope = 'mmdet'
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=10)
val_cfg = test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
rcnn = dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
    sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25, add_gt_as_proposals=True),
    pos_weight=-1,
)
proposals = dict(nms_pre=100, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2])
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        base_channels=8,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        stem_channels=8,
        dcn=dict(type='DCNv2', deform_groups=2),
        stage_with_dcn=(False, False, True),
    ),
    rpn_head=dict(
        type='RPNHead',
        in_channels=128,
        feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[2, 4], ratios=[1.0], strides=[16]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]
        ),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
            out_channels=128,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=128,
            fc_out_channels=32,
            roi_feat_size=3,
            num_classes=10,
            bbox_coder=coder,
            loss_cls=dict(type='CrossEntropyLoss'),
            loss_bbox=dict(type='L1Loss'),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
            sampler=dict(type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False),
            pos_weight=-1,
            allowed_border=-1,
        ),
        rpn_proposal=proposals,
        rcnn=rcnn,
    ),
    test_cfg=dict(
        rpn=proposals, rcnn=dict(score_thr=0.01, nms=dict(type='soft_nms', iou_threshold=0.5), max_per_img=5)
    ),
)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96)),
]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))


def loader(split, pipeline, train):
    return dict(
        batch_size=2,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='InfiniteSampler' if train else 'DefaultSampler', shuffle=train),
        dataset=dict(
            type='CocoDataset',
            data_root='{data}',
            ann_file='annotations/instances_' + split + '.json',
            pipeline=pipeline,
            data_prefix=dict(img='images/' + split),
            metainfo=dict(classes=({classes})),
            test_mode=not train,
            indices=None if train else 5,
        ),
    )


train_dataloader = loader('train', load + [pack], True)
val_dataloader = test_dataloader = loader('val', [load[0], load[2], load[1], pack], False)
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file='{data}/annotations/instances_val.json', metric='bbox'
)
del loader, rcnn, proposals, coder
"""


RFCN = """
_base_ = 'mmssl::smoke/rfcn.py'
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{data}'))
val_dataloader = test_dataloader = dict(dataset=dict(data_root='{data}', indices=5))
val_evaluator = test_evaluator = dict(ann_file='{data}/annotations/instances_val.json')
randomness = dict(seed=0)
train_cfg = dict(max_iters=3, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=3))
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory, demo_data):
    """Two detectors on the demo scenes: mmdet's Faster R-CNN with a deformable stage, and R-FCN."""
    from mmssl.data.demo_parts import CLASSES

    folder = tmp_path_factory.mktemp('detectors')
    for name, text in (
        ('faster_rcnn', FASTER_RCNN.replace('{classes}', ', '.join(map(repr, CLASSES)))),
        ('rfcn', RFCN),
    ):
        (folder / f'{name}.py').write_text(text.replace('{data}', str(demo_data / 'scenes')))
    return [folder / 'faster_rcnn.py', folder / 'rfcn.py']


def train_and_test(warm_cli, how, configs, folder):
    """Train each config for three iterations and test it, with mmcv._ext compiled, hidden or refused.

    Returns (losses, report of the test) of each.
    """
    (folder / 'run.py').write_text(RUN)
    env = {'MMSSL_NO_EXT': '1' if how == 'hidden' else ''}
    done = warm_cli(how, folder / how, *configs, program=folder / 'run.py', cwd=folder, env=env)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    runs = []
    for number in range(len(configs)):
        (log,) = (folder / how / str(number)).glob('train/*/vis_data/scalars.json')
        (report,) = (folder / how / str(number)).glob('test/*/*.json')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [
            {key: value for key, value in line.items() if 'loss' in key} for line in lines if 'loss' in line
        ]
        runs.append((losses, json.loads(report.read_text())))
    return runs


def test_detectors_train_and_test_without_the_extension(warm_cli, configs, tmp_path):
    pytest.importorskip('mmdet')
    without = train_and_test(warm_cli, 'refused', configs, tmp_path)
    for losses, report in without:
        assert len(losses) == 3 and all(math.isfinite(value) for line in losses for value in line.values())
        assert 'coco/bbox_mAP' in report
    if not ops_import.has_ops():
        pytest.skip('trained and tested; mmcv has no compiled operators to compare with')
    for (losses, report), (expected, expected_report) in zip(
        without, train_and_test(warm_cli, 'compiled', configs, tmp_path), strict=True
    ):
        assert len(expected) == 3
        for line, expected_line in zip(losses, expected, strict=True):
            assert line == pytest.approx(expected_line, abs=1e-4)
        assert report['coco/bbox_mAP'] == pytest.approx(expected_report['coco/bbox_mAP'], abs=2e-3)
