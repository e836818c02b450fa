"""R-FCN's box head: OHEM, losses, targets, pooling and voting against plain loops written from the paper."""

import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmssl.detection.rfcn import AllSampler
from mmssl.detection.rfcn_head import RFCNBBoxHead, hardest
from mmssl.ops import deform_ps_roi_pool

META = dict(img_shape=(64, 96), scale_factor=(1.0, 1.0))


def head(**settings):
    torch.manual_seed(0)
    made = RFCNBBoxHead(
        **{**dict(in_channels=4, num_classes=3, roi_feat_size=3, hidden_channels=6, stride=8), **settings}
    )
    made.init_weights()
    for parameter in made.parameters():  # the first weights are too small to tell apart
        torch.nn.init.normal_(parameter, std=0.4)
    return made.double()


def feature_map():
    return torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


ROIS = torch.tensor(
    [
        [0, 3.2, 4.9, 40.1, 50.7],
        [1, 0, 0, 95, 63],
        [1, 60.5, 20, 70.2, 90],
        [0, 20, 20, 20, 20],
        [0, 200, 200, 300, 300],
    ],
    dtype=torch.float64,
)


def test_the_hardest_are_those_of_a_plain_loop():
    losses = torch.rand(41, generator=torch.Generator().manual_seed(0))
    counts, keep = [10, 0, 20, 3, 8], 5
    expected, begin = torch.zeros(41, dtype=torch.bool), 0
    for count in counts:
        order = sorted(range(begin, begin + count), key=lambda index: -float(losses[index]))
        for index in order[:keep]:
            expected[index] = True
        begin += count
    assert torch.equal(hardest(losses, counts, keep), expected)
    assert expected.sum() == 5 + 0 + 5 + 3 + 5
    assert hardest(losses, [41], 128).all()


def example(agnostic):
    """Scores, boxes, RoIs, targets and RoIs an image; images of 4 and 5."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.tensor([2, 3, 0, 3, 1, 3, 3, 2, 3])
    on_object = labels < 3
    return dict(
        cls_score=torch.randn(9, 4, generator=draw, dtype=torch.float64),
        bbox_pred=torch.randn(9, 4 if agnostic else 12, generator=draw, dtype=torch.float64) * 2,
        rois=torch.zeros(9, 5, dtype=torch.float64),
        labels=labels,
        label_weights=torch.ones(9, dtype=torch.float64),
        bbox_targets=torch.randn(9, 4, generator=draw, dtype=torch.float64) * on_object[:, None],
        bbox_weights=on_object[:, None].double().expand(9, 4),
    ), [4, 5]


def by_hand(data, agnostic):
    """Cross entropy and summed smooth L1 of every RoI."""
    cls, box = [], []
    for scores, boxes, label, target in zip(
        data['cls_score'].tolist(),
        data['bbox_pred'].tolist(),
        data['labels'].tolist(),
        data['bbox_targets'].tolist(),
        strict=True,
    ):
        cls.append(math.log(sum(math.exp(value) for value in scores)) - scores[label])
        own = boxes if agnostic else boxes[4 * label : 4 * label + 4]
        apart = [abs(a - b) for a, b in zip(own, target, strict=True)] if label < 3 else []
        box.append(sum(value**2 / 2 if value < 1 else value - 0.5 for value in apart))
    return cls, box


@pytest.mark.parametrize('agnostic', [True, False], ids=['agnostic', 'aware'])
def test_losses_of_the_hardest_by_hand(agnostic):
    data, counts = example(agnostic)
    for name in ('cls_score', 'bbox_pred'):
        data[name].requires_grad_()
    losses = head(reg_class_agnostic=agnostic).loss(**data, counts=counts, ohem=2)
    cls, box = by_hand(data, agnostic)
    total = [a + b for a, b in zip(cls, box, strict=True)]
    chosen = (
        sorted(range(4), key=lambda index: -total[index])[:2]
        + sorted(range(4, 9), key=lambda index: -total[index])[:2]
    )
    assert losses['loss_cls'].item() == pytest.approx(sum(cls[index] for index in chosen) / 4, abs=1e-12)
    assert losses['loss_bbox'].item() == pytest.approx(
        sum(box[index] for index in chosen) / (2 * 2), abs=1e-12
    )
    assert losses['num_pos'].item() == sum(data['labels'][index] < 3 for index in chosen) / 2
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    assert data['cls_score'].grad.abs().sum(1).nonzero().flatten().tolist() == sorted(chosen)
    assert set(data['bbox_pred'].grad.abs().sum(1).nonzero().flatten().tolist()) == {
        i for i in chosen if data['labels'][i] < 3
    }


@pytest.mark.parametrize('agnostic', [True, False], ids=['agnostic', 'aware'])
def test_without_ohem_the_losses_are_those_of_mmdet(agnostic):
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    data, counts = example(agnostic)
    made = head(reg_class_agnostic=agnostic)
    ours, host = made.loss(**data, counts=counts), BBoxHead.loss(made, **data)
    assert ours.keys() == host.keys() == {'loss_cls', 'loss_bbox', 'acc'}
    for name, value in host.items():
        assert torch.allclose(ours[name].double(), value.double(), atol=1e-12), name


def sample(boxes, labels, proposals):
    from mmdet.models.task_modules.assigners import MaxIoUAssigner

    assigner = MaxIoUAssigner(
        pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False, ignore_iof_thr=-1
    )
    objects = InstanceData(
        bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels, dtype=torch.long)
    )
    proposals_data = InstanceData(priors=torch.tensor(proposals).view(-1, 4))
    return AllSampler().sample(assigner.assign(proposals_data, objects), proposals_data, objects)


def test_all_proposals_and_the_ground_truth_are_sampled_and_encoded():
    # IoU 0.6 with the object, 0.5 - and less than that
    result = sample(
        [[10.0, 10.0, 30.0, 20.0]],
        [2],
        [[10.0, 10.0, 30.0, 22.0], [0.0, 0.0, 5.0, 5.0], [10.0, 10.0, 30.0, 30.0], [10.0, 10.0, 30.0, 31.0]],
    )
    assert result.pos_priors.tolist() == [[10, 10, 30, 20], [10, 10, 30, 22], [10, 10, 30, 30]]
    assert result.neg_priors.tolist() == [[0, 0, 5, 5], [10, 10, 30, 31]]
    labels, weights, targets, box_weights = head().get_targets([result], ConfigDict(pos_weight=-1))
    assert labels.tolist() == [2, 2, 2, 3, 3] and weights.tolist() == [1] * 5
    # centre moved by -1 of 12 and log(10 / 12), over 0.1 and 0.2
    assert torch.allclose(targets[1], torch.tensor([0, -1 / 12 / 0.1, 0, math.log(10 / 12) / 0.2]), atol=1e-5)
    assert targets[0].abs().max() == 0 and targets[3:].abs().max() == 0
    assert box_weights.sum(1).tolist() == [4, 4, 4, 0, 0]


def round_half_away(value):
    return math.copysign(math.floor(abs(value) + 0.5), value)


def vote_by_hand(maps, roi, k, stride, dim):
    """Mean over bins of the mean over the pixels of a bin, by the definition of the released code."""
    image, (x1, y1, x2, y2) = int(roi[0]), [round_half_away(float(value)) for value in roi[1:]]
    height, width = maps.shape[2:]
    x0, y0, x1, y1 = x1 / stride, y1 / stride, (x2 + 1) / stride, (y2 + 1) / stride
    width_of_bin, height_of_bin = max(x1 - x0, 0.1) / k, max(y1 - y0, 0.1) / k
    out = torch.zeros(dim, dtype=torch.float64)
    for c in range(dim):
        for i in range(k):
            for j in range(k):
                rows = slice(
                    *[
                        min(max(value, 0), height)
                        for value in (
                            math.floor(i * height_of_bin + y0),
                            math.ceil((i + 1) * height_of_bin + y0),
                        )
                    ]
                )
                columns = slice(
                    *[
                        min(max(value, 0), width)
                        for value in (
                            math.floor(j * width_of_bin + x0),
                            math.ceil((j + 1) * width_of_bin + x0),
                        )
                    ]
                )
                pixels = maps[image, (c * k + i) * k + j, rows, columns]
                out[c] += pixels.mean() / k**2 if pixels.numel() else 0
    return out


@pytest.mark.parametrize('agnostic', [True, False], ids=['agnostic', 'aware'])
def test_predictions_are_vote_softmax_and_decoded_boxes(agnostic):
    made, x = head(reg_class_agnostic=agnostic), feature_map()
    scores, boxes = made(x, ROIS)
    hidden = (
        torch.einsum('oc,bchw->bohw', made.conv_new.weight[:, :, 0, 0], x) + made.conv_new.bias[:, None, None]
    ).clamp(min=0)
    maps = [
        torch.einsum('oc,bchw->bohw', conv.weight[:, :, 0, 0], hidden) + conv.bias[:, None, None]
        for conv in (made.rfcn_cls, made.rfcn_bbox)
    ]
    expected = [
        torch.stack([vote_by_hand(level, roi, 3, 8, len(level[0]) // 9) for roi in ROIS]) for level in maps
    ]
    assert torch.allclose(scores, expected[0], atol=1e-10) and torch.allclose(boxes, expected[1], atol=1e-10)
    assert scores[-1].abs().max() == 0  # outside the image
    (result,) = made.predict_by_feat((ROIS[:2],), (scores[:2],), (boxes[:2],), [META], rcnn_test_cfg=None)
    assert torch.allclose(result.scores, expected[0][:2].softmax(1), atol=1e-10)
    x1, y1, x2, y2 = ROIS[0, 1:].tolist()
    for label in range(1 if agnostic else 3):
        dx, dy, dw, dh = (
            expected[1][0, 4 * label : 4 * label + 4] * torch.tensor([0.1, 0.1, 0.2, 0.2])
        ).tolist()
        width, height = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
        centre_x, centre_y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        box = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
        clipped = [min(max(value, 0), limit) for value, limit in zip(box, (96, 64, 96, 64), strict=True)]
        assert result.bboxes[0, 4 * label : 4 * label + 4].tolist() == pytest.approx(clipped, abs=1e-6)


def test_aligned_bins_are_means_of_bilinear_samples():
    import torchvision

    made, x = head(convention='align'), feature_map()
    scores, _ = made(x, ROIS)
    maps = made.rfcn_cls(made.conv_new(x).clamp(min=0))
    assert torch.allclose(
        scores, torchvision.ops.ps_roi_align(maps, ROIS, 3, 1 / 8, 2).mean((2, 3)), atol=1e-10
    )
    moved = ROIS[:1] + torch.tensor([0.0, 0.3, 0.3, 0.3, 0.3])
    assert not torch.allclose(made(x, moved)[0], made(x, ROIS[:1])[0])
    with pytest.raises(
        ValueError, match="convention='bilinear' of RFCNBBoxHead is not one of caffe, torchvision, align"
    ):
        RFCNBBoxHead(convention='bilinear')


def test_offsets_at_zero_move_nothing_and_belong_to_their_class():
    made, x = head(deformable=True), feature_map()
    for conv in (made.rfcn_cls_offset, made.rfcn_bbox_offset):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    scores, boxes = made(x, ROIS)
    hidden = made.conv_new(x).relu()
    plain = deform_ps_roi_pool(made.rfcn_cls(hidden), ROIS, None, 3, 1 / 8, 4, 3, 3).mean((2, 3))
    assert torch.allclose(scores, plain, atol=1e-12)
    with torch.no_grad():
        made.rfcn_cls_offset.bias.view(4, 2, 9)[1, 0] = 1.5  # class 1, along x, every bin
        made.rfcn_bbox_offset.bias.view(2, 9)[1] = -2.0
    moved, moved_boxes = made(x, ROIS)
    assert torch.equal(moved[:, [0, 2, 3]], scores[:, [0, 2, 3]]) and not torch.allclose(
        moved[:2, 1], scores[:2, 1]
    )
    trans = torch.zeros(5, 2, 3, 3, dtype=torch.float64)
    trans[:, 1] = -2.0
    expected = deform_ps_roi_pool(made.rfcn_bbox(hidden), ROIS, trans, 3, 1 / 8, 4, 3, 3).mean((2, 3))
    # the third RoI is partly outside the map, where offsets are pooled to zero
    assert torch.allclose(moved_boxes[:2], expected[:2], atol=1e-12) and not torch.allclose(
        moved_boxes[:2], boxes[:2]
    )


def test_the_first_weights():
    made = RFCNBBoxHead(in_channels=64, num_classes=3, hidden_channels=64, roi_feat_size=7, deformable=True)
    made.init_weights()
    for conv in (made.conv_new, made.rfcn_cls, made.rfcn_bbox):
        assert 0.0085 < conv.weight.std() < 0.0115 and not conv.bias.any()
    for conv in (made.rfcn_cls_offset, made.rfcn_bbox_offset):
        assert not conv.weight.any() and not conv.bias.any()
    assert (
        made.rfcn_bbox.out_channels == 196
        and made.rfcn_cls.out_channels == 196
        and made.rfcn_cls_offset.out_channels == 2 * 49 * 4
    )


@pytest.mark.parametrize('deformable', [False, True])
def test_a_step_changes_every_weight(deformable):
    made = RFCNBBoxHead(
        in_channels=4, num_classes=3, roi_feat_size=3, hidden_channels=6, stride=8, deformable=deformable
    )
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        if 'offset' not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    made.double()
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    result = sample([[10.0, 10.0, 50.0, 40.0]], [2], [[10.0, 10.0, 50.0, 45.0], [60.0, 0.0, 95.0, 30.0]])
    rois = torch.cat((torch.zeros(3, 1), result.priors), 1).double()
    losses = made.loss_and_target(
        *made(feature_map(), rois), rois, [result], ConfigDict(pos_weight=-1, ohem=2)
    )['loss_bbox']
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    optimizer.step()
    for name, parameter in made.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize('deformable', [False, True])
def test_no_rois_give_the_same_losses_and_gradients_of_zero(deformable):
    made = head(deformable=deformable)
    empty = sample(torch.zeros(0, 4).tolist(), [], torch.zeros(0, 4).tolist())
    rois = torch.zeros(0, 5, dtype=torch.float64)
    scores, boxes = made(feature_map(), rois)
    assert scores.shape == (0, 4) and boxes.shape == (0, 4)
    losses = made.loss_and_target(scores, boxes, rois, [empty], ConfigDict(pos_weight=-1, ohem=2))[
        'loss_bbox'
    ]
    data, counts = example(True)
    assert losses.keys() == made.loss(**data, counts=counts, ohem=2).keys()
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


@pytest.mark.parametrize('deformable', [False, True])
def test_bfloat16_under_autocast(deformable):
    made, x = head(deformable=deformable).float(), feature_map().float()
    expected = made(x, ROIS.float())
    with torch.autocast('cpu', torch.bfloat16):
        out = made(x, ROIS.float())
    for got, single in zip(out, expected, strict=True):
        assert got.dtype == torch.float32 and torch.allclose(
            got, single, atol=0.05 * float(single.detach().abs().max())
        )


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='mmdet.FocalLoss', use_sigmoid=True),
        dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
        dict(type='mmdet.CrossEntropyLoss', use_mask=True),
        dict(type='mmdet.SeesawLoss', num_classes=3),
        dict(type='mmdet.EQLV2Loss', num_classes=3),
    ],
)
def test_losses_of_other_scores_than_a_softmax_are_refused(loss):
    with pytest.raises(ValueError, match=rf'loss_cls={loss["type"][6:]} of RFCNBBoxHead has \w+=True'):
        head(loss_cls=loss)


def test_a_loss_per_column_is_summed_for_each_roi_and_a_scalar_is_refused():
    rois = torch.tensor([[0, 0, 0, 40.0, 40]]).repeat(4, 1).double()  # as many RoIs as columns
    made = head()
    scores, boxes = made(feature_map(), rois)
    labels = torch.tensor([0, 1, 2, 3])
    targets = labels, torch.ones(4).double(), torch.zeros(4, 4).double(), torch.zeros(4, 4).double()
    plain = made.loss(scores, boxes, rois, *targets)
    cross_entropy = made.loss_cls.forward
    spread = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    made.loss_cls.forward = lambda *args, **kwargs: cross_entropy(*args, **kwargs)[:, None] * spread
    torch.testing.assert_close(made.loss(scores, boxes, rois, *targets)['loss_cls'], plain['loss_cls'])
    made.loss_cls.forward = lambda *args, **kwargs: cross_entropy(*args, **kwargs).mean()
    with pytest.raises(ValueError, match='loss for each RoI'):
        made.loss(scores, boxes, rois, *targets)


@pytest.mark.parametrize(
    'unused',
    [dict(with_avg_pool=True), dict(with_reg=False), dict(cls_predictor_cfg=dict(type='NormedLinear'))],
)
def test_settings_of_fully_connected_layers_are_refused(unused):
    with pytest.raises(ValueError, match=f'RFCNBBoxHead does not use {next(iter(unused))}='):
        RFCNBBoxHead(**unused)


def test_sizes_below_1_are_refused():
    with pytest.raises(ValueError, match='roi_feat_size=0 of RFCNBBoxHead'):
        RFCNBBoxHead(roi_feat_size=0)
