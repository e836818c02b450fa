"""The R-FCN detector: what each stage sees, odd input, backbones and checkpoints, two processes."""

import copy
import math
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import mmssl.registry  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


def build(**changes):
    """The detector of the smoke config, with the same weights every time."""
    cfg = Config.fromfile(ROOT / 'configs/smoke/rfcn.py')
    cfg.merge_from_dict(dict(model=changes))
    cfg = cfg.model
    cfg.pop('data_preprocessor')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    for part in (model.rpn_head, model.roi_head):  # the first weights find nothing
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def images(count=2):
    return torch.randn(count, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def sample(boxes, labels, proposals=None, path='a.jpg'):
    made = DetDataSample(
        metainfo=dict(
            img_shape=(96, 128),
            ori_shape=(96, 128),
            pad_shape=(96, 128),
            scale_factor=(1.0, 1.0),
            img_path=path,
        )
    )
    made.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels, dtype=torch.long)
    )
    made.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    if proposals is not None:
        made.proposals = InstanceData(
            bboxes=torch.tensor(proposals).view(-1, 4), scores=torch.ones(len(proposals))
        )
    return made


def full(path='a.jpg'):
    return sample([[10.0, 10.0, 50.0, 60.0], [70.0, 20.0, 110.0, 90.0]], [3, 9], path=path)


NOTHING = []
KEYS = {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'acc', 'num_pos'}


def total(losses):
    values = [
        value if torch.is_tensor(value) else sum(value) for name, value in losses.items() if 'loss' in name
    ]
    return sum(value.sum() for value in values)


def test_each_stage_sees_its_own_level():
    model = build()
    captured = {}
    model.rpn_head.register_forward_pre_hook(lambda module, args: captured.update(rpn=args[0]))
    model.roi_head.bbox_head.register_forward_pre_hook(lambda module, args: captured.update(roi=args))
    losses = model.loss(images(), [full(), full()])
    assert losses.keys() == KEYS
    assert [tuple(level.shape) for level in captured['rpn']] == [(2, 32, 6, 8)]
    assert tuple(captured['roi'][0].shape) == (2, 64, 6, 8)
    assert len(captured['roi'][1]) <= 2 * (50 + 2) and (captured['roi'][1][:, 0] == 1).any()


EMPTY = sample(NOTHING, [])


@pytest.mark.parametrize(
    'batch',
    [[full(), EMPTY], [EMPTY, EMPTY], [full()], [EMPTY]],
    ids=['one of two empty', 'both empty', 'batch of one', 'batch of one, empty'],
)
def test_images_without_objects_are_trained_through(batch):
    model = build()
    losses = model.loss(images(len(batch)), batch)
    assert losses.keys() == KEYS and math.isfinite(float(total(losses).detach()))
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
    model.eval()
    with torch.no_grad():
        results = model.predict(images(len(batch)), batch)
    assert len(results) == len(batch) and all(len(result.pred_instances.bboxes) <= 50 for result in results)


@pytest.mark.parametrize('objects', [full(), sample(NOTHING, [])], ids=['objects', 'nothing at all'])
def test_no_proposals(objects):
    model = build()
    nothing = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    host = model.rpn_head.loss_and_predict
    model.rpn_head.loss_and_predict = lambda *args, **kwargs: (host(*args, **kwargs)[0], [nothing])
    losses = model.loss(images(1), [objects])
    assert losses.keys() == KEYS and math.isfinite(float(total(losses).detach()))
    total(losses).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        (result,) = model.predict(images(1), [sample(NOTHING, [], proposals=NOTHING)])
    assert len(result.pred_instances.bboxes) == 0


def test_rois_outside_the_image_and_without_area():
    model = build()
    odd = [
        [500.0, 500.0, 600.0, 600.0],
        [-90.0, -90.0, -20.0, -20.0],
        [30.0, 30.0, 30.0, 30.0],
        [60.0, 60.0, 20.0, 20.0],
        [0.0, 0.0, 127.0, 95.0],
    ]
    model.eval()
    with torch.no_grad():
        (result,) = model.predict(images(1), [sample(NOTHING, [], proposals=odd)])
    assert bool(torch.isfinite(result.pred_instances.bboxes).all()) and bool(
        torch.isfinite(result.pred_instances.scores).all()
    )
    model.train()
    model.rpn_head = None
    losses = model.loss(images(1), [sample([[10.0, 10.0, 50.0, 60.0]], [3], proposals=odd)])
    total(losses).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.roi_head.parameters())
    with pytest.raises(ValueError, match='no proposals for b.jpg'):
        model.loss(images(1), [full('b.jpg')])


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_proposals_of_some_images_only_are_refused(order):
    model = build().eval()
    samples = [sample(NOTHING, [], proposals=[[0.0, 0.0, 50.0, 50.0]]), sample(NOTHING, [], path='b.jpg')]
    with torch.no_grad(), pytest.raises(ValueError, match='no proposals for b.jpg'):
        model.predict(images(2), [samples[index] for index in order])


def test_what_is_wrong_with_the_annotations_is_said():
    model = build()
    with pytest.raises(ValueError, match=r'b\.jpg: object 1 has the box \[nan, 10'):
        model.loss(
            images(),
            [full(), sample([[1.0, 1.0, 9.0, 9.0], [math.nan, 10.0, 50.0, 60.0]], [0, 1], path='b.jpg')],
        )
    with pytest.raises(
        ValueError, match=r'b\.jpg: label 10, but roi_head.bbox_head predicts 10 classes, 0 to 9'
    ):
        model.loss(images(1), [sample([[1.0, 1.0, 9.0, 9.0]], [10], path='b.jpg')])
    flat = sample([[10.0, 10.0, 50.0, 60.0], [20.0, 20.0, 20.0, 50.0], [70.0, 20.0, 110.0, 90.0]], [3, 1, 9])
    assert model.check_objects(flat).gt_instances.labels.tolist() == [3, 9]
    assert flat.gt_instances.labels.tolist() == [3, 1, 9]
    for seed_of, batch in (('flat', flat), ('full', full())):
        torch.manual_seed(5)
        losses = model.loss(images(1), [batch])
        first = losses if seed_of == 'flat' else first  # noqa: F821
    assert all(
        torch.equal(total({name: first[name]}), total({name: losses[name]}))
        for name in KEYS
        if 'loss' in name
    )


def test_weights_and_proposals_that_are_not_numbers_are_refused():
    model = build()
    for part in ('roi_head.bbox_head.rfcn_cls', 'rpn_head.rpn_cls'):
        broken = copy.deepcopy(model)
        torch.nn.init.constant_(broken.get_submodule(part).bias, math.nan)
        assert not math.isfinite(
            float(total(broken.loss(images(1), [full()])).detach())
        )  # a hook decides what happens then
        with pytest.raises(ValueError, match='NaN or infinite scores'), torch.no_grad():
            broken.eval().predict(images(1), [full()])
    with pytest.raises(ValueError, match='proposals of a.jpg are NaN'), torch.no_grad():
        model.eval().predict(images(1), [sample(NOTHING, [], proposals=[[math.nan, 0.0, 5.0, 5.0]])])


def test_settings_that_do_not_fit_are_refused():
    model = build(backbone=dict(out_indices=(3,)))
    with pytest.raises(ValueError, match=r'needs two levels.*ResNet gives 1'):
        model.loss(images(1), [full()])
    model = build(backbone=dict(strides=(1, 2, 2, 2)))
    with pytest.raises(ValueError, match=r'last map is \(3, 4\) for images of \(96, 128\), but stride=16'):
        model.loss(images(1), [full()])
    with pytest.raises(ValueError, match='RFCNRoIHead has no place for bbox_roi_extractor'):
        build(roi_head=dict(bbox_roi_extractor=dict(type='SingleRoIExtractor')))


def test_classes_that_do_not_fit_the_head():
    from mmssl.engine.sanity import check_class_count

    class Three:
        metainfo = {'classes': ('a', 'b', 'c')}  # noqa: RUF012

    with pytest.raises(ValueError, match='roi_head.bbox_head predicts 10 classes, but the data has 3'):
        check_class_count(build(), Three())


def test_a_step_changes_only_what_is_trained():
    model = build(backbone=dict(frozen_stages=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
    )
    total(model.loss(images(), [full(), full()])).backward()
    optimizer.step()
    frozen = ('backbone.conv1', 'backbone.bn1', 'backbone.layer1')
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(frozen), name
    for name in ('backbone.bn1.running_mean', 'backbone.layer1.0.bn1.running_var'):
        assert torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize('objects', ['two', 'none'])
def test_bfloat16_trains_and_predicts(objects):
    """mmcv's NMS takes boxes and scores of one type; autocast gives scores of another."""
    torch.manual_seed(0)
    model = build()
    batch = [full('a.jpg'), full('b.jpg') if objects == 'two' else copy.deepcopy(EMPTY)]
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        low = model.loss(images(), copy.deepcopy(batch))
    plain = model.loss(images(), copy.deepcopy(batch))
    assert total(low).dtype == torch.float32
    assert total(low).item() == pytest.approx(total(plain).item(), rel=0.1)
    total(low).backward()
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None
    )
    model.eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        detections = model.predict(images(), copy.deepcopy(batch))
    assert len(detections) == 2 and detections[0].pred_instances.scores.dtype == torch.float32


def test_random_sampling_without_ohem():
    model = build()
    from mmdet.models.task_modules.samplers import RandomSampler

    model.roi_head.train_cfg.pop('ohem')
    model.roi_head.train_cfg.sampler = dict(
        type='RandomSampler', num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
    )
    model.roi_head.init_assigner_sampler()
    assert isinstance(model.roi_head.bbox_sampler, RandomSampler)
    rois = []
    model.roi_head.bbox_head.register_forward_pre_hook(lambda module, args: rois.append(args[1]))
    losses = model.loss(images(), [full(), full()])
    assert len(rois[0]) == 32 and losses.keys() == KEYS - {'num_pos'}


def moco_weights(tmp_path, through):
    """What pre-training of a small MoCo leaves, or the official names of the same weights converted."""
    import mmssl.convert

    cfg = dict(
        type='mmssl.MoCo',
        backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
        queue_len=16,
        temperature=0.2,
        neck=dict(type='mmssl.MoCoV2Neck', in_channels=64, hid_channels=32, out_channels=8),
    )
    torch.manual_seed(4)
    model = MODELS.build(cfg)
    weights = model.state_dict()
    if through == 'convert':
        official = mmssl.convert.to_official('moco', weights)
        weights = mmssl.convert.from_official('moco', official)
    torch.save(weights if through == 'convert' else dict(state_dict=weights, meta={}), tmp_path / 'moco.pth')
    return model


@pytest.mark.parametrize('through', ['trainer', 'convert'])
def test_a_pretrained_backbone_of_ours_plugs_in(tmp_path, through):
    expected = moco_weights(tmp_path, through).backbone.state_dict()
    model = build(
        backbone=dict(
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'moco.pth'), prefix='backbone.')
        )
    )
    model.init_weights()
    own = model.backbone.state_dict()
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(own[name], value), name


def test_mobilenet_without_its_last_stride_is_the_host_s_in_between():
    from mmdet.models.backbones import MobileNetV2

    from mmssl.detection.mobilenet import DilatedMobileNetV2

    torch.manual_seed(0)
    host, ours = MobileNetV2(widen_factor=0.25, out_indices=(4, 6)), DilatedMobileNetV2(widen_factor=0.25)
    ours.load_state_dict(host.state_dict())
    host.eval(), ours.eval()
    with torch.no_grad():
        (level5, coarse), (own5, fine) = host(images(1)), ours(images(1))
    assert torch.equal(level5, own5)
    assert coarse.shape[2:] == (3, 4) and fine.shape[2:] == (6, 8)
    assert torch.allclose(fine[..., ::2, ::2], coarse, atol=1e-5)


def test_mobilenet_reads_names_of_mmpretrain():
    from mmpretrain.models import MobileNetV2

    from mmssl.detection.mobilenet import DilatedMobileNetV2

    torch.manual_seed(0)
    host, ours = MobileNetV2(widen_factor=0.25, out_indices=(4,)), DilatedMobileNetV2(widen_factor=0.25)
    result = ours.load_state_dict(host.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    host.eval(), ours.eval()
    with torch.no_grad():
        assert torch.allclose(host(images(1))[0], ours(images(1))[0], atol=1e-6)


def step_of(batch, count, model=None):
    """Losses and gradients, nothing drawn at random: all anchors and all proposals count."""
    model = model or build(train_cfg=dict(rpn=dict(sampler=dict(num=10**6)), rcnn=dict(ohem=10**6)))
    bare = getattr(model, 'module', model)
    losses, log = bare.parse_losses(model(images(2)[:count], batch, mode='loss'))
    losses.backward()
    values = {name: value.detach() for name, value in log.items()}
    return values, {name: parameter.grad for name, parameter in bare.named_parameters()}


def step_in_a_group(rank):
    model = torch.nn.parallel.DistributedDataParallel(
        build(train_cfg=dict(rpn=dict(sampler=dict(num=10**6)), rcnn=dict(ohem=10**6)))
    )
    log, gradients = step_of([full() if rank == 0 else sample(NOTHING, [])], 1, model)
    return dict(log), gradients


def test_two_processes_when_the_second_has_no_objects(two_ranks):
    first, second = two_ranks(step_in_a_group)
    alone = [step_of([batch], 1) for batch in (full(), sample(NOTHING, []))]
    for (log, _), (own, _) in zip((first, second), alone, strict=True):
        assert log.keys() == own.keys()
        assert all(float(value) == pytest.approx(float(own[name]), abs=1e-6) for name, value in log.items())
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name
        assert torch.allclose(gradient, (alone[0][1][name] + alone[1][1][name]) / 2, atol=1e-5), name
