"""Files of the R-FCN releases, MXNet and Caffe, converted in both directions: names and channels."""

import pytest
import torch

from mmssl.checkpoint import load_file
from mmssl.cli import main
from mmssl.convert import from_official, to_official
from mmssl.registry import MODELS

CLASSES, K, ANCHORS = 3, 7, 9
BLOCKS = {
    50: ['abc', 'abcd', 'abcdef', 'abc'],
    101: ['abc', ['a', 'b1', 'b2', 'b3'], ['a', *(f'b{n}' for n in range(1, 23))], 'abc'],
}


def mxnet_file(depth, deformable=False, width=4, boxes=2):
    """Names and random tensors as ``mx.nd.load`` gives them, with the prefixes of a checkpoint."""
    shapes = {'arg:conv1_weight': (width, 3, 7, 7)}

    def norm(name, channels):
        shapes.update(
            {
                f'arg:{name}_gamma': (channels,),
                f'arg:{name}_beta': (channels,),
                f'aux:{name}_moving_mean': (channels,),
                f'aux:{name}_moving_var': (channels,),
            }
        )

    norm('bn_conv1', width)
    inputs = width
    for stage, names in enumerate(BLOCKS[depth], start=2):
        inner = width * 2 ** (stage - 2)
        for name in names:
            sizes = {'2a': (inner, inputs, 1), '2b': (inner, inner, 3), '2c': (4 * inner, inner, 1)}
            if name == 'a':
                sizes['1'] = (4 * inner, inputs, 1)
            for branch, (out, into, kernel) in sizes.items():
                shapes[f'arg:res{stage}{name}_branch{branch}_weight'] = (out, into, kernel, kernel)
                norm(f'bn{stage}{name}_branch{branch}', out)
            if deformable and stage == 5:
                shapes[f'arg:res5{name}_branch2b_offset_weight'] = (72, inner, 3, 3)
                shapes[f'arg:res5{name}_branch2b_offset_bias'] = (72,)
            inputs = 4 * inner

    def conv(name, out, into, kernel=1):
        shapes.update({f'arg:{name}_weight': (out, into, kernel, kernel), f'arg:{name}_bias': (out,)})

    conv('rpn_conv_3x3', 6, 16 * width, 3)
    conv('rpn_cls_score', 2 * ANCHORS, 6)
    conv('rpn_bbox_pred', 4 * ANCHORS, 6)
    conv('conv_new_1', 5, 32 * width)
    conv('rfcn_cls', K * K * (CLASSES + 1), 5)
    conv('rfcn_bbox', K * K * 4 * boxes, 5)
    conv('rfcn_bbox_test', K * K * 4 * boxes, 5)
    for kind in ('weight', 'bias'):
        shapes[f'arg:rfcn_bbox_{kind}_test'] = shapes.pop(f'arg:rfcn_bbox_test_{kind}')
    if deformable:
        conv('rfcn_cls_offset_t', 2 * K * K * (CLASSES + 1), 5)
        conv('rfcn_bbox_offset_t', 2 * K * K, 5)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}


def caffe_file(depth, width=4):
    """Layers and blobs of the MXNet file: batch norms in two layers, boxes multiplied by their deviations."""
    blobs = {}
    for name, value in mxnet_file(depth, width=width).items():
        name = name.split(':')[1]
        layer, _, kind = name.rpartition('_')
        if name.endswith('_test'):
            continue
        if name.endswith(('_moving_mean', '_moving_var')):
            layer, kind = name.rsplit('_moving_', 1)
            blobs[f'{layer}.{("mean", "var").index(kind)}'] = value * 999.98
            blobs[f'{layer}.2'] = torch.tensor([999.98])
        elif kind in ('gamma', 'beta'):
            blobs[f'scale{layer[2:]}.{("gamma", "beta").index(kind)}'] = value
        else:
            if layer == 'rfcn_bbox':
                deviations = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(2).repeat_interleave(K * K)
                value = value * deviations.view(-1, *[1] * (value.dim() - 1))
            blobs[f'{layer.replace("rpn_conv_3x3", "rpn_conv/3x3")}.{("weight", "bias").index(kind)}'] = value
    if depth == 50:
        blobs['conv1.1'] = torch.full((width,), 0.25)
    return blobs


def our_model(depth, deformable=False, width=4, agnostic=True):
    backbone = dict(type='mmssl.DeformResNet') if deformable else dict(type='mmdet.ResNet')
    head = dict(
        type='mmssl.RFCNBBoxHead',
        in_channels=32 * width,
        num_classes=CLASSES,
        roi_feat_size=K,
        hidden_channels=5,
        deformable=deformable,
        reg_class_agnostic=agnostic,
    )
    return MODELS.build(
        dict(
            type='mmssl.RFCN',
            data_preprocessor=dict(type='mmdet.DetDataPreprocessor'),
            backbone=dict(
                backbone,
                depth=depth,
                stem_channels=width,
                base_channels=width,
                strides=(1, 2, 2, 1),
                dilations=(1, 1, 1, 2),
                out_indices=(2, 3),
                style='caffe',
                norm_eval=True,
                norm_cfg=dict(type='BN'),
            ),
            rpn_head=dict(
                type='mmdet.RPNHead',
                in_channels=16 * width,
                feat_channels=6,
                anchor_generator=dict(
                    type='mmdet.AnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[16]
                ),
            ),
            roi_head=dict(type='mmssl.RFCNRoIHead', bbox_head=head),
            train_cfg=None,
            test_cfg=dict(
                rpn=dict(
                    nms_pre=50, max_per_img=10, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
                ),
                rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.3), max_per_img=5),
            ),
        )
    ).eval()


@pytest.fixture(scope='module', autouse=True)
def in_mmdet():
    pytest.importorskip('mmdet')
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')


@pytest.mark.parametrize(('depth', 'deformable'), [(50, False), (101, True)])
def test_an_mxnet_file_loads_strictly(depth, deformable):
    official = mxnet_file(depth, deformable)
    ours = from_official('rfcn', official)
    model = our_model(depth, deformable)
    model.load_state_dict(ours, strict=True)
    last = 'res4f' if depth == 50 else 'res4b22'
    assert torch.equal(model.backbone.layer3[-1].conv2.weight, official[f'arg:{last}_branch2b_weight'])
    assert torch.equal(
        model.backbone.layer4[0].downsample[1].running_var, official['aux:bn5a_branch1_moving_var']
    )
    assert torch.equal(model.rpn_head.rpn_reg.weight, official['arg:rpn_bbox_pred_weight'])
    background, anchors = official['arg:rpn_cls_score_bias'].chunk(2)
    torch.testing.assert_close(
        model.rpn_head.rpn_cls.bias.sigmoid(), torch.stack([background, anchors]).softmax(0)[1]
    )
    head = model.roi_head.bbox_head
    scores = official['arg:rfcn_cls_weight'].view(CLASSES + 1, K, K, 5)
    mine = head.rfcn_cls.weight.view(CLASSES + 1, K, K, 5)
    assert (
        torch.equal(mine[CLASSES], scores[0])
        and torch.equal(mine[0], scores[1])
        and torch.equal(mine[2], scores[3])
    )
    assert torch.equal(
        head.rfcn_bbox.weight.view(4, K, K, 5), official['arg:rfcn_bbox_weight'].view(8, K, K, 5)[4:]
    )
    if deformable:
        assert torch.equal(
            model.backbone.layer4[2].conv2.conv_offset.bias, official['arg:res5c_branch2b_offset_bias']
        )
        moved = official['arg:rfcn_cls_offset_t_bias'].view(CLASSES + 1, 2, K, K)
        assert torch.equal(
            head.rfcn_cls_offset.bias.view(CLASSES + 1, 2, K, K), torch.cat([moved[1:], moved[:1]])
        )
        assert torch.equal(head.rfcn_bbox_offset.bias, official['arg:rfcn_bbox_offset_t_bias'])


@pytest.mark.parametrize('family', ['rfcn', 'rfcn-caffe'])
def test_ours_come_back_as_they_were(family):
    deformable = family == 'rfcn'
    model = our_model(50, deformable)
    state = model.state_dict()
    official = to_official(family, state)
    names = mxnet_file(50, True) if deformable else caffe_file(50)
    assert {name.split(':')[-1] for name in names if not name.endswith('_test')} == set(official)
    back = from_official(family, official)
    assert back.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(back[name], value, rtol=1e-6, atol=1e-8)
    second = to_official(family, back)
    assert all(
        torch.equal(second[name], value) or name.startswith('rfcn_bbox.') for name, value in official.items()
    )


def test_the_release_predicts_the_same_after_a_round_trip():
    """Boxes of background and the size of the RPN's two logits, which a round trip drops, do not matter."""
    official = mxnet_file(50)
    once = from_official('rfcn', official)
    twice = from_official('rfcn', to_official('rfcn', once))
    assert all(torch.equal(twice[name], value) for name, value in once.items())


def test_boxes_of_every_class():
    official = mxnet_file(50, boxes=CLASSES + 1)
    model = our_model(50, agnostic=False)
    model.load_state_dict(from_official('rfcn', official), strict=True)
    expected = official['arg:rfcn_bbox_weight'].view(CLASSES + 1, 4, K, K, 5)[1:]
    assert torch.equal(model.roi_head.bbox_head.rfcn_bbox.weight.view(CLASSES, 4, K, K, 5), expected)
    back = to_official('rfcn', model.state_dict())['rfcn_bbox_weight'].view(CLASSES + 1, 4, K, K, 5)
    assert torch.equal(back[1:], expected) and not back[0].any()


@pytest.mark.parametrize('depth', [50, 101])
def test_a_caffe_file_is_the_mxnet_file_in_other_words(depth):
    ours, expected = from_official('rfcn-caffe', caffe_file(depth)), from_official('rfcn', mxnet_file(depth))
    assert ours.keys() == expected.keys()
    if depth == 50:
        expected['backbone.bn1.running_mean'] = expected['backbone.bn1.running_mean'] - 0.25
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_the_bias_before_the_first_batch_norm_is_converted():
    blobs = caffe_file(50)
    model = our_model(50)
    model.load_state_dict(from_official('rfcn-caffe', blobs), strict=True)
    x = torch.randn(1, 3, 16, 16)
    stem = torch.nn.functional.conv2d(x, blobs['conv1.0'], blobs['conv1.1'], 2, 3)
    count = blobs['bn_conv1.2']
    expected = torch.nn.functional.batch_norm(
        stem,
        blobs['bn_conv1.0'] / count,
        blobs['bn_conv1.1'] / count,
        blobs['scale_conv1.0'],
        blobs['scale_conv1.1'],
    )
    torch.testing.assert_close(model.backbone.norm1(model.backbone.conv1(x)), expected, rtol=1e-4, atol=1e-4)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(mxnet_file(50), 'rfcn.pth')
    assert main(['convert', 'rfcn', 'rfcn.pth', 'ours.pth']) == 0
    assert 'rfcn (R-FCN, ResNet-50)' in capsys.readouterr().out
    our_model(50).load_state_dict(load_file('ours.pth')['state_dict'], strict=True)


@pytest.mark.parametrize(
    ('family', 'change', 'message'),
    [
        (
            'rfcn',
            lambda weights: weights.pop('arg:res3b_branch2a_weight'),
            '1 missing: res3b_branch2a_weight',
        ),
        (
            'rfcn',
            lambda weights: weights.update({'arg:fc1_weight': torch.zeros(2, 2)}),
            '1 unknown: fc1_weight',
        ),
        (
            'rfcn',
            lambda weights: weights.update({'arg:rfcn_cls_bias': torch.zeros(20)}),
            'rfcn_cls has 20 and rfcn_bbox 392 channels',
        ),
        (
            'rfcn',
            lambda weights: weights.update({'arg:conv1_weight': torch.zeros(4, 3, 3, 3)}),
            'conv1_weight .*expected',
        ),
        ('rfcn', lambda weights: weights.pop('arg:rfcn_cls_bias'), '1 missing: rfcn_cls_bias'),
        ('rfcn-caffe', lambda weights: weights.pop('scale2a_branch1.1'), r'1 missing: scale2a_branch1\.1'),
        (
            'rfcn-caffe',
            lambda weights: weights.update({'fc1000.0': torch.zeros(2, 2)}),
            r'1 unknown: fc1000\.0',
        ),
        (
            'rfcn-caffe',
            lambda weights: weights.update({'bn_conv1.2': torch.zeros(1)}),
            r'bn_conv1\.2 is 0: the batch norm bn_conv1 has no statistics',
        ),
    ],
)
def test_other_files_are_refused(family, change, message):
    official = mxnet_file(50) if family == 'rfcn' else caffe_file(50)
    change(official)
    with pytest.raises(ValueError, match=message):
        from_official(family, official)
