"""Weights with the prefixes of other programs, and with other dtypes than the model's."""

import pytest
import torch
from mmengine.runner import checkpoint as toolbox
from torch import nn

from mmssl.checkpoint import load_weights
from mmssl.convert import from_official
from mmssl.hosts import patches
from mmssl.layers.vit import ViT
from mmssl.promptable import build_sam

ARCH = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)
SAM_SIZES = dict(
    image_encoder=dict(
        img_size=64, patch_size=16, embed_dim=8, depth=1, num_heads=2, out_chans=8, global_attn_indexes=[0]
    ),
    prompt_encoder=dict(embed_dim=8, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4),
    mask_decoder=dict(
        transformer_dim=8,
        transformer=dict(depth=1, embedding_dim=8, mlp_dim=8, num_heads=2),
        iou_head_hidden_dim=8,
    ),
)
PREFIXES = ['_orig_mod.', 'module.', 'model.', 'sam.', 'module._orig_mod.', '_orig_mod.module.', 'model.sam.']


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def prefixed(state_dict, prefix):
    return {prefix + key: value for key, value in state_dict.items()}


@pytest.mark.parametrize('prefix', [*PREFIXES, 'backbone.', 'model.backbone.'])
def test_prefixes_are_removed_and_said(prefix, tmp_path, capfd):
    patches.apply()
    source = net(1)
    torch.save(dict(state_dict=prefixed(source.state_dict(), prefix)), tmp_path / 'file.pth')
    for load in (load_weights, toolbox.load_checkpoint):
        target = net(2)
        load(target, str(tmp_path / 'file.pth'), logger=None)
        assert torch.equal(target[0].weight, source[0].weight)
    text = ''.join(capfd.readouterr())
    assert all(f'{part}.' in text for part in prefix.split('.')[:-1])
    assert 'removed from the names of the weights' in text


def test_weights_under_another_key(capfd):
    source, target = net(1), net(2)
    load_weights(target, dict(ema=source.state_dict(), epoch=3), logger=None)
    assert torch.equal(target[0].weight, source[0].weight)
    assert "the weights under 'ema' are taken" in ''.join(capfd.readouterr())
    two = dict(teacher=source.state_dict(), student=net(3).state_dict(), epoch=3)
    with pytest.raises(ValueError, match="has weights under 'teacher', 'student'; save one of these"):
        load_weights(target, two)


def test_several_values_for_a_scalar_are_refused():
    """torch takes the first of them, as files of its version 0.3 hold scalars as vectors of one value."""
    target = net(2)
    target.scale = nn.Parameter(torch.zeros(()))
    weights = target.state_dict()
    load_weights(target, dict(weights, scale=torch.full((1,), 2.0)))
    assert target.scale.item() == 2
    with pytest.raises(ValueError, match='scale has 5 values, and the model takes a single one'):
        load_weights(target, dict(weights, scale=torch.arange(5.0)))


def test_a_compiled_part_and_further_weights(tmp_path):
    source, target = net(1), nn.ModuleDict(dict(backbone=net(2)))
    weights = prefixed(source.state_dict(), 'model.backbone._orig_mod.') | {'criterion.weight': torch.ones(1)}
    report = load_weights(target, weights)
    assert torch.equal(target['backbone'][0].weight, source[0].weight) and not report.missing


@pytest.mark.parametrize('outer', ['', 'module.', '_orig_mod.', 'model.'])
def test_a_pretrained_part_is_selected(outer, tmp_path):
    patches.apply()
    source = net(1)
    weights = prefixed(source.state_dict(), f'{outer}backbone.') | {f'{outer}head.weight': torch.ones(1)}
    torch.save(dict(state_dict=weights), tmp_path / 'file.pth')
    selected = toolbox._load_checkpoint_with_prefix('backbone.', str(tmp_path / 'file.pth'))
    assert set(selected) == set(source.state_dict())
    assert load_weights(net(2), tmp_path / 'file.pth', prefix='backbone').complete


@pytest.mark.parametrize('prefix', PREFIXES)
def test_sam_and_convert_know_the_prefixes(prefix, tmp_path):
    torch.manual_seed(1)
    source = build_sam(SAM_SIZES)
    torch.save(dict(model_state=prefixed(source.state_dict(), prefix)), tmp_path / 'sam.pth')
    torch.manual_seed(2)
    loaded = build_sam(SAM_SIZES, tmp_path / 'sam.pth')
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in source.state_dict().items())
    released = {
        'cls_token': torch.zeros(1, 1, 8),
        'pos_embed': torch.zeros(1, 5, 8),
        'patch_embed.proj.weight': torch.zeros(8, 3, 4, 4),
        'patch_embed.proj.bias': torch.zeros(8),
        'norm.weight': torch.zeros(8),
        'norm.bias': torch.zeros(8),
    }
    names = [
        ('norm1', 8, 8),
        ('attn.qkv', 24, 8),
        ('attn.proj', 8, 8),
        ('norm2', 8, 8),
        ('mlp.fc1', 16, 8),
        ('mlp.fc2', 8, 16),
    ]
    for name, rows, columns in names:
        weight = torch.zeros(rows) if 'norm' in name else torch.zeros(rows, columns)
        released |= {f'blocks.0.{name}.weight': weight, f'blocks.0.{name}.bias': torch.zeros(rows)}
    assert set(from_official('timm-vit', prefixed(released, prefix))) == set(
        from_official('timm-vit', released)
    )


def test_a_file_of_sam_hq_is_named(tmp_path):
    weights = build_sam(SAM_SIZES).state_dict() | {'mask_decoder.hf_token.weight': torch.zeros(1, 8)}
    torch.save(weights, tmp_path / 'hq.pth')
    with pytest.raises(ValueError, match='SAM-HQ'):
        build_sam(SAM_SIZES, tmp_path / 'hq.pth')


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_refused(dtype):
    weights = net().state_dict()
    weights['0.weight'] = weights['0.weight'].to(dtype)
    target = net(2)
    before = target[0].weight.detach().clone()
    with pytest.raises(ValueError, match=rf'0\.weight is {str(dtype)[6:]}, and the model takes float32'):
        load_weights(target, weights)
    assert torch.equal(target[0].weight, before)
    weights = net().state_dict()
    weights['1.num_batches_tracked'] = torch.tensor(2.5)
    with pytest.raises(ValueError, match='num_batches_tracked is float32, and the model takes int64'):
        load_weights(net(), weights)
    weights['1.num_batches_tracked'] = torch.tensor(2.0)
    assert load_weights(net(), weights).complete


@pytest.mark.parametrize(
    ('dtype', 'change'),
    [
        (torch.float16, 'widened from float16 to float32'),
        (torch.bfloat16, 'widened from bfloat16 to float32'),
        (torch.float64, 'rounded from float64 to float32'),
    ],
)
def test_a_cast_is_said(dtype, change, capfd):
    weights = {key: value.to(dtype) if '0.' in key else value for key, value in net().state_dict().items()}
    assert load_weights(net(), weights, logger=None).complete
    assert f'0.weight, 0.bias {change}' in ''.join(capfd.readouterr())


@pytest.mark.parametrize('name', ['1.running_var', '1.running_mean', '0.weight'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_values_that_are_not_finite_are_named(name, value, capfd):
    weights = net().state_dict()
    weights[name].flatten()[0] = value
    load_weights(net(), weights, logger=None)
    assert f'NaN or infinite values in {name}' in ''.join(capfd.readouterr())
    weights = {
        key: item.double() if item.is_floating_point() else item for key, item in net().state_dict().items()
    }
    weights[name].flatten()[0] = 1e300
    load_weights(net(), weights, logger=None)
    assert f'NaN or infinite values in {name}' in ''.join(capfd.readouterr())


def test_a_vit_of_half_precision_is_loaded():
    source, target = (ViT(arch=ARCH, img_size=32, patch_size=8) for _ in range(2))
    assert load_weights(target, source.half().state_dict()).complete


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda weights: {**weights, 'weight': weights['weight'].to_sparse()}, 'weight is a sparse tensor'),
        (lambda weights: {**weights, 'weight': weights['weight'] > 0}, 'weight is bool, and the model takes'),
        (lambda weights: {**weights, 3: weights['weight']}, '3 is no name of a weight'),
    ],
)
def test_what_is_no_weight_is_refused(change, message):
    norm = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match=message):
        load_weights(nn.BatchNorm1d(4), change(norm.state_dict()))


@pytest.mark.parametrize('change', [lambda value: value.to('meta'), lambda value: value.numpy()])
def test_values_that_are_no_tensors_in_memory_are_refused_in_one_line(change):
    weights = {key: change(value) for key, value in net(1).state_dict().items()}
    with pytest.raises(ValueError, match='0.weight') as refusal:
        load_weights(net(2), weights)
    assert '\n' not in str(refusal.value)


def test_negative_variances_are_named(capfd):
    norm = nn.BatchNorm1d(4)
    norm.running_var[2] = -1e-3
    load_weights(nn.BatchNorm1d(4), {'model': {'state_dict': norm.state_dict()}}, logger=None)
    assert 'NaN or infinite values in running_var' in ''.join(capfd.readouterr())
