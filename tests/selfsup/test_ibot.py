"""iBOT: losses, gradients and centres by the formulas of the paper, one and two processes, refusals."""

import random

import pytest
import torch
from torch import nn

from mmssl.selfsup.dinov2 import MaskedPatches, draw_masked_patches
from mmssl.selfsup.ibot import IBOT

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
HEAD = dict(type='mmssl.DINOHead', out_dim=6, hidden_dim=12, bottleneck_dim=4, norm_last_layer=False)
TEACHER_TEMP, STUDENT_TEMP = 0.05, 0.1


def ibot(**settings):
    torch.manual_seed(0)
    backbone = dict(type='mmssl.DINOv2ViT', arch=ARCH, img_size=16, patch_size=4)
    options = dict(num_crops=3, teacher_temp=TEACHER_TEMP, freeze_last_layer=0, momentum=0.9)
    model = IBOT(backbone, HEAD, **{**options, **settings})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # the teacher differs from the student
    model.set_schedule(5, 5)
    model.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    return model.double().train()


def views(seed=0, batch=4):
    generator = torch.Generator().manual_seed(seed)
    sizes = (16, 16, 8)
    return [torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]


def masks(seed=0):
    return draw_masked_patches(8, (4, 4), rng=random.Random(seed))


def cross_entropy(target, output):
    """H of a distribution and logits (K,), by the definition."""
    logits = output / STUDENT_TEMP
    return -sum(p * (logit - logits.exp().sum().log()) for p, logit in zip(target, logits, strict=True))


def by_formula(model, inputs, masked, cls_center, patch_center):
    """Both losses of the paper, one pair of views and one patch at a time, and the two new centres."""
    with torch.no_grad():
        backbone, head = model.teacher.module
        tokens, patches = backbone.encode(torch.cat(inputs[:2]))
        teacher, teacher_patches = head(tokens), torch.stack([head(image) for image in patches])
    tokens, patches = model.backbone.encode(torch.cat(inputs[:2]), masked)
    local = model.backbone.encode(inputs[2])[0]
    student = [*model.head(tokens).chunk(2), model.head(local)]
    pairs = []
    for i, outputs in enumerate(teacher.chunk(2)):
        targets = ((outputs - cls_center) / TEACHER_TEMP).softmax(1)
        for j in range(3):
            if i != j:
                pairs += [cross_entropy(p, q) for p, q in zip(targets, student[j], strict=True)]
    mim = 0
    for image in range(8):
        rows = masked.patch[masked.image == image].tolist()
        for row in rows:
            token = ((teacher_patches[image, row] - patch_center) / TEACHER_TEMP).softmax(0)
            mim = mim + cross_entropy(token, model.head(patches[image, row][None])[0]) / len(rows) / 8
    centers = [
        0.9 * center + 0.1 * outputs.mean(0)
        for center, outputs in ((cls_center, teacher), (patch_center, teacher_patches.flatten(0, 1)))
    ]
    return torch.stack([sum(pairs) / len(pairs), mim]), centers


def test_losses_gradients_and_centres_equal_the_formulas():
    model, centers = ibot(cls_weight=0.5, patch_weight=2.0), [torch.zeros(6).double()] * 2
    trained = list(model.student.parameters())
    for number in range(3):
        inputs, masked = views(number), masks(number)
        losses = model.loss(inputs, masked=masked)
        expected, centers = by_formula(model, inputs, masked, *centers)
        expected = expected * torch.tensor([0.5, 2.0])
        torch.testing.assert_close(torch.stack(list(losses.values())), expected, atol=1e-12, rtol=0)
        for ours, gradient in zip(
            torch.autograd.grad(sum(losses.values()), trained),
            torch.autograd.grad(expected.sum(), trained),
            strict=True,
        ):
            torch.testing.assert_close(ours, gradient, atol=1e-12, rtol=0)
        torch.testing.assert_close(model.dino_loss.center[0], centers[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(model.patch_center[0], centers[1], atol=1e-12, rtol=0)
    model.eval().loss(views(3), masked=masks(3))
    torch.testing.assert_close(model.patch_center[0], centers[1], atol=1e-12, rtol=0)


def test_one_view_is_enough_without_the_class_token():
    model, (x, *_) = ibot(cls_weight=0.0), views()
    masked = MaskedPatches(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 15]))
    (loss,) = model.loss(x, masked=masked).values()
    loss.backward()
    assert model.backbone.mask_token.grad.abs().max() > 0
    # what a masked patch shows reaches the tokens, and not the student
    changed = x.clone()
    changed[2, :, 12:, 12:] += 3
    assert torch.equal(model.backbone.encode(x, masked)[1], model.backbone.encode(changed, masked)[1])
    model.patch_center.zero_()
    assert model.loss(changed, masked=masked)['loss_patch'] != loss
    assert set(ibot(patch_weight=0.0).loss(views())) == {'loss_cls'}


def train_on_ranks(rank):
    model = ibot()
    inputs = [view.chunk(2)[rank] for view in views()]
    model.loss(inputs, masked=MaskedPatches(torch.tensor([0]), torch.tensor([3])))
    return model.patch_center, model.dino_loss.center


def test_two_processes_have_the_centres_of_one(two_ranks):
    model = ibot()
    model.loss(views(), masked=masks())
    for patch_center, center in two_ranks(train_on_ranks):
        torch.testing.assert_close(patch_center, model.patch_center, atol=1e-12, rtol=0)
        torch.testing.assert_close(center, model.dino_loss.center, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(cls_weight=0.0, patch_weight=0.0), 'nothing is learned if both are 0'),
        (dict(patch_weight=-1.0), 'patch_weight=-1.0 of IBOT'),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ibot(**settings)


def test_a_backbone_without_mask_token_is_refused():
    with pytest.raises(ValueError, match=r'DINOViT, which has no mask token; use mmssl\.DINOv2ViT'):
        IBOT(dict(type='mmssl.DINOViT', arch=ARCH, img_size=16, patch_size=4), HEAD)
