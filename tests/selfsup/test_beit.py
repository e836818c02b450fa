"""BEiT against a plain reading of the paper, mmpretrain and two processes; a resumed run; refusals."""

import math
import random
import re

import numpy as np
import pytest
import torch
from runs import check_exact_resume

from mmssl.layers.beit_vit import BEiTViT, resize_bias_table
from mmssl.layers.masking import copy_patches, random_patch_mask, split_replacement
from mmssl.registry import MODELS
from mmssl.selfsup.beit import BEiT, blockwise_mask

F64 = torch.float64
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def beit(img_size=(24, 32), seed=0, dtype=F64, tokenizer=None, layer_scale=0.1, preprocess=True, **kwargs):
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(
            type='mmssl.BEiT',
            backbone=dict(
                type='mmssl.BEiTViT',
                arch=ARCH,
                img_size=img_size,
                patch_size=8,
                layer_scale_init_value=layer_scale,
                **kwargs.pop('backbone', {}),
            ),
            tokenizer=tokenizer
            or dict(type='mmssl.KMeansTokenizer', checkpoint='random', num_tokens=7, patch_size=8),
            data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True) if preprocess else None,
            **{'num_masked': 5, 'min_masked': 2, **kwargs},
        )
    )
    for parameter in model.parameters():  # nothing at a neutral start
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    return model.to(dtype)


# masks


@pytest.fixture(scope='module')
def masks():
    rng = random.Random(0)
    return np.stack([blockwise_mask((14, 14), 75, 16, rng) for _ in range(3000)])


def test_masks_have_the_numbers_of_the_released_code(masks):
    counts = masks.sum((1, 2))
    assert masks.shape == (3000, 14, 14) and masks.dtype == bool
    assert counts.max() == 75 and counts.min() >= 60 and abs(counts.mean() - 74.5) < 0.15
    assert (counts == 75).mean() < 0.75  # the host fills up to exactly 75


def test_the_last_row_and_column_are_masked_as_often_as_the_first(masks):
    for first, last in ((masks[:, 0], masks[:, -1]), (masks[:, :, 0], masks[:, :, -1])):
        assert abs(first.mean() - last.mean()) < 0.02 and last.mean() > 0.1


def test_the_hosts_masks_never_reach_them():
    from mmpretrain.datasets.transforms.processing import BEiTMaskGenerator

    np.random.seed(0)
    host = BEiTMaskGenerator(input_size=(14, 14), num_masking_patches=75, min_num_patches=16)
    theirs = np.stack([host({})['mask'] for _ in range(300)])
    assert theirs[:, -1].sum() == 0 and theirs[:, :, -1].sum() == 0 and (theirs.sum((1, 2)) == 75).all()


def test_random_masks_have_single_patches_of_every_position():
    rng = random.Random(0)
    masks = np.stack([random_patch_mask((6, 8), 19, rng) for _ in range(3000)])
    assert (masks.sum((1, 2)) == 19).all()
    assert abs(masks.mean(0) - 19 / 48).max() < 0.04


# BERT's replacement


def test_shares_of_the_replacement_are_those_of_bert():
    torch.manual_seed(0)
    by_token, by_patch = split_replacement(50000, (0.8, 0.1, 0.1))
    assert not (by_token & by_patch).any()
    assert abs(by_token.float().mean() - 0.8) < 0.01 and abs(by_patch.float().mean() - 0.1) < 0.01


def test_patches_are_copied_pixel_by_pixel():
    images = torch.randn(2, 3, 12, 16)
    sources, targets = torch.tensor([0, 17, 5]), torch.tensor([23, 4, 0])
    expected = images.clone()
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        (a, i, j), (b, k, m) = ((n // 12, n % 12 // 4, n % 4) for n in (source, target))
        expected[b, :, 4 * k : 4 * k + 4, 4 * m : 4 * m + 4] = images[
            a, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4
        ]
    assert torch.equal(copy_patches(images, sources, targets, (4, 4)), expected)


@pytest.mark.parametrize('shares', [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.25, 0.25)])
def test_loss_of_replaced_patches_by_hand(shares):
    model = beit(replacement=shares)
    images, mask = torch.randn(2, 3, 24, 32, dtype=F64), torch.rand(2, 3, 4) < 0.5
    torch.manual_seed(3)
    loss = model.loss(images, mask=mask)['loss']
    torch.manual_seed(3)
    rows = mask.flatten().nonzero().squeeze(1)
    draws = torch.rand(len(rows))
    swapped = rows[(draws >= shares[0]) & (draws < shares[0] + shares[1])]
    seen = copy_patches(images, torch.randint(24, (len(swapped),)), swapped, (8, 8))
    covered = torch.zeros(24, dtype=torch.bool)
    covered[rows[draws < shares[0]]] = True
    features = model.backbone.encode_masked(seen, covered.view(2, 3, 4), rows)
    tokens = model.tokens(images, rows, (3, 4))  # always those of the images as they were
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(model.head(features), tokens), atol=1e-12)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(masking='grid', min_masked=None), "masking='grid' must be 'block' or 'random'"),
        (dict(masking='random'), 'min_masked=2 is the area of a rectangle'),
        (dict(replacement=(0.8, 0.1, 0.2)), 'must be three shares that sum to 1'),
        (dict(replacement=(0.8, 0.2)), 'must be three shares that sum to 1'),
    ],
)
def test_wrong_masking_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        beit(**options)


def test_masks_follow_the_algorithm_step_by_step():
    """Algorithm 1 patch by patch with the same draws."""
    for seed in range(30):
        rng, rows, columns, total = random.Random(seed), 9, 12, 40
        masked, expected = set(), blockwise_mask((rows, columns), total, 6, random.Random(seed))
        while len(masked) < total:
            added = 0
            for _ in range(10):
                size = rng.uniform(6, total - len(masked))
                ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
                a, b = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
                if a >= rows or b >= columns:
                    continue
                top, left = rng.randint(0, rows - a), rng.randint(0, columns - b)
                new = {(i, j) for i in range(top, top + a) for j in range(left, left + b)} - masked
                if 0 < len(new) <= total - len(masked):
                    masked |= new
                    added = len(new)
                    break
            if not added:
                break
        assert masked == {(int(i), int(j)) for i, j in np.argwhere(expected)}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((4, 4), 17), 'num_patches=17 of a grid of 4x4 patches; about 40 % are usual, 6'),
        (((4, 4), 0), 'num_patches=0'),
        (((4, 4), 6, 7), 'min_patches=7 must be between 1 and num_patches=6'),
        (((4, 4), 6, 2, random, 0), 'min_aspect=0'),
    ],
)
def test_impossible_masks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        blockwise_mask(*arguments)


# the loss


def reference(model, images, mask):
    """Loss of BEiT from the paper, one image, head and token at a time."""
    weights, (rows, columns) = dict(model.named_parameters()), mask.shape[1:]
    centroids = model.target_generator.centroids

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[
            f'{name}.weight'
        ] + weights[f'{name}.bias']

    def dense(x, name):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    table = weights['backbone.rel_pos_bias.relative_position_bias_table']
    positions = [None] + [(i, j) for i in range(rows) for j in range(columns)]

    def bias(query, key, head):
        if query is None or key is None:
            return table[-1 if query is key else -3 if query is None else -2, head]
        return table[
            (query[0] - key[0] + rows - 1) * (2 * columns - 1) + query[1] - key[1] + columns - 1, head
        ]

    total, count = 0.0, 0
    for image, hidden in zip(images, mask, strict=True):
        patches = [
            image[:, i * 8 : i * 8 + 8, j * 8 : j * 8 + 8] for i in range(rows) for j in range(columns)
        ]
        x = [weights['backbone.cls_token'][0, 0]]
        for patch, gone in zip(patches, hidden.flatten(), strict=True):
            x.append(
                weights['backbone.mask_token'][0, 0]
                if gone
                else (weights['backbone.patch_embed.projection.weight'] * patch).sum((1, 2, 3))
                + weights['backbone.patch_embed.projection.bias']
            )
        x = torch.stack(x)
        for layer in range(ARCH['num_layers']):
            name = f'backbone.layers.{layer}'
            joined = norm(x, f'{name}.ln1') @ weights[f'{name}.attn.qkv.weight'].T
            query, key, value = joined.split(16, dim=1)
            query, value = query + weights[f'{name}.attn.q_bias'], value + weights[f'{name}.attn.v_bias']
            outs = []
            for head in range(2):
                part = slice(8 * head, 8 * head + 8)
                added = torch.stack([bias(a, b, head) for a in positions for b in positions]).view(
                    len(x), len(x)
                )
                scores = query[:, part] @ key[:, part].T / math.sqrt(8) + added
                outs.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, part])
            x = x + weights[f'{name}.gamma_1'] * dense(torch.cat(outs, 1), f'{name}.attn.proj')
            inner = dense(norm(x, f'{name}.ln2'), f'{name}.ffn.layers.0.0')
            x = x + weights[f'{name}.gamma_2'] * dense(
                inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))), f'{name}.ffn.layers.1'
            )
        logits = dense(norm(x, 'backbone.ln1'), 'head.cls_head')[1:]
        for n, gone in enumerate(hidden.flatten()):
            if not gone:
                continue
            pixels = (
                patches[n] * torch.tensor(STD, dtype=F64).view(3, 1, 1)
                + torch.tensor(MEAN, dtype=F64).view(3, 1, 1)
            ) / 255
            pixels = pixels.permute(1, 2, 0).flatten()
            pixels = (pixels - pixels.mean()) / (pixels.var(correction=0) + 1e-3).sqrt()
            token = min(range(len(centroids)), key=lambda k: (pixels - centroids[k]).square().sum().item())
            total, count = total - logits[n, token] + logits[n].exp().sum().log(), count + 1
    return total / count


def some_masks(batch=2, grid=(3, 4)):
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    for n in range(batch):
        mask[n, n % 2 :, :2] = True
        mask[n, -1, -1] = True
    return mask


def test_three_steps_equal_the_paper():
    """Loss, gradients and weights after each of three steps; the tokenizer stays what it was."""
    model, other = beit(), beit()
    images, mask = torch.randn(2, 3, 24, 32, dtype=F64), some_masks()
    before = model.target_generator.centroids.clone()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for step in range(3):
        expected = reference(other, images.roll(step, 3), mask)
        loss = model.loss([images.roll(step, 3)], mask=mask)['loss']
        assert abs(loss.item() - expected.item()) < 1e-12
        other.zero_grad()
        expected.backward()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter -= 0.1 * parameter.grad
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for (name, parameter), expected in zip(model.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, atol=1e-12, rtol=0, msg=name)
    assert torch.equal(model.target_generator.centroids, before)


def test_logits_of_zero_give_the_logarithm_of_the_number_of_tokens():
    model = beit()
    torch.nn.init.zeros_(model.head.cls_head.weight)
    torch.nn.init.zeros_(model.head.cls_head.bias)
    assert model.loss(torch.randn(2, 3, 24, 32, dtype=F64))['loss'].item() == pytest.approx(
        math.log(7), abs=1e-12
    )


def test_masked_patches_are_invisible_and_visible_ones_have_no_target():
    model, mask = beit(), some_masks(1)
    images = torch.randn(1, 3, 24, 32, dtype=F64)
    loss = model.loss(images, mask=mask)['loss']
    hidden = mask[:, None].repeat_interleave(8, 2).repeat_interleave(8, 3)
    rows = mask.flatten().nonzero().squeeze(1)
    changed = torch.where(hidden, images + torch.randn_like(images), images)
    assert torch.equal(
        model.backbone.encode_masked(changed, mask, rows), model.backbone.encode_masked(images, mask, rows)
    )
    assert torch.equal(
        model.tokens(torch.where(hidden, images, 0 * images), rows), model.tokens(images, rows)
    )
    assert not torch.equal(loss, model.loss(torch.where(hidden, images, 0 * images), mask=mask)['loss'])


def test_last_layer_for_masked_patches_alone_equals_all_of_it():
    model, mask = beit(), some_masks()
    images = torch.randn(2, 3, 24, 32, dtype=F64)
    model.backbone.out_type = 'raw'
    whole = model.backbone(images, mask)[0][:, 1:].flatten(0, 1)[mask.flatten()]
    torch.testing.assert_close(
        model.backbone.encode_masked(images, mask, mask.flatten().nonzero().squeeze(1)),
        whole,
        atol=1e-13,
        rtol=0,
    )


def test_drop_path_drops_whole_samples_in_the_last_layer_too():
    model = beit(backbone=dict(drop_path_rate=0.5), dtype=torch.float32)
    block, x, rows = (
        model.backbone.layers[-1].train(),
        torch.randn(6, 13, 16),
        torch.tensor([1, 5, 14, 30, 44, 45, 77]),
    )
    assert block.drop_path.drop_prob == 0.5
    for _ in range(20):
        out = block(x, (3, 4), None, rows)
        moved = ~torch.isclose(out, x.flatten(0, 1)[rows]).all(1)
        assert moved[0] == moved[1] and moved[4 - 1] == moved[3]
        assert out.shape == (7, 16)
    block.eval()
    torch.testing.assert_close(block(x, (3, 4), None, rows), block(x, (3, 4)).flatten(0, 1)[rows])


def test_masks_are_drawn_from_pythons_generator_and_taken_from_samples():
    from mmpretrain.structures import DataSample

    model = beit()
    images = torch.randn(2, 3, 24, 32, dtype=F64)
    random.seed(3)
    loss = model.loss([images])['loss']
    random.seed(3)
    mask = model.draw_masks(2, (3, 4))
    assert mask.shape == (2, 3, 4) and mask.sum() <= 10
    assert torch.equal(loss, model.loss([images], mask=mask)['loss'])
    assert torch.equal(
        loss, model.loss([images], [DataSample().set_mask(sample.numpy()) for sample in mask])['loss']
    )
    assert torch.equal(loss, model.loss([images], [DataSample(), DataSample()], mask)['loss'])


def test_nothing_masked_is_a_loss_of_zero_with_gradients():
    model = beit()
    loss = model.loss(torch.randn(2, 3, 24, 32, dtype=F64), mask=torch.zeros(2, 3, 4, dtype=torch.bool))[
        'loss'
    ]
    loss.backward()
    assert loss.item() == 0 and all(
        parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad
    )


def test_bfloat16_is_near():
    model = beit((32, 32), dtype=torch.float32)
    images, mask = torch.randn(4, 3, 32, 32), some_masks(4, (4, 4))
    loss = model.loss(images, mask=mask)['loss']
    with torch.autocast('cpu', torch.bfloat16):
        half = model.loss(images, mask=mask)['loss']
    half.backward()
    assert half.dtype == torch.float32 and abs(half.item() - loss.item()) < 0.05


# the host


def test_host_model_with_the_same_weights_and_masks_gives_the_same_loss_and_gradients():
    """onedl-mmpretrain's BEiT with its DALL-E encoder; both load the other's state dict strictly."""
    from mmpretrain.models.selfsup.beit import BEiT as HostBEiT  # noqa: F401, registers it
    from mmpretrain.registry import MODELS as HOST
    from mmpretrain.structures import DataSample

    arch = {**ARCH, 'num_layers': 3}
    host = HOST.build(
        dict(
            type='mmpretrain.BEiT',
            backbone=dict(type='mmpretrain.BEiTPretrainViT', arch=arch, img_size=32, patch_size=8),
            neck=None,
            head=dict(
                type='mmpretrain.BEiTV1Head',
                embed_dims=16,
                num_embed=12,
                loss=dict(type='mmpretrain.CrossEntropyLoss'),
            ),
            target_generator=dict(type='mmpretrain.DALL-E', n_hid=8, vocab_size=12),
            data_preprocessor=dict(
                type='mmpretrain.TwoNormDataPreprocessor',
                mean=MEAN,
                std=STD,
                second_mean=[-31.875] * 3,
                second_std=[318.75] * 3,
                to_rgb=True,
            ),
        )
    )
    ours = MODELS.build(
        dict(
            type='mmssl.BEiT',
            backbone=dict(type='mmssl.BEiTViT', arch=arch, img_size=32, patch_size=8),
            num_masked=6,
            min_masked=2,
            tokenizer=dict(type='mmssl.DALLEEncoder', checkpoint='random', num_tokens=12, n_hid=8),
            data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
        )
    )
    for parameter in host.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    ours.load_state_dict(host.state_dict(), strict=True)
    host.load_state_dict(ours.state_dict(), strict=True)
    views = [torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8) for size in (32, 32)]
    mask = ours.draw_masks(3, (4, 4), random.Random(0))
    samples = [DataSample().set_mask(image_mask) for image_mask in mask]
    losses = []
    for model in (ours, host):
        inputs = model.data_preprocessor(dict(inputs=views, data_samples=samples), True)['inputs']
        losses.append(model.loss(inputs, samples)['loss'])
        losses[-1].backward()
    assert abs(losses[0].item() - losses[1].item()) < 1e-6
    grads = dict(host.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, grads[name].grad, atol=1e-6, rtol=1e-4, msg=name)
    inputs = ours.data_preprocessor(dict(inputs=views, data_samples=samples))['inputs']
    ours.backbone.out_type = 'raw'
    torch.testing.assert_close(
        ours.eval().extract_feat(inputs[0])[0], host.eval().extract_feat(inputs[0])[0], atol=1e-6, rtol=1e-5
    )
    # the host's own normalisation of the second view is undone too
    mapped = host.data_preprocessor(dict(inputs=views, data_samples=samples))['inputs'][1]
    ours.data_preprocessor = host.data_preprocessor
    assert torch.equal(ours.tokens(mapped), host.target_generator(mapped).argmax(1).flatten())


# initial weights


def test_initial_weights_are_the_released_ones():
    torch.manual_seed(0)
    backbone = BEiTViT(
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=32,
        patch_size=8,
    )
    for depth, layer in enumerate(backbone.layers, 1):
        deep = math.sqrt(2 * depth)
        for weight, scale in (
            (layer.attn.qkv.weight, 1),
            (layer.attn.proj.weight, deep),
            (layer.ffn.layers[0][0].weight, 1),
            (layer.ffn.layers[1].weight, deep),
        ):
            scaled = weight * scale
            assert 0.0199 < scaled.abs().max() <= 0.02 + 1e-9  # cut at one standard deviation
            assert abs(scaled.std().item() / 0.02 - 0.5396) < 0.02  # which leaves 0.54 of it
        assert layer.gamma_1.tolist() == layer.gamma_2.tolist() == [pytest.approx(0.1)] * 64
        assert not layer.attn.q_bias.any() and not layer.attn.v_bias.any() and layer.attn.qkv.bias is None
    assert 0.015 < backbone.mask_token.abs().max() <= 0.02 and 0.015 < backbone.cls_token.abs().max() <= 0.02
    table = backbone.rel_pos_bias.relative_position_bias_table
    assert table.shape == (7 * 7 + 3, 4) and not table.any()
    assert BEiTViT(
        arch='t', img_size=224, layer_scale_init_value=0
    ).rel_pos_bias.relative_position_bias_table.shape == (732, 3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(3.0)
    backbone.init_weights()
    assert all(parameter.abs().max() <= 1 for parameter in backbone.parameters())


# relative positions at other sizes


def test_shared_table_is_copied_to_layers_and_fitted_to_another_grid(tmp_path):
    small = BEiTViT(arch=ARCH, img_size=32, patch_size=8)
    torch.nn.init.normal_(small.rel_pos_bias.relative_position_bias_table)
    file = tmp_path / 'pre.pth'
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in small.state_dict().items()}), file)
    tuned = BEiTViT(
        arch=ARCH,
        img_size=32,
        patch_size=8,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
        with_mask_token=False,
        init_cfg=dict(type='Pretrained', checkpoint=str(file), prefix='backbone.'),
    )
    tuned.init_weights()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tuned.eval()(images)[0], small.eval()(images)[0])
    large = BEiTViT(arch=ARCH, img_size=(48, 64), patch_size=8)
    large.load_state_dict(small.state_dict(), strict=True)
    images = torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(large.eval()(images)[0], small(images)[0])  # fitted when loaded, and when run
    table = small.rel_pos_bias.relative_position_bias_table
    fitted = large.rel_pos_bias.relative_position_bias_table
    assert fitted.shape == (11 * 15 + 3, 2) and torch.equal(fitted[-3:], table[-3:])
    torch.testing.assert_close(fitted[5 * 15 + 7], table[3 * 7 + 3])  # no offset stays no offset
    torch.testing.assert_close(fitted[[0, 11 * 15 - 1]], table[[0, 7 * 7 - 1]])  # corner to corner
    assert resize_bias_table(table, (4, 4), (4, 4)) is table


def test_layer_depths_for_layer_decay():
    backbone = BEiTViT(arch=ARCH, img_size=32, patch_size=8, out_type='avg_featmap', final_norm=False)
    depths = {
        name: backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in backbone.named_parameters()
    }
    assert depths['cls_token'] == depths['mask_token'] == depths['patch_embed.projection.weight'] == (0, 4)
    assert depths['layers.0.gamma_1'] == (1, 4) and depths['layers.1.attn.q_bias'] == (2, 4)
    assert (
        depths['ln2.weight']
        == depths['rel_pos_bias.relative_position_bias_table']
        == backbone.get_layer_depth('head.fc.weight', 'backbone.')
        == (3, 4)
    )


@pytest.mark.parametrize(
    ('out_type', 'shape'),
    [('featmap', (2, 16, 3, 4)), ('raw', (2, 13, 16)), ('cls_token', (2, 16)), ('avg_featmap', (2, 16))],
)
def test_outputs_and_frozen_stages(out_type, shape):
    backbone = BEiTViT(
        arch=ARCH, img_size=(24, 32), patch_size=8, out_type=out_type, out_indices=(0, 1), frozen_stages=1
    ).train()
    outs = backbone(torch.randn(2, 3, 24, 32))
    assert [tuple(out.shape) for out in outs] == [shape, shape]
    outs[-1].sum().backward()
    assert (
        backbone.layers[0].gamma_1.grad is None
        and backbone.layers[1].gamma_1.grad is not None
        and not backbone.layers[0].training
    )


# two processes


def data_of_rank(rank):
    generator = torch.Generator().manual_seed(5)
    images, mask = torch.randn(4, 3, 24, 32, dtype=F64, generator=generator), some_masks(4)
    part = slice(2 * rank, 2 * rank + 2)
    return (images, mask) if rank is None else (images[part], mask[part])


def train_rank(rank):
    model = torch.nn.parallel.DistributedDataParallel(beit(seed=rank))  # the weights are those of rank 0
    images, mask = data_of_rank(rank)
    loss = model.module.loss
    model.module.forward = lambda *inputs: loss(inputs[0], mask=inputs[1])['loss']
    value = model(images, mask)
    value.backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.module.named_parameters()}
    model.zero_grad()
    # nothing is masked on one rank: the other does not wait for it
    model(images, mask if rank else torch.zeros_like(mask)).backward()
    return value.detach(), grads


def test_two_processes_give_the_gradients_of_a_single_process(two_ranks):
    (first, grads), (second, others) = two_ranks(train_rank)
    generator = torch.Generator().manual_seed(5)
    model = beit()
    loss = model.loss(torch.randn(4, 3, 24, 32, dtype=F64, generator=generator), mask=some_masks(4))['loss']
    loss.backward()
    counts = some_masks(4).view(2, -1).sum(1).tolist()
    assert counts[0] == counts[1] and abs((first + second).item() / 2 - loss.item()) < 1e-12
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=1e-12, rtol=0)
        assert torch.equal(grads[name], others[name])


# a run


def test_a_run_is_resumed_exactly(tmp_path):
    straight, saved = check_exact_resume('beit', tmp_path, 5)
    name = 'target_generator.centroids'
    assert len(straight.losses) == 10 and torch.equal(saved[name], straight.model[name])


# errors


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_masked=13), 'num_patches=13 of a grid of 3x4'),
        (dict(num_masked=3, min_masked=4), 'min_patches=4'),
        (
            dict(head=dict(num_embed=9)),
            'the head maps 16 values to 9 tokens; the backbone has 16 channels and the tokenizer 7 tokens',
        ),
        (dict(backbone=dict(with_mask_token=False)), 'no mask token'),
        (
            dict(tokenizer=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8)),
            'a ViT is no tokenizer',
        ),
        (dict(backbone=dict(use_rel_pos_bias=True)), 'exclude each other'),
        (dict(backbone=dict(out_type='map')), "out_type 'map'"),
        (dict(backbone=dict(out_indices=2)), 'not layers of a ViT of 2 layers'),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        beit(**change)


def test_wrong_inputs_are_refused():
    model = beit()
    images = torch.randn(2, 3, 24, 32, dtype=F64)
    with pytest.raises(ValueError, match='takes one view, or two of the same crop, not 3'):
        model.loss([images] * 3)
    with pytest.raises(
        ValueError, match='makes 2x2 tokens of an image of 16x16, the backbone 3x4 patches; set second_scale'
    ):
        model.loss([images, images[..., :16, :16]])
    with pytest.raises(
        ValueError, match=r'mask has shape \(2, 4, 3\); 2 images of 3x4 patches need \(2, 3, 4\)'
    ):
        model.loss(images, mask=torch.ones(2, 4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match='resize it to 24x32'):
        model.loss(torch.randn(2, 3, 25, 32, dtype=F64))


def test_numbers_left_out_are_the_papers():
    model = BEiT(
        backbone=dict(type='BEiTViT', arch='t', img_size=224),
        tokenizer=dict(type='KMeansTokenizer', checkpoint='random', num_tokens=4),
    )
    assert (model.num_masked, model.min_masked) == (75, 16)
    assert model.head.cls_head.weight.shape == (4, 192)
