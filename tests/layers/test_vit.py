"""The plain backbone: outputs, keys, freezing, layer depths."""

import pytest
import torch
from torch import nn

from mmssl.layers.beit_block import BEiTBlock
from mmssl.layers.mlp import MLP
from mmssl.layers.transformer import TransformerBlock, drop_path
from mmssl.registry import MODELS

ARCH = {'embed_dims': 32, 'num_layers': 4, 'num_heads': 4, 'feedforward_channels': 64}


def vit(**kwargs):
    torch.manual_seed(0)
    return MODELS.build({'type': 'mmssl.ViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8, **kwargs}).eval()


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token', 'avg_featmap', 'raw'])
def test_outputs_equal_mmpretrains_with_the_same_weights(out_type):
    from mmpretrain.models import VisionTransformer

    ours = vit(out_type=out_type, out_indices=[1, 3])
    host = VisionTransformer(arch=ARCH, img_size=32, patch_size=8, out_type=out_type, out_indices=[1, 3])
    host.eval()  # returns None in the host
    host.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    for mine, theirs in zip(ours(images), host(images), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_depths_equal_mmpretrains():
    from mmpretrain.models import VisionTransformer

    host = VisionTransformer(arch=ARCH, img_size=32, patch_size=8)
    for name in (
        'cls_token',
        'pos_embed',
        'patch_embed.projection.weight',
        'layers.0.ln1.weight',
        'layers.3.attn.qkv.bias',
        'ln1.weight',
    ):
        assert vit().get_layer_depth(f'backbone.{name}', 'backbone.') == host.get_layer_depth(
            f'backbone.{name}', 'backbone.'
        )
    assert vit().get_layer_depth('head.fc.weight', 'backbone.') == host.get_layer_depth(
        'head.fc.weight', 'backbone.'
    )


@pytest.mark.parametrize('arch', ['tiny', 'small', 'b', 'l', 'h'])
def test_named_sizes_have_the_papers_width(arch):
    with torch.device('meta'):
        model = MODELS.build({'type': 'mmssl.ViT', 'arch': arch})
    assert model.embed_dims == {'tiny': 192, 'small': 384, 'b': 768, 'l': 1024, 'h': 1280}[arch]


def test_rectangular_images_and_patches():
    model = vit(img_size=(16, 48), patch_size=(4, 8))
    assert model(torch.randn(1, 3, 16, 48))[0].shape == (1, 32, 4, 6)
    assert model(torch.randn(1, 3, 32, 40))[0].shape == (1, 32, 8, 5)


def test_frozen_stages_do_not_learn_and_stay_in_evaluation():
    model = vit(frozen_stages=2, drop_path_rate=0.5).train()
    assert [layer.training for layer in model.layers] == [False, False, True, True]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for name, _ in model.named_parameters() if name.startswith(('layers.2.', 'layers.3.', 'ln1.'))
    }
    assert not any(parameter.requires_grad for parameter in vit(frozen_stages=4).parameters())


def test_tail_queries_equal_the_tail_of_the_whole():
    torch.manual_seed(0)
    block = TransformerBlock(16, 4, 32).double()
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(block(tokens, 4), block(tokens)[:, 4:], atol=1e-12, rtol=0)


def test_a_replaced_projection_is_used():
    """LoRA puts another module in the place of qkv: its forward, not the old weight, must be asked."""
    block = TransformerBlock(16, 4, 32)
    tokens = torch.randn(1, 5, 16)
    before = block(tokens, 2)
    old = block.attn.qkv
    block.attn.qkv = torch.nn.Sequential(old, torch.nn.Linear(48, 48))
    assert not torch.allclose(block(tokens, 2), before)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    out = drop_path(torch.ones(4000, 3, 2), 0.25, True)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, :1, :1].expand_as(out), out) and abs(out.mean() - 1) < 0.05
    assert drop_path(out, 0.25, False) is out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'out_type': 'features'}, "out_type 'features' is unknown"),
        ({'out_indices': 4}, r'out_indices \[4\]'),
        ({'arch': {'embed_dims': 32}}, 'arch needs exactly the keys'),
        ({'patch_size': 64}, 'image 32x32 does not divide into 64x64 patches; resize it to 64x64'),
        ({'arch': {**ARCH, 'num_heads': 5}}, 'does not divide into 5 heads'),
        ({'with_cls_token': False, 'out_type': 'cls_token'}, 'with_cls_token'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vit(**options)


def test_every_linear_layer_is_torchs_own():
    for module in (TransformerBlock(8, 2, 16), BEiTBlock(8, 2, 16), MLP((8, 8, 8))):
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        assert layers and all(type(layer) is nn.Linear for layer in layers)
