"""Deformable RoI pooling of Faster R-CNN: offsets from one layer, at a hundredth of the learning rate."""

from pathlib import Path

import torch

from mmssl.detection.deform_roi import DeformRoIExtractor
from mmssl.ops import deform_ps_roi_pool

ROIS = torch.tensor(
    [
        [0.0, 3.0, 4.0, 40.0, 50.0],
        [1.0, 0.0, 0.0, 95.0, 63.0],
        [1.0, 6.0, 20.0, 70.0, 55.0],
        [0.0, 2.0, 2.0, 8.0, 8.0],
    ]
)


def maps():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 64 // stride, 96 // stride, generator=draw) for stride in (4, 8)]


def pool(level, rois, trans, stride):
    return deform_ps_roi_pool(level, rois, trans, 3, 1 / stride, 4, 1, 3)


def test_starts_plain_and_moves_by_what_the_layer_says():
    extractor = DeformRoIExtractor(4, [8], roi_feat_size=3)
    extractor.init_weights()
    level = maps()[1]
    plain = pool(level, ROIS, None, 8)
    assert torch.allclose(extractor([level], ROIS), plain, atol=1e-6)
    torch.nn.init.normal_(extractor.offset_fc.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    trans = (plain.flatten(1) @ extractor.offset_fc.weight.T).view(4, 2, 3, 3)
    out = extractor([level], ROIS)
    assert torch.allclose(out, pool(level, ROIS, trans, 8), atol=1e-5) and not torch.allclose(out, plain)


def test_each_roi_is_pooled_from_its_level():
    extractor = DeformRoIExtractor(4, [4, 8], roi_feat_size=3, finest_scale=24)
    extractor.init_weights()
    levels = extractor.map_roi_levels(ROIS, 2).tolist()
    assert sorted(set(levels)) == [0, 1]
    out = extractor(maps(), ROIS)
    for index, level in enumerate(levels):
        assert torch.allclose(
            out[index], pool(maps()[level], ROIS[index : index + 1], None, (4, 8)[level])[0], atol=1e-6
        )


def test_no_rois_still_reach_every_weight():
    extractor = DeformRoIExtractor(4, [4, 8], roi_feat_size=3, in_channels=4)
    out = extractor(maps(), torch.zeros(0, 5))
    assert out.shape == (0, 4, 3, 3)
    out.sum().backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in extractor.parameters()
    )


def test_a_hundredth_of_the_learning_rate():
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope

    import mmssl.registry  # noqa: F401

    name = 'configs/rfcn/faster-rcnn-deform_resnet101-dconv-c5_8xb1-234000i_coco.py'
    cfg = Config.fromfile(Path(__file__).resolve().parents[2] / name)
    init_default_scope('mmdet')
    model = torch.nn.Module()
    model.roi_head = torch.nn.Module()
    model.roi_head.bbox_roi_extractor = extractor = DeformRoIExtractor(4, [8], in_channels=4, roi_feat_size=3)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {
        id(parameter): group['lr']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert rates[id(extractor.offset_fc.weight)] == rates[id(extractor.offset_fc.bias)] == 0.00004
    assert rates[id(extractor.conv_new.weight)] == 0.004


def test_modulated_pooling_weighs_the_bins():
    torch.manual_seed(0)
    extractor = DeformRoIExtractor(4, [8], roi_feat_size=3, modulated_channels=16)
    extractor.init_weights()
    level = maps()[1]
    plain = pool(level, ROIS, None, 8)
    assert torch.allclose(extractor([level], ROIS), plain / 2, atol=1e-6)  # sigmoid(0)
    first, second, last = (extractor.modulation_fc[index] for index in (0, 2, 4))
    torch.nn.init.normal_(last.weight, std=0.3)
    hidden = torch.relu(torch.relu(first(plain.flatten(1))) @ second.weight.T + second.bias)
    predicted = (hidden @ last.weight.T).view(4, 3, 3, 3)
    expected = pool(level, ROIS, predicted[:, :2], 8) * torch.sigmoid(predicted[:, 2:])
    out = extractor([level], ROIS)
    assert torch.allclose(out, expected, atol=1e-5)
    out.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in extractor.parameters())
