"""DINOv2: the masks, three steps against the formulas and lightly, two processes, an exact resume."""

import copy
import math
import random

import pytest
import torch
import torch.nn.functional as F
from runs import check_exact_resume
from torch import nn

from mmssl.selfsup.dinov2 import (
    DINOv2,
    DINOv2ViT,
    MaskedPatches,
    draw_masked_patches,
    gram_loss,
    no_patches,
)

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
TEMPERATURE = 0.0625  # of the teacher; lightly rounds others to float32
HEAD = dict(type='mmssl.DINOHead', out_dim=6, hidden_dim=12, bottleneck_dim=4, norm_last_layer=False)


def dinov2(patch_head=HEAD, **settings):
    torch.manual_seed(0)
    backbone = dict(type='mmssl.DINOv2ViT', arch=ARCH, img_size=16, patch_size=4)
    options = dict(num_crops=3, warmup_teacher_temp_epochs=0, freeze_last_layer=0, momentum=0.9)
    options['teacher_temp'] = TEMPERATURE
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


def classic_sinkhorn(logits):
    """Sinkhorn-Knopp on exponentials (SwAV, appendix A), (B, K) to codes (B, K)."""
    codes = (logits / TEMPERATURE).exp()
    for _ in range(3):
        codes = codes / codes.sum(dim=0, keepdim=True)
        codes = codes / codes.sum(dim=1, keepdim=True)
    return codes


class Formula:
    """The losses of the papers, one pair of crops, one patch and one distance at a time."""

    def __init__(self, centering, world=1):
        self.sinkhorn, self.world = centering == 'sinkhorn', world
        self.centers = [torch.zeros(6, dtype=torch.float64) for _ in range(2)]

    def targets(self, index, logits, image):
        if self.sinkhorn:
            return classic_sinkhorn(logits)
        targets = ((logits - self.centers[index]) / TEMPERATURE).softmax(1)
        rank = image % 4 * self.world // 4  # processes count alike, whatever their number of patches
        mean = sum(logits[rank == i].mean(0) for i in range(self.world)) / self.world
        self.centers[index] = 0.9 * self.centers[index] + 0.1 * mean
        return targets

    def cls(self, teacher, student):
        targets = self.targets(0, teacher, torch.arange(8)).chunk(2)
        pairs = [
            -(q * F.log_softmax(output / 0.1, dim=1)).sum(1).mean()
            for i, q in enumerate(targets)
            for j, output in enumerate(student)
            if i != j
        ]
        return sum(pairs) / len(pairs)

    def patch(self, teacher, student, masked):
        targets, total = self.targets(1, teacher, masked.image), 0
        for image in masked.image.unique():
            rows = (masked.image == image).nonzero()[:, 0]
            entropies = [-(targets[row] * F.log_softmax(student[row] / 0.1, dim=0)).sum() for row in rows]
            total = total + sum(entropies) / len(entropies)
        return total / 8

    def koleo(self, tokens):
        x = tokens / tokens.norm(dim=1, keepdim=True)
        far = 9 * torch.eye(len(x), dtype=x.dtype)  # no feature is its own neighbour
        squares = (x.unsqueeze(1) - x.unsqueeze(0)).square().sum(2) + far
        return -squares.amin(1).sqrt().log().mean()


class Lightly:
    """The same losses by lightly's modules."""

    def __init__(self, centering):
        loss = pytest.importorskip('lightly.loss')
        from lightly.loss.swav_loss import sinkhorn

        self.sinkhorn = sinkhorn if centering == 'sinkhorn' else None
        momentum = 1.0 if self.sinkhorn else 0.9  # at 1 the centre stays at 0
        settings = dict(teacher_temp=TEMPERATURE, center_momentum=momentum)
        self.dino = loss.DINOLoss(6, warmup_teacher_temp_epochs=0, **settings).double()
        self.ibot = loss.IBOTPatchLoss(6, **settings).double()
        self.koleo = loss.KoLeoLoss()

    def logits(self, logits):
        """Logits of which the softmax is the code."""
        return self.sinkhorn(logits, 3, TEMPERATURE).log() * TEMPERATURE if self.sinkhorn else logits

    def cls(self, teacher, student):
        return self.dino(list(self.logits(teacher).chunk(2)), list(student))

    def patch(self, teacher, student, masked):
        mask = torch.zeros(8, 4, 4, dtype=torch.bool)
        mask.view(8, 16)[masked.image, masked.patch] = True
        order = (masked.image * 16 + masked.patch).argsort()  # lightly weights patches in the mask's order
        return self.ibot(self.logits(teacher)[order], student[order], mask)


class ReferenceRun:
    """Training by hand: plain descent, moving average of the teacher, losses of ``losses``.

    ``world`` is the number of processes, of which each has a KoLeo of its own.
    """

    def __init__(self, model, losses, world=1):
        self.student = copy.deepcopy(model.student)
        self.teacher = copy.deepcopy(model.teacher.module)
        self.losses, self.world = losses, world

    def step(self, number):
        inputs, masked = views(seed=number), masks(seed=number)
        crops = torch.cat(inputs[:2])
        with torch.no_grad():
            backbone, head, patch_head = self.teacher
            tokens, patches = backbone.encode(crops)
            teacher, teacher_patches = head(tokens), patch_head(patches[masked.image, masked.patch])
        backbone, head, patch_head = self.student
        tokens, patches = backbone.encode(crops, masked)
        student = [*head(tokens).chunk(2), head(backbone.encode(inputs[2])[0])]
        parts = [part for crop in tokens.chunk(2) for part in crop.chunk(self.world)]
        losses = dict(
            loss_cls=self.losses.cls(teacher, student),
            loss_patch=self.losses.patch(
                teacher_patches, patch_head(patches[masked.image, masked.patch]), masked
            ),
            loss_koleo=0.1 * sum(self.losses.koleo(part) for part in parts) / self.world,
        )
        trained = list(self.student.parameters())
        gradients = torch.autograd.grad(sum(losses.values()), trained)
        momentum = 1 - 0.1 * (math.cos(math.pi * number / 5) + 1) / 2
        with torch.no_grad():
            for value, gradient, average in zip(trained, gradients, self.teacher.parameters(), strict=True):
                value -= 0.1 * gradient
                average.copy_(momentum * average + (1 - momentum) * value)
        return [value.item() for value in losses.values()], gradients


def train(model, rank=0, world=1):
    """Three steps of the method; losses and gradients of each, the teacher at the end."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.attach(optimizer)
    steps = []
    for number in range(3):
        inputs = [view.chunk(world)[rank] for view in views(seed=number)]
        optimizer.zero_grad()
        losses = model.loss(inputs, masked=part_of(masks(seed=number), rank, len(inputs[0])))
        sum(losses.values()).backward()
        values = torch.stack([value.detach() for value in losses.values()])
        gradients = [parameter.grad for parameter in model.student.parameters()]
        for tensor in [values, *gradients] if world > 1 else []:
            torch.distributed.all_reduce(tensor)
            tensor /= world
        steps.append((values.tolist(), [gradient.clone() for gradient in gradients]))
        optimizer.step()
    return steps, [parameter.clone() for parameter in model.teacher.parameters()]


def part_of(masked, rank, batch):
    """Masked patches of a process: its part of the first global crop, then of the second."""
    crop, image = masked.image // 4, masked.image % 4
    own = image // batch == rank
    return MaskedPatches((crop * batch + image % batch)[own], masked.patch[own])


def check_three_steps(result, reference):
    steps, teacher = result
    for number, (losses, gradients) in enumerate(steps):
        expected, expected_gradients = reference.step(number)
        assert losses == pytest.approx(expected, abs=1e-6)
        for ours, gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours, gradient, atol=1e-6, rtol=0)
    for ours, average in zip(teacher, reference.teacher.parameters(), strict=True):
        torch.testing.assert_close(ours, average.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize('losses', [Formula, Lightly])
@pytest.mark.parametrize('centering', ['sinkhorn', 'center'])
def test_three_steps(centering, losses):
    model = dinov2(centering=centering)
    reference = ReferenceRun(model, losses(centering))
    check_three_steps(train(model), reference)


def train_on_ranks(rank, centering):
    steps, teacher = train(dinov2(centering=centering), rank, 2)
    return steps, [value.detach() for value in teacher]


@pytest.mark.parametrize('centering', ['sinkhorn', 'center'])
def test_three_steps_of_two_processes(two_ranks, centering):
    for result in two_ranks(train_on_ranks, centering):
        losses = Formula(centering, world=2)
        check_three_steps(result, ReferenceRun(dinov2(centering=centering), losses, world=2))


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


def test_gram_anchoring_begins_with_the_teacher():
    model = dinov2(gram_weight=1.0)
    key = 'layers.1.ffn.layers.1.weight'
    model.init_weights()
    state = model.state_dict()
    assert torch.equal(state[f'gram_teacher.module.{key}'], state[f'teacher.module.0.{key}'])
    finished = dinov2().state_dict()  # of a run without it
    model.load_state_dict(finished, strict=False)
    state = model.state_dict()
    assert torch.equal(state[f'gram_teacher.module.{key}'], finished[f'teacher.module.0.{key}'])
    again = dinov2(gram_weight=1.0)
    again.load_state_dict({**state, f'gram_teacher.module.{key}': 2 * state[f'gram_teacher.module.{key}']})
    assert torch.equal(
        again.state_dict()[f'gram_teacher.module.{key}'], 2 * finished[f'teacher.module.0.{key}']
    )


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="centering='mean'"):
        dinov2(centering='mean')
    with pytest.raises(ValueError, match=r'use mmssl\.DINOv2ViT'):
        DINOv2(nn.Linear(2, 2), HEAD)


def test_resume_is_exact(tmp_path):
    check_exact_resume('dinov2', tmp_path, 5)


def stochastic_vit(**settings):
    torch.manual_seed(0)
    backbone = DINOv2ViT(ARCH, img_size=16, patch_size=4, drop_path_rate=0.5, num_registers=2, **settings)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone.double().train()


@pytest.mark.parametrize('settings', [{}, dict(use_abs_pos_emb=False, rope_cfg={})], ids=['table', 'rotary'])
def test_selected_patches_are_those_of_the_whole_encoding(settings):
    backbone, x, masked, gradients = stochastic_vit(**settings), views(batch=8)[0], masks(), []
    for selected in (None, masked):
        torch.manual_seed(1)  # draws of stochastic depth and of rotary positions
        cls_tokens, patches = backbone.encode(x, masked, selected)
        patches = masked.select(patches) if selected is None else patches
        weights = torch.arange(patches.numel()).view_as(patches) % 7
        loss = cls_tokens.square().sum() + (weights * patches).sum()
        gradients.append([cls_tokens, patches, *torch.autograd.grad(loss, list(backbone.parameters()))])
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-10, rtol=1e-10)
    cls_tokens, patches = backbone.eval().encode(x, None, no_patches(x))
    assert patches.shape == (0, 16)
    torch.testing.assert_close(cls_tokens, backbone.encode(x)[0], atol=1e-12, rtol=1e-12)


def test_activation_checkpointing_changes_no_gradient():
    gradients, calls = [], []
    for with_cp in (False, True):
        model = dinov2()
        model.backbone.with_cp = with_cp
        layer = model.backbone.layers[1]
        layer.register_forward_pre_hook(lambda *_, key=with_cp: calls.append(key))
        sum(model.loss(views(), masked=masks()).values()).backward()
        gradients.append([parameter.grad for parameter in model.student.parameters()])
    assert calls.count(True) == 2 * calls.count(False)  # once more in the backward pass
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
