"""ViTDet: attention against loops, global windows, pre-trained weights, the pyramid, and detectors on it."""

import pytest
import torch
from mmengine.config import Config

import mmssl.detection  # noqa: F401  before mmdet: stands in for the compiled operators
from mmssl.config.load import load_config
from mmssl.detection.vit_det import GridAttention, SimpleFeaturePyramid, ViTDet
from mmssl.layers.vit import ViT
from mmssl.registry import MODELS, build

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)


def vit_det(**settings):
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=4, window_size=3, global_indices=(1,))
    backbone = ViTDet(ARCH, **{**options, **settings}).double().eval()
    for name, parameter in backbone.named_parameters():
        if 'rel_pos' in name:
            torch.nn.init.normal_(parameter)
    return backbone


def images(height=28, width=40):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def reference(attention, x, grid):
    """Attention token by token; tokens of a window beyond the grid are zeros before the projection."""
    rows, columns = grid
    heads = attention.num_heads
    dims = x.shape[-1] // heads
    side = attention.window_size
    out = torch.zeros_like(x)
    bias = torch.zeros(3 * x.shape[-1], dtype=x.dtype) if attention.qkv.bias is None else attention.qkv.bias
    for row in range(rows):
        for column in range(columns):
            if side:
                top, left = row // side * side, column // side * side
                keys = [(i, j) for i in range(top, top + side) for j in range(left, left + side)]
            else:
                keys = [(i, j) for i in range(rows) for j in range(columns)]
            query = attention.qkv(x[0, row * columns + column])[: x.shape[-1]].view(heads, dims)
            scores, values = [], []
            for i, j in keys:
                inside = i < rows and j < columns
                projected = attention.qkv(x[0, i * columns + j]) if inside else bias
                _, key, value = projected.view(3, heads, dims)
                score = (query * key).sum(1) / dims**0.5
                if attention.rel_pos_h is not None:
                    zero_row, zero_column = (
                        (len(table) - 1) // 2 for table in (attention.rel_pos_h, attention.rel_pos_w)
                    )
                    score = score + query @ attention.rel_pos_h[row - i + zero_row]
                    score = score + query @ attention.rel_pos_w[column - j + zero_column]
                scores.append(score)
                values.append(value)
            weights = torch.stack(scores).softmax(0)
            result = (weights[:, :, None] * torch.stack(values)).sum(0).flatten()
            out[0, row * columns + column] = attention.proj(result)
    return out


@pytest.mark.parametrize('rel_pos', [True, False])
@pytest.mark.parametrize('window', [0, 3])
def test_attention_by_loops(window, rel_pos):
    torch.manual_seed(0)
    grid = (5, 7)
    size = (window, window) if window else grid
    attention = GridAttention(8, 2, window_size=window, rel_pos_size=size if rel_pos else None).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 35, 8, dtype=torch.float64)
    torch.testing.assert_close(attention.attend(x, grid), reference(attention, x, grid), rtol=0, atol=1e-9)


@pytest.mark.parametrize('rel_pos', [True, False])
def test_windows_as_large_as_the_map_are_global_attention(rel_pos):
    windowed = vit_det(window_size=8, global_indices=(), use_rel_pos=rel_pos)
    everywhere = vit_det(window_size=8, global_indices=(0, 1, 2), use_rel_pos=rel_pos)
    everywhere.load_state_dict(windowed.state_dict())
    x = images(32, 32)
    torch.testing.assert_close(windowed(x)[-1], everywhere(x)[-1], rtol=0, atol=1e-9)


def test_global_attention_without_relative_positions_is_the_pre_trained_vit():
    pretrained = ViT(ARCH, img_size=32, patch_size=4, with_cls_token=False).double().eval()
    backbone = vit_det(global_indices=(0, 1, 2), use_rel_pos=False, final_norm=True)
    backbone.load_state_dict(pretrained.state_dict())
    for x in (images(), images(32, 32)):
        torch.testing.assert_close(backbone(x)[-1], pretrained(x)[-1], rtol=0, atol=1e-9)


def test_weights_of_a_vit_with_a_class_token_load(tmp_path):
    from mmengine.runner import load_checkpoint

    pretrained = ViT(ARCH, img_size=16, patch_size=4)
    torch.save(dict(state_dict=pretrained.state_dict()), tmp_path / 'x.pth')
    backbone = ViTDet(ARCH, img_size=32, patch_size=4, window_size=3, global_indices=(1,))
    load_checkpoint(backbone, str(tmp_path / 'x.pth'))
    assert torch.equal(backbone.layers[2].attn.qkv.weight, pretrained.layers[2].attn.qkv.weight)
    assert backbone.pos_embed.shape[1] == 64 and not backbone.layers[0].attn.rel_pos_h.any()


def test_checkpointing_changes_no_gradient():
    gradients = []
    for with_cp in (False, True):
        backbone = vit_det(with_cp=with_cp)
        backbone(images())[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_the_pyramid_has_the_papers_strides():
    x = torch.randn(2, 16, 8, 6)
    pyramid = SimpleFeaturePyramid(16, 12)
    shapes = [tuple(out.shape[1:]) for out in pyramid((x,))]
    assert shapes == [(12, 32, 24), (12, 16, 12), (12, 8, 6), (12, 4, 3), (12, 2, 2)]
    norm = pyramid.convs[2][1]
    y = torch.randn(1, 12, 2, 3)
    torch.testing.assert_close(
        norm(y)[0, :, 1, 2], torch.nn.functional.layer_norm(y[0, :, 1, 2], (12,), eps=1e-6)
    )


def test_wrong_settings_are_refused():
    for settings, message in (
        (dict(global_indices=(3,)), r'global_indices=\(3,\)'),
        (dict(num_registers=4), 'registers'),
        (dict(attn_drop_rate=0.1), r'attn_drop_rate=0\.1'),
    ):
        with pytest.raises(ValueError, match=message):
            vit_det(**settings)
    with pytest.raises(ValueError, match='divisible by 4'):
        SimpleFeaturePyramid(6)


CONFIGS = [
    'configs/vitdet/mask-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py',
    'configs/vitdet/faster-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py',
    'configs/rfcn/rfcn_vit-base-p16-mae_8xb2-90000i_coco.py',
    'configs/rfcn/rfcn_swin-tiny-moby_8xb2-90000i_coco.py',
    'configs/rfcn/rfcn_cspnext-s_8xb2-90000i_coco.py',
]
# backbones of the same type in small, and the channels of their two maps
SMALL_VIT = dict(
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=48), img_size=64, init_cfg=None
)
SMALL_SWIN = dict(
    arch=dict(embed_dims=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]), window_size=2, init_cfg=None
)
SMALL = {
    'rfcn_vit': (dict(SMALL_VIT, out_indices=(0, 1)), 32, 32),
    'rfcn_swin': (SMALL_SWIN, 16, 32),
    'rfcn_cspnext': (dict(widen_factor=0.0625, init_cfg=None), 32, 64),
}


@pytest.mark.parametrize('config', CONFIGS)
def test_the_config_trains_and_predicts_in_a_small_form(config, repo_root):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    cfg = load_config(str(repo_root / config))
    model = Config(dict(model=cfg.model)).model
    small = next((each for name, each in SMALL.items() if f'/{name}' in config), None)
    if small:
        settings, *channels = small
        model.backbone.update(settings)
        model.rpn_head.in_channels, model.roi_head.bbox_head.in_channels = channels
        model.roi_head.bbox_head.hidden_channels = 16
        model.rpn_head.anchor_generator.scales = [2]
    else:
        model.backbone.update(SMALL_VIT, global_indices=(1,), window_size=3)
        model.neck.in_channels = 32
    model = build(model, MODELS).train()
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0]])
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 6:50, 4:40] = 1
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([3]), masks=BitmapMasks(mask.numpy(), 64, 64)
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    sample.set_metainfo(dict(batch_input_shape=(64, 64), pad_shape=(64, 64)))
    x = torch.randn(1, 3, 64, 64)
    losses = model.loss(x, [sample])
    total = sum(
        sum(value) if isinstance(value, list) else value for name, value in losses.items() if 'loss' in name
    )
    total.backward()
    gradient = next(model.backbone.parameters()).grad
    assert torch.isfinite(total) and gradient is not None and gradient.abs().sum() > 0
    with torch.no_grad():
        (prediction,) = model.eval().predict(x, [sample])
    assert prediction.pred_instances.bboxes.shape[1] == 4
    assert ('masks' in prediction.pred_instances) == ('mask' in config)
