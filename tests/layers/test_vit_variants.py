"""Registers, layer scale, SwiGLU, rotary positions, checkpointing and low-rank updates of the ViT."""

import math

import pytest
import torch
from torch import nn

from mmssl.errors import MismatchError
from mmssl.layers.lora import add_lora
from mmssl.layers.rope import AxialRoPE, rotate
from mmssl.layers.vit import ViT

SIZES = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=48)
ROTARY = dict(use_abs_pos_emb=False, rope_cfg={}, qkv_bias='qv_bias')


def small(**kwargs):
    torch.manual_seed(0)
    return ViT(SIZES, img_size=32, patch_size=8, **kwargs).eval()


def images(*size):
    return torch.randn(2, 3, *(size or (32, 40)), generator=torch.Generator().manual_seed(1))


def test_angles_by_the_formula():
    rope = AxialRoPE(16).eval()
    sin, cos = rope((3, 5))
    row, column = 2, 1
    y, x = 2 * (row + 0.5) / 3 - 1, 2 * (column + 0.5) / 5 - 1
    periods = [100 ** (i / 4) for i in range(4)]
    angles = [2 * math.pi * c / period for c in (y, x) for period in periods] * 2
    index = row * 5 + column
    torch.testing.assert_close(sin[index], torch.tensor([math.sin(a) for a in angles]))
    torch.testing.assert_close(cos[index], torch.tensor([math.cos(a) for a in angles]))


def test_products_of_rotated_vectors_depend_on_the_distance():
    rope = AxialRoPE(8).eval()((4, 4)).double()
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 16, 8)
    products = (rotate(query, rope) @ rotate(key, rope).transpose(2, 3)).view(4, 4, 4, 4)
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 1, 3, 3])
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-6


def test_leading_tokens_are_not_rotated():
    tokens = torch.randn(1, 2, 3 + 4, 8)
    rotated = rotate(tokens, AxialRoPE(8).eval()((2, 2)))
    assert torch.equal(rotated[:, :, :3], tokens[:, :, :3])
    assert rotate(tokens.bfloat16(), AxialRoPE(8).eval()((2, 2))).dtype == torch.bfloat16


@pytest.mark.parametrize('setting', [dict(shift=0.5), dict(jitter=2.0), dict(rescale=2.0)])
def test_angles_vary_in_training_only(setting):
    rope = AxialRoPE(8, **setting)
    assert not torch.equal(rope((2, 3)), rope((2, 3)))
    rope.eval()
    assert torch.equal(rope((2, 3)), AxialRoPE(8).eval()((2, 3)))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match='head_dims 6'):
        AxialRoPE(6)
    with pytest.raises(ValueError, match=r'jitter=0\.5'):
        AxialRoPE(8, jitter=0.5)
    with pytest.raises(ValueError, match="ffn_type='geglu'"):
        small(layer_cfgs=dict(ffn_type='geglu'))
    with pytest.raises(ValueError, match="qkv_bias='k'"):
        small(qkv_bias='k')


def test_registers_are_attended_to_and_not_returned():
    backbone = small(num_registers=4)
    assert backbone.num_extra_tokens == 5 and backbone.pos_embed.shape[1] == 1 + 16
    before = backbone(images())[-1]
    assert before.shape == (2, 32, 4, 5)
    with torch.no_grad():
        backbone.register_tokens.add_(1)
    assert not torch.allclose(before, backbone(images())[-1])
    backbone.out_type = 'raw'
    assert backbone(images())[-1].shape == (2, 5 + 20, 32)


def test_layer_scale_of_zero_leaves_the_embedding():
    backbone = small(layer_scale_init_value=1e-5, final_norm=False)
    for name, parameter in backbone.named_parameters():
        if 'gamma' in name:
            assert (parameter == 1e-5).all()
            nn.init.zeros_(parameter)
    tokens, grid = backbone.embed(images())
    torch.testing.assert_close(backbone(images())[-1], backbone._output(tokens, grid))


def test_layer_scale_and_swiglu_equal_mmpretrain():
    from mmpretrain.models import VisionTransformer

    settings = dict(layer_scale_init_value=0.5, layer_cfgs=dict(ffn_type='swiglu_fused'))
    theirs = VisionTransformer(
        arch={**SIZES, 'feedforward_channels': 100},
        img_size=32,
        patch_size=8,
        out_type='featmap',
        norm_cfg=dict(type='LN', eps=1e-6),
        pre_norm=False,
        **settings,
    )
    theirs.eval()
    ours = ViT({**SIZES, 'feedforward_channels': 100}, img_size=32, patch_size=8, **settings).eval()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(images(32, 32))[-1], theirs(images(32, 32))[-1])


@pytest.mark.parametrize('settings', [{}, ROTARY], ids=['table', 'rotary'])
def test_checkpointing_changes_no_gradient(settings):
    gradients = []
    for with_cp in (False, True):
        backbone = small(with_cp=with_cp, **settings).train()
        backbone(images())[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_keys_without_a_bias():
    attention = small(**ROTARY).layers[0].attn
    x = torch.randn(1, 5, 32)
    nn.init.ones_(attention.q_bias)
    nn.init.constant_(attention.v_bias, 2)
    query, key, value = attention.project(x)
    plain = [part.unflatten(2, (4, 8)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=2)]
    torch.testing.assert_close(query, plain[0] + 1)
    torch.testing.assert_close(key, plain[1])
    torch.testing.assert_close(value, plain[2] + 2)


def test_a_rotary_file_takes_any_size():
    backbone, other = small(**ROTARY), ViT(SIZES, img_size=(64, 32), patch_size=8, **ROTARY).eval()
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(images())[-1], other(images())[-1])


def test_low_rank_updates_are_merged_where_a_plain_model_loads_them(tmp_path):
    backbone = small(lora_cfg=dict(rank=2, alpha=8))
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained and all('lora_' in name for name in trained)
    for name, parameter in backbone.named_parameters():
        if name.endswith('lora_b'):
            nn.init.normal_(parameter)
    torch.save(backbone.state_dict(), tmp_path / 'x.pth')
    weights = torch.load(tmp_path / 'x.pth')
    plain = small()
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(images())[-1], backbone(images())[-1])
    again = small(lora_cfg=dict(rank=2, alpha=8))
    again.load_state_dict(torch.load(tmp_path / 'x.pth'))
    assert torch.equal(again(images())[-1], backbone(images())[-1])
    with pytest.raises(MismatchError, match='does not say their scale'):
        small().load_state_dict(dict(torch.load(tmp_path / 'x.pth')))


def test_low_rank_updates_of_a_loaded_backbone_start_unchanged():
    plain, tuned = small(), small()
    add_lora(tuned, rank=2)
    assert torch.equal(plain(images())[-1], tuned(images())[-1])


def test_attention_maps_of_a_rotary_model_with_registers():
    from mmssl.visualization.attention import class_attention

    backbone = small(num_registers=2, **ROTARY)
    weights = class_attention(backbone, images())
    assert weights.shape == (2, 4, 4, 5)
    assert (weights.sum((2, 3)) < 1).all() and (weights.sum((2, 3)) > 0.5).all()
