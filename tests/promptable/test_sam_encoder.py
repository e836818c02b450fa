"""Image encoders: against the official package and another TinyViT; tables of other sizes."""

import pytest
import torch

from mmssl.ops.rel_attention import resize_rel_pos
from mmssl.promptable import SAMBackbone, SAMImageEncoder, SAMTinyViT

SMALL = dict(
    img_size=128, embed_dim=32, depth=3, num_heads=2, global_attn_indexes=(1,), window_size=3, out_chans=16
)


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.5 if 'rel_pos' in name or name == 'pos_embed' else 0.2
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * spread + (name.endswith('norm.weight'))
            )
    return module.eval()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='take 112'):
        SAMImageEncoder(img_size=100)
    with pytest.raises(ValueError, match="arch 'vit_x' is unknown"):
        SAMImageEncoder(arch='vit_x')
    with pytest.raises(ValueError, match='are not blocks'):
        SAMImageEncoder(depth=2, embed_dim=8, num_heads=2, global_attn_indexes=(2,), img_size=32)
    with pytest.raises(ValueError, match='multiples of 16'):
        SAMImageEncoder(**SMALL)(torch.zeros(1, 3, 100, 128))
    with pytest.raises(ValueError, match='do not divide into 3 heads|does not divide into 3 heads'):
        SAMImageEncoder(**{**SMALL, 'num_heads': 3})


def test_embeddings_of_the_official_encoder():
    official = pytest.importorskip('segment_anything.modeling')
    from functools import partial

    theirs = randomised(
        official.ImageEncoderViT(
            **SMALL,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
        )
    )
    ours = SAMImageEncoder(**SMALL).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(
        2, 3, 128, 128, generator=torch.Generator().manual_seed(1)
    )  # a grid of 8, windows of 3: padded to 9
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
    trained, theirs_out = (
        ours.train()(images),
        theirs.train()(images),
    )  # other ways are taken where gradients are needed
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-5)
    grad_outputs = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    for mine, their in zip(
        torch.autograd.grad(trained, list(ours.parameters()), grad_outputs),
        torch.autograd.grad(theirs_out, list(theirs.parameters()), grad_outputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, their, atol=1e-4 * float(their.abs().max()), rtol=1e-3)


def test_checkpointing_keeps_gradients_and_drop_path_drops():
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    grads = []
    for with_cp in (False, True):
        model = randomised(SAMImageEncoder(**SMALL, with_cp=with_cp)).train()
        model(images).square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(*grads, strict=True))
    model = randomised(SAMImageEncoder(**SMALL, drop_path_rate=0.9))
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0, 0.45, 0.9])
    with torch.no_grad():
        evaluated = model(images)
        assert torch.equal(model(images), evaluated)
        torch.manual_seed(0)
        assert not torch.equal(model.train()(images), evaluated)


def test_tables_of_another_size_are_resized_when_loaded(monkeypatch):
    lines = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, *_, **__: lines.append(text))
    source = randomised(SAMImageEncoder(**SMALL))
    target = SAMImageEncoder(**{**SMALL, 'img_size': 64})
    target.load_state_dict(source.state_dict(), strict=True)
    assert len(lines) == 1 and '8x8 to 4x4' in lines[0] and '2 tables' in lines[0] and '15 to 7' in lines[0]
    assert torch.equal(target.blocks[0].attn.rel_pos_h, source.blocks[0].attn.rel_pos_h), (
        'windows keep their offsets'
    )
    table = source.blocks[1].attn.rel_pos_w
    assert torch.equal(target.blocks[1].attn.rel_pos_w, resize_rel_pos(table, 7))
    # with half the offsets the middle of each pair of places: offset 0 stays in the middle, by hand (x + 0.5)
    # * 15 / 7 - 0.5 = 7
    torch.testing.assert_close(target.blocks[1].attn.rel_pos_w[3], table[7])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # resized when loaded, or when called
        torch.testing.assert_close(target.eval()(images), source(images), atol=1e-5, rtol=1e-5)


def test_a_masked_autoencoder_is_a_start(monkeypatch):
    lines = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, *_, **__: lines.append(text))
    from mmssl.layers import ViT

    plain = randomised(
        ViT(
            arch=dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=128),
            img_size=64,
            patch_size=16,
        )
    )
    model = SAMImageEncoder(**SMALL)
    result = model.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys and all(
        'rel_pos' in key or key.startswith('neck') for key in result.missing_keys
    )
    assert torch.equal(model.blocks[2].mlp.lin1.weight, plain.layers[2].ffn.layers[0][0].weight)
    assert torch.equal(model.blocks[0].norm2.bias, plain.layers[0].ln2.bias)
    assert any('plain ViT' in line for line in lines) and any('4x4 to 8x8' in line for line in lines)
    whole = SAMImageEncoder(**{**SMALL, 'img_size': 64, 'use_rel_pos': False, 'window_size': 0})
    whole.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    x = whole.patch_embed(images) + whole.pos_embed
    for block in whole.blocks:
        x = block(x)
    tokens = plain.patch_embed(images)[0] + plain.pos_embed[:, 1:]
    for layer in plain.layers:
        tokens = layer(tokens)
    torch.testing.assert_close(x.flatten(1, 2), tokens, atol=1e-4, rtol=1e-4)


def test_layer_depths():
    model = SAMImageEncoder(**SMALL)
    depths = {
        name: model.get_layer_depth(f'image_encoder.{name}', 'image_encoder.')
        for name, _ in model.named_parameters()
    }
    assert depths['pos_embed'] == depths['patch_embed.proj.bias'] == (0, 5)
    assert depths['blocks.2.attn.rel_pos_h'] == (3, 5) and depths['neck.0.weight'] == (4, 5)
    assert model.get_layer_depth('mask_decoder.iou_token.weight', 'image_encoder.') == (4, 5)


def test_backbones_of_one_and_of_several_maps():

    class Pyramid(torch.nn.Module):
        def forward(self, x):
            return tuple(torch.nn.functional.avg_pool2d(x, size).repeat(1, 2, 1, 1) for size in (8, 16, 32))

    images = torch.randn(1, 3, 64, 96)
    model = SAMBackbone(Pyramid(), (6, 6, 6), img_size=96, out_chans=8, stride=16)
    assert model(images).shape == (1, 8, 4, 6) and model.grid == (6, 6)
    with pytest.raises(ValueError, match=r'set in_channels to that, not \[6, 6\]'):
        SAMBackbone(Pyramid(), (6, 6), img_size=96)(images)
    frozen = SAMBackbone(
        torch.nn.Sequential(torch.nn.Conv2d(3, 6, 16, 16), torch.nn.BatchNorm2d(6)), 6, 64, 8, frozen=True
    ).train()
    assert not frozen.backbone.training and frozen.neck.training
    single = frozen.neck(frozen.backbone(images))
    torch.testing.assert_close(frozen(images), single)


def test_tiny_vit_of_timm():
    timm = pytest.importorskip('timm')
    net = timm.models.tiny_vit.TinyVit(
        embed_dims=(8, 8, 16, 16),
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 2),
        window_sizes=(3, 3, 3, 3),
        num_classes=0,
    )
    randomised(net)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(3))
    model = SAMTinyViT(
        img_size=64,
        embed_dims=(8, 8, 16, 16),
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 2),
        window_sizes=(3, 3, 3, 3),
        num_classes=0,
        out_chans=8,
    )
    renamed = {}
    for key, value in net.state_dict().items():
        for old, new in (
            ('patch_embed.conv1.', 'patch_embed.seq.0.'),
            ('patch_embed.conv2.', 'patch_embed.seq.2.'),
            ('.conv.weight', '.c.weight'),
        ):
            key = key.replace(old, new)
        key = key.replace('stages.', 'layers.')
        if (
            '.downsample.' in key
        ):  # timm has the step at the start of the next stage, here it ends the one before
            stage = int(key.split('.')[1])
            key = key.replace(f'layers.{stage}.', f'layers.{stage - 1}.')
        renamed[key] = value
    required = {key for key in model.state_dict() if not key.startswith('neck')}
    assert required <= set(renamed), sorted(required - set(renamed))[:5]
    model.load_state_dict({**model.state_dict(), **{key: renamed[key] for key in required}}, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # timm's last step has stride 2: compared before it
        ours = theirs = images
        ours, theirs = model.eval().patch_embed(ours), net.patch_embed(theirs)
        for stage in range(3):
            for block in model.layers[stage].blocks:
                ours = block(ours)
            theirs = net.stages[stage](theirs)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
            ours = model.layers[stage].downsample(ours) if stage < 2 else ours
        assert model(images).shape == (1, 8, 4, 4)
