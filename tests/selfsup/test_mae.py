"""MAE against a plain reading of the paper, and what its parts refuse."""

import math

import pytest
import torch
from mmengine.logging import MMLogger

from mmssl.registry import MODELS

ARCH = {'embed_dims': 32, 'num_layers': 3, 'num_heads': 4, 'feedforward_channels': 64}


def mae(img_size=32, patch_size=8, mask_ratio=0.75, norm_pix=True, dtype=torch.float32, seed=0, **head):
    torch.manual_seed(seed)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    grid = (size[0] // patch[0], size[1] // patch[1])
    model = MODELS.build(
        {
            'type': 'mmssl.MAE',
            'backbone': {
                'type': 'mmssl.MAEViT',
                'arch': ARCH,
                'img_size': img_size,
                'patch_size': patch_size,
                'mask_ratio': mask_ratio,
            },
            'neck': {
                'type': 'mmssl.MAEDecoder',
                'num_patches': grid,
                'patch_size': patch_size,
                'embed_dim': 32,
                'decoder_embed_dim': 16,
                'decoder_depth': 2,
                'decoder_num_heads': 2,
            },
            'head': {'type': 'mmssl.MAEHead', 'norm_pix': norm_pix, 'patch_size': patch_size, **head},
        }
    )
    for name, parameter in model.named_parameters():  # biases and norms that are not at their neutral start
        if parameter.ndim == 1:
            torch.nn.init.normal_(
                parameter, 1.0 if name.endswith('ln1.weight') or name.endswith('ln2.weight') else 0.0, 0.2
            )
    return model.to(dtype)


def reference(weights, images, noise, patch, heads=(4, 2), depths=(3, 2), mask_ratio=0.75, norm_pix=True):
    """Loss, predictions and mask of MAE, one image at a time, written from the paper."""

    def layer_norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * weights[f'{name}.weight'] + weights[f'{name}.bias']

    def dense(x, name):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    def block(x, name, count):
        width = x.shape[1]
        query, key, value = dense(layer_norm(x, f'{name}.ln1'), f'{name}.attn.qkv').split(width, dim=1)
        outs = []
        for head in range(count):
            part = slice(head * width // count, (head + 1) * width // count)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width // count)
            outs.append(
                (scores - scores.max(1, keepdim=True).values).exp()
                @ value[:, part]
                / (scores - scores.max(1, keepdim=True).values).exp().sum(1, keepdim=True)
            )
        x = x + dense(torch.cat(outs, 1), f'{name}.attn.proj')
        hidden = dense(layer_norm(x, f'{name}.ln2'), f'{name}.ffn.layers.0.0')
        return x + dense(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f'{name}.ffn.layers.1')

    total, count, preds, masks = 0.0, 0, [], []
    p, q = patch
    for image, scores in zip(images, noise, strict=True):
        rows, columns = image.shape[1] // p, image.shape[2] // q
        pixels = [
            image[:, r * p : (r + 1) * p, c * q : (c + 1) * q] for r in range(rows) for c in range(columns)
        ]
        order = sorted(range(len(pixels)), key=lambda n: scores[n].item())
        visible = order[: int(len(pixels) * (1 - mask_ratio))]
        tokens = [
            (weights['backbone.patch_embed.projection.weight'] * pixels[n]).sum((1, 2, 3))
            + weights['backbone.patch_embed.projection.bias']
            + weights['backbone.pos_embed'][0, 1 + n]
            for n in visible
        ]
        x = torch.stack([weights['backbone.cls_token'][0, 0] + weights['backbone.pos_embed'][0, 0], *tokens])
        for index in range(depths[0]):
            x = block(x, f'backbone.layers.{index}', heads[0])
        x = dense(layer_norm(x, 'backbone.ln1'), 'neck.decoder_embed')
        full = [
            x[1 + visible.index(n)] if n in visible else weights['neck.mask_token'][0, 0]
            for n in range(len(pixels))
        ]
        x = torch.stack([x[0], *full]) + weights['neck.decoder_pos_embed'][0]
        for index in range(depths[1]):
            x = block(x, f'neck.decoder_blocks.{index}', heads[1])
        pred = dense(layer_norm(x, 'neck.ln1'), 'neck.decoder_pred')[1:]
        for n, patch_pixels in enumerate(pixels):
            target = patch_pixels.permute(1, 2, 0).reshape(-1)
            if norm_pix:
                centred = target - target.mean()
                target = centred / ((centred**2).sum() / (len(target) - 1) + 1e-6).sqrt()
            if n not in visible:
                total, count = total + ((pred[n] - target) ** 2).mean(), count + 1
        preds.append(pred)
        masks.append(torch.tensor([0.0 if n in visible else 1.0 for n in range(len(pixels))]))
    return total / count, torch.stack(preds), torch.stack(masks)


@pytest.mark.parametrize(
    ('img_size', 'patch', 'ratio', 'norm_pix'),
    [
        (32, (8, 8), 0.75, True),
        (32, (8, 8), 0.5, False),
        ((16, 48), (8, 8), 0.75, True),
        ((12, 20), (4, 5), 0.9, True),
    ],
)
def test_loss_predictions_and_gradients_equal_the_paper(img_size, patch, ratio, norm_pix):
    model = mae(img_size, patch, ratio, norm_pix)
    size = model.backbone.img_size
    images = torch.randn(3, 3, *size)
    noise = torch.rand(3, size[0] // patch[0] * (size[1] // patch[1]))
    weights = {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
        for name, tensor in model.named_parameters()
    }
    expected, pred, mask = reference(weights, images, noise, patch, mask_ratio=ratio, norm_pix=norm_pix)
    loss = model.loss(images, noise=noise)['loss']
    assert abs(loss.item() - expected.item()) < 1e-6
    got_pred, got_mask, pasted = model.reconstruct(images, noise)
    assert torch.equal(got_mask, mask)
    torch.testing.assert_close(got_pred, pred, atol=1e-5, rtol=0)
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, weights[name].grad, atol=1e-6, rtol=1e-4, msg=name)
    # visible patches of the picture are the input's own
    hidden = (
        mask.view(3, size[0] // patch[0], -1)
        .repeat_interleave(patch[0], 1)
        .repeat_interleave(patch[1], 2)[:, None]
        .expand_as(images)
    )
    assert torch.equal(pasted[hidden == 0], images[hidden == 0])
    assert not torch.allclose(pasted[hidden == 1], images[hidden == 1])


def test_float64_agrees_to_1e_12():
    model = mae(dtype=torch.float64)
    images, noise = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 16, dtype=torch.float64)
    expected = reference(dict(model.named_parameters()), images, noise, (8, 8))[0]
    assert abs(model.loss(images, noise=noise)['loss'].item() - expected.item()) < 1e-12


def test_a_perfect_prediction_is_pasted_back_as_the_input():
    model = mae()
    patches = torch.rand(2, 16, 192)
    exact = model.head.target(patches)
    torch.testing.assert_close(
        model.head.paste(exact, patches, torch.ones(2, 16)), patches, atol=1e-6, rtol=1e-5
    )


def test_masking_is_uniform_and_follows_the_global_generator():
    model = mae()
    images = torch.randn(500, 3, 32, 32)
    torch.manual_seed(3)
    _, mask, _ = model.reconstruct(images)
    torch.manual_seed(3)
    assert torch.equal(model.reconstruct(images)[1], mask)
    assert mask.sum(1).unique().tolist() == [12.0]
    assert (mask.mean(0) - 0.75).abs().max() < 0.08  # four standard deviations of 500 draws


def test_mask_false_and_none_are_the_plain_backbone():
    backbone = mae().backbone.eval()
    images = torch.randn(2, 3, 32, 32)
    (plain,) = backbone(images)
    assert plain.shape == (2, 32, 4, 4)
    assert torch.equal(backbone(images, mask=False)[0], plain) and torch.equal(
        backbone(images, mask=None)[0], plain
    )
    latent, mask, restore = backbone(images, mask=True, noise=torch.rand(2, 16))
    assert (
        latent.shape == (2, 5, 32)
        and mask.sum() == 24
        and torch.equal(restore.sort(1).values, torch.arange(16).expand(2, 16))
    )


def test_other_resolutions_run_with_resized_positions():
    model = mae()
    loss = model.loss(torch.randn(2, 3, 48, 64))['loss']
    assert loss.isfinite() and model.extract_feat(torch.randn(1, 3, 16, 40))[0].shape == (1, 32, 2, 5)


def test_a_step_trains_every_part_and_leaves_the_position_tables():
    model = mae()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.loss(torch.randn(4, 3, 32, 32))['loss'].backward()
    torch.optim.AdamW(trained, lr=1e-3).step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved != name.endswith('pos_embed'), name


@pytest.mark.parametrize('ratio', [0, 1, -0.1, 1.5])
def test_a_mask_ratio_outside_0_1_is_refused(ratio):
    with pytest.raises(ValueError, match=f'mask_ratio {ratio} is outside'):
        mae(mask_ratio=ratio)


@pytest.mark.parametrize(('ratio', 'masked'), [(0.001, 1), (0.0625, 1), (0.5, 8), (0.99, 15), (0.9999, 15)])
def test_any_ratio_inside_0_1_leaves_something_visible_and_something_masked(ratio, masked):
    model = mae(mask_ratio=ratio)
    images = torch.randn(2, 3, 32, 32)
    assert model.reconstruct(images)[1].sum(1).tolist() == [masked, masked]
    assert model.loss(images)['loss'].isfinite()


def test_a_single_patch_is_refused():
    with pytest.raises(ValueError, match='1 patch cannot be masked'):
        mae(8, 8)


@pytest.mark.parametrize('neck', [{}, {'num_patches': 8}, {'num_patches': (2, 4)}])
def test_sizes_of_neck_and_head_default_to_those_of_the_backbone(neck):
    model = MODELS.build(
        {
            'type': 'mmssl.MAE',
            'backbone': {'type': 'mmssl.MAEViT', 'arch': ARCH, 'img_size': (16, 32), 'patch_size': 8},
            'neck': {
                'type': 'mmssl.MAEDecoder',
                'decoder_embed_dim': 16,
                'decoder_depth': 1,
                'decoder_num_heads': 2,
                **neck,
            },
            'head': {'type': 'mmssl.MAEHead'},
        }
    )
    assert model.neck.grid == (2, 4) and model.head.patch_size == (8, 8)
    assert model.loss(torch.randn(2, 3, 16, 32))['loss'].isfinite()


def test_images_that_do_not_divide_name_the_nearest_size():
    with pytest.raises(ValueError, match='image 30x33 does not divide into 8x8 patches; resize it to 32x32'):
        mae().loss(torch.randn(1, 3, 30, 33))


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r'noise has shape \(2, 9\)'):
        mae().loss(torch.randn(2, 3, 32, 32), noise=torch.rand(2, 9))


@pytest.mark.parametrize(
    ('part', 'change', 'message'),
    [
        ('neck', {'embed_dim': 48}, 'embed_dim=48, but the backbone has 32 channels'),
        ('neck', {'num_patches': 25}, 'set num_patches=16'),
        ('head', {'patch_size': 4}, 'patch sizes'),
        ('head', {'loss': {'type': 'CrossEntropyLoss'}}, 'PixelReconstructionLoss'),
        ('backbone', {'arch': 'bass'}, "arch 'bass' is unknown"),
        ('backbone', {'norm_cfg': {'type': 'BN'}}, 'layer norms'),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, change, message):
    cfg = {
        'type': 'mmssl.MAE',
        'backbone': {'type': 'mmssl.MAEViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8},
        'neck': {
            'type': 'mmssl.MAEDecoder',
            'num_patches': 16,
            'patch_size': 8,
            'embed_dim': 32,
            'decoder_embed_dim': 16,
            'decoder_depth': 1,
            'decoder_num_heads': 2,
        },
        'head': {'type': 'mmssl.MAEHead', 'patch_size': 8},
    }
    cfg[part] = {**cfg[part], **change}
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_l1_loss():
    model = mae(norm_pix=False, loss={'type': 'PixelReconstructionLoss', 'criterion': 'L1'})
    pred, patches = torch.zeros(1, 2, 4), torch.tensor([[[1.0, -1, 2, 0], [0, 0, 0, 4]]])
    assert model.head.loss(pred, patches).item() == 1.0


def test_host_model_with_the_same_weights_gives_the_same_loss(monkeypatch):
    """onedl-mmpretrain's MAE: equal but for its position table, which is loaded here like other weights."""
    from mmpretrain.models.selfsup.mae import MAE, MAEViT  # noqa: F401
    from mmpretrain.registry import MODELS as HOST

    ours = mae()
    host = HOST.build(
        {
            'type': 'MAE',
            'backbone': {'type': 'MAEViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8},
            'neck': {
                'type': 'MAEPretrainDecoder',
                'num_patches': 16,
                'patch_size': 8,
                'embed_dim': 32,
                'decoder_embed_dim': 16,
                'decoder_depth': 2,
                'decoder_num_heads': 2,
            },
            'head': {
                'type': 'MAEPretrainHead',
                'norm_pix': True,
                'patch_size': 8,
                'loss': {'type': 'PixelReconstructionLoss', 'criterion': 'L2'},
            },
        }
    )
    host.load_state_dict(ours.state_dict(), strict=True)
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    monkeypatch.setattr(torch, 'rand', lambda *size, **_: noise)
    assert abs(host.loss(images, None)['loss'].item() - ours.loss(images, noise=noise)['loss'].item()) < 1e-6


def test_position_tables_are_resized_on_load_with_a_log_line(caplog):
    small, large = mae(32), mae(48)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        large.load_state_dict(small.state_dict(), strict=True)
    finally:
        logger.removeHandler(caplog.handler)
    assert 'backbone.pos_embed: position table resized from 4x4 to 6x6 patches' in caplog.text
    assert 'neck.decoder_pos_embed' in caplog.text
    assert torch.equal(large.backbone.pos_embed[:, 0], small.backbone.pos_embed[:, 0])
    assert torch.equal(large.backbone.layers[0].attn.qkv.weight, small.backbone.layers[0].attn.qkv.weight)
