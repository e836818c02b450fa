"""DINOv2: the masks, the losses against the formulas, three steps, two processes, an exact resume."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from runs import check_exact_resume
from torch import nn

from mmssl.losses import KoLeoLoss, sinkhorn
from mmssl.selfsup.dinov2 import DINOv2, MaskedPatches, draw_masked_patches, gram_loss

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
HEAD = dict(type='mmssl.DINOHead', out_dim=6, hidden_dim=12, bottleneck_dim=4, norm_last_layer=False)


def dinov2(patch_head=HEAD, **settings):
    torch.manual_seed(0)
    backbone = dict(type='mmssl.DINOv2ViT', arch=ARCH, img_size=16, patch_size=4)
    options = dict(num_crops=3, warmup_teacher_temp_epochs=0, freeze_last_layer=0, momentum=0.9)
    model = DINOv2(backbone, HEAD, patch_head, **{**options, **settings})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # the teacher differs from the student
    model.set_schedule(5, 5)
    model.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    return model.double().train()


def views(batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (16, 16, 8)
    return [torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]


def masks(crops=8, seed=0):
    return draw_masked_patches(crops, (4, 4), rng=random.Random(seed))


def test_half_of_the_crops_are_masked_by_the_ratios():
    image, patch = draw_masked_patches(40, (14, 14), rng=random.Random(0))
    counts = torch.bincount(image, minlength=40)
    assert (counts > 0).sum() == 20
    fractions = (counts[counts > 0] / 196).sort().values
    assert 0.05 < fractions[0] < 0.15 and 0.4 < fractions[-1] <= 0.5
    assert len(set(zip(image.tolist(), patch.tolist(), strict=True))) == len(image)
    assert draw_masked_patches(3, (4, 4), mask_prob=0).image.numel() == 0


def test_masked_patches_do_not_reach_the_student():
    model, (x, *_) = dinov2(), views()
    masked = MaskedPatches(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 15]))
    changed = x.unflatten(2, (4, 4)).unflatten(4, (4, 4)).clone()
    for image, patch in zip(*masked, strict=True):
        changed[image, :, patch // 4, :, patch % 4] += 3
    changed = changed.flatten(4, 5).flatten(2, 3)
    for before, after in zip(
        model.backbone.encode(x, masked), model.backbone.encode(changed, masked), strict=True
    ):
        assert torch.equal(before, after)
    assert not torch.equal(model.backbone.encode(x)[0], model.backbone.encode(changed)[0])


def expected_losses(model, inputs, masked):
    """The losses one pair of crops and one patch at a time."""
    backbone, head, patch_head = model.teacher.module
    crops = torch.cat(inputs[:2])
    cls_tokens, patches = backbone.encode(crops)
    if model.centering == 'sinkhorn':
        cls_targets = sinkhorn(head(cls_tokens), 0.07)
        patch_targets = sinkhorn(patch_head(patches[masked.image, masked.patch]), 0.07)
    else:
        cls_targets = (head(cls_tokens) / 0.07).softmax(1)
        patch_targets = (patch_head(patches[masked.image, masked.patch]) / 0.07).softmax(1)
    tokens, student_patches = model.backbone.encode(crops, masked)
    outputs = [*model.head(tokens).chunk(2), model.head(model.backbone.encode(inputs[2])[0])]
    pairs = [
        -(q * F.log_softmax(output / 0.1, dim=1)).sum(1).mean()
        for i, q in enumerate(cls_targets.chunk(2))
        for j, output in enumerate(outputs)
        if i != j
    ]
    patch_loss = torch.zeros((), dtype=torch.float64)
    for image in range(len(crops)):
        rows = (masked.image == image).nonzero()[:, 0].tolist()
        for row in rows:
            logits = model.patch_head(student_patches[image, masked.patch[row]][None])[0]
            patch_loss -= (patch_targets[row] * F.log_softmax(logits / 0.1, dim=0)).sum() / len(rows)
    koleo = sum(KoLeoLoss()(part) for part in tokens.chunk(2))
    return dict(loss_cls=sum(pairs) / 4, loss_patch=patch_loss / len(crops), loss_koleo=0.1 * koleo)


@pytest.mark.parametrize('centering', ['sinkhorn', 'center'])
def test_losses_and_gradients_by_the_formula(centering):
    model, inputs, masked = dinov2(centering=centering), views(), masks()
    expected = expected_losses(model, inputs, masked)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(sum(expected.values()), trained)
    losses = model.loss(inputs, masked=masked)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), abs=1e-10), name
    for ours, gradient in zip(torch.autograd.grad(sum(losses.values()), trained), gradients, strict=True):
        torch.testing.assert_close(ours, gradient, atol=1e-10, rtol=0)


def test_the_centres_follow_the_teacher():
    model, inputs, masked = dinov2(centering='center'), views(), masks()
    backbone, head, patch_head = model.teacher.module
    cls_tokens, patches = backbone.encode(torch.cat(inputs[:2]))
    model.loss(inputs, masked=masked)
    torch.testing.assert_close(model.dino_loss.center[0], 0.1 * head(cls_tokens).mean(0))
    mean = patch_head(patches[masked.image, masked.patch]).mean(0)
    torch.testing.assert_close(model.patch_center[0], 0.1 * mean)


def test_shared_heads_and_the_last_layers_of_the_first_epoch():
    model = dinov2(patch_head=None, freeze_last_layer=1)
    assert len(model.student) == 2
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.attach(optimizer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sum(model.loss(views(), masked=masks()).values()).backward()
    optimizer.step()
    after = model.state_dict()
    same = [
        key for key in after if key.startswith('head.last_layer') and torch.equal(after[key], before[key])
    ]
    assert same and not torch.equal(after['head.mlp.0.weight'], before['head.mlp.0.weight'])
    assert not torch.equal(after['backbone.mask_token'], before['backbone.mask_token'])
    momentum = 0.9
    key = 'teacher.module.0.layers.0.attn.qkv.weight'
    expected = momentum * before[key] + (1 - momentum) * after['backbone.layers.0.attn.qkv.weight']
    torch.testing.assert_close(after[key], expected)
    assert model.teacher.current_momentum() == pytest.approx(1 - 0.1 * (math.cos(math.pi / 5) + 1) / 2)


def test_gram_loss_by_hand_and_in_the_method():
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    reference = torch.tensor([[[3.0, 0.0], [5.0, 0.0]]])
    assert gram_loss(features, reference).item() == pytest.approx(0.5)
    model = dinov2(gram_weight=2.0)
    assert 'loss_gram' in model.loss(views(), masked=masks())
    assert not any(parameter.requires_grad for parameter in model.gram_teacher.parameters())


def gradients(rank, world):
    model = dinov2(koleo_weight=0.0)
    masked = masks(8)
    inputs = [view.chunk(world)[rank] for view in views()]
    batch = len(inputs[0])
    # crops of this rank: its part of the first global crop, then of the second
    own = torch.cat([torch.arange(batch) + rank * batch + crop * 4 for crop in range(2)])
    chosen = [
        (own.tolist().index(image), patch)
        for image, patch in zip(*(index.tolist() for index in masked), strict=True)
        if image in own
    ]
    part = MaskedPatches(*torch.tensor(chosen).T)
    sum(model.loss(inputs, masked=part).values()).backward()
    result = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for gradient in result:
        if world > 1:
            torch.distributed.all_reduce(gradient)
            gradient /= world
    return result


def test_two_processes_train_as_one(two_ranks):
    first, second = two_ranks(gradients, 2)
    for one, a, b in zip(gradients(0, 1), first, second, strict=True):
        torch.testing.assert_close(a, one, atol=1e-8, rtol=0)
        assert torch.equal(a, b)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="centering='mean'"):
        dinov2(centering='mean')
    with pytest.raises(ValueError, match=r'use mmssl\.DINOv2ViT'):
        DINOv2(nn.Linear(2, 2), HEAD)


def test_resume_is_exact(tmp_path):
    check_exact_resume('dinov2', tmp_path, 5)
