"""I-JEPA: the draw of the blocks, the loss by loops, three steps, two processes, an exact resume."""

import copy

import pytest
import torch
from runs import check_exact_resume
from torch import nn

from mmssl.selfsup.ijepa import IJEPA, Blocks, draw_blocks

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)


def ijepa(**settings):
    torch.manual_seed(0)
    model = IJEPA(
        dict(type='mmssl.IJEPAViT', arch=ARCH, img_size=24, patch_size=4),
        dict(type='mmssl.IJEPAPredictor', embed_dims=8, num_layers=1, num_heads=2),
        **settings,
    )
    for parameter in model.teacher.module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)  # differs from the context encoder
    model.set_schedule(5, 5)
    return model.double().train()


def images(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 24, 24, generator=generator, dtype=torch.float64)


def fixed_blocks(batch=3, seed=0):
    return draw_blocks(batch, (6, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('seed', range(5))
def test_targets_are_rectangles_and_the_context_has_none_of_their_patches(seed):
    grid = (14, 14)
    context, targets = draw_blocks(6, grid, generator=torch.Generator().manual_seed(seed))
    assert targets.shape[:2] == (4, 6) and context.shape[0] == 6
    area = targets.shape[2] / 196
    assert 0.12 < area < 0.24
    for block in targets.flatten(0, 1):
        rows, columns = block // 14, block % 14
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert height * width == len(block) == len(set(block.tolist()))
        assert 0.6 < height / width < 1.9
    for image in range(6):
        assert not set(context[image].tolist()) & set(targets[:, image].flatten().tolist())
        assert len(set(context[image].tolist())) == context.shape[1] > 40
        assert context[image].max() < 196


def test_positions_differ_between_images_and_sizes_do_not():
    _, targets = draw_blocks(64, (14, 14), generator=torch.Generator().manual_seed(0))
    assert len({tuple(block.tolist()) for block in targets[0]}) > 20


def test_too_small_a_grid_is_named():
    with pytest.raises(ValueError, match='fewer than 4 context patches of 2x2'):
        draw_blocks(2, (2, 2))


@pytest.mark.parametrize('criterion', ['smooth_l1', 'L2'])
def test_loss_by_loops(criterion):
    model, x, blocks = ijepa(criterion=criterion), images(), fixed_blocks()
    features = model.teacher.module.encode(x)
    context = model.backbone.encode(x, blocks.context)
    total, count = 0.0, 0
    for target in blocks.targets:
        for image in range(3):
            one = Blocks(blocks.context[image : image + 1], target[None, image : image + 1])
            prediction = model.neck(context[image : image + 1], one)[0, 0]
            for row, patch in zip(prediction, target[image].tolist(), strict=True):
                target_row = features[image, patch]
                target_row = (target_row - target_row.mean()) / (target_row.var(unbiased=False) + 1e-5).sqrt()
                for difference in (row - target_row).tolist():
                    small = abs(difference) < 1
                    if criterion == 'L2':
                        total += difference**2
                    else:
                        total += difference**2 / 2 if small else abs(difference) - 0.5
                    count += 1
    loss = model.loss(x, blocks=blocks)['loss']
    assert loss.item() == pytest.approx(total / count, rel=1e-6)


def test_the_context_encoder_sees_only_its_patches():
    model, x, blocks = ijepa(), images(), fixed_blocks()
    before = model.backbone.encode(x, blocks.context)
    changed = x.unflatten(2, (6, 4)).unflatten(4, (6, 4)).clone()
    for image in range(3):
        for patch in blocks.targets[:, image].flatten().tolist():
            changed[image, :, patch // 6, :, patch % 6] = 5
    changed = changed.flatten(4, 5).flatten(2, 3)
    assert not torch.equal(changed, x)
    assert torch.equal(before, model.backbone.encode(changed, blocks.context))
    assert not torch.equal(model.teacher.module.encode(x), model.teacher.module.encode(changed))


def check_three_steps(steps, model):
    """Compare losses, gradients and target encoders with training by hand: plain descent, linear momentum."""
    student, predictor = copy.deepcopy(model.backbone), copy.deepcopy(model.neck)
    teacher = copy.deepcopy(model.teacher.module)
    trained = [p for part in (student, predictor) for p in part.parameters() if p.requires_grad]
    for number, (loss, gradients, averages) in enumerate(steps):
        x, blocks = images(4, number), fixed_blocks(4, number)
        with torch.no_grad():
            features = teacher.encode(x)
            features = (features - features.mean(2, keepdim=True)) / (
                features.var(2, keepdim=True, unbiased=False) + 1e-5
            ).sqrt()
        predictions = predictor(student.encode(x, blocks.context), blocks)
        targets = torch.stack([features[torch.arange(4).unsqueeze(1), block] for block in blocks.targets])
        difference = (predictions - targets).abs()
        expected = torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean()
        assert loss == pytest.approx(expected.item(), abs=1e-6)
        for value, ours, gradient in zip(
            trained, gradients, torch.autograd.grad(expected, trained), strict=True
        ):
            torch.testing.assert_close(ours, gradient, atol=1e-6, rtol=0)
            value.data -= 0.1 * gradient
        momentum = 0.9 + 0.1 * number / 5
        for name, average in teacher.named_parameters():
            average.data.lerp_(student.get_parameter(name).data, 1 - momentum)
            torch.testing.assert_close(averages[name], average, atol=1e-6, rtol=0)


def train(rank, world):
    """Three steps; loss, gradients and target encoder of each."""
    model, steps = ijepa(momentum=0.9), []
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model.attach(optimizer)
    for number in range(3):
        blocks = fixed_blocks(4, number)
        part = Blocks(blocks.context.chunk(world)[rank], blocks.targets.chunk(world, dim=1)[rank])
        optimizer.zero_grad()
        loss = model.loss(images(4, number).chunk(world)[rank], blocks=part)['loss']
        loss.backward()
        value = loss.detach().clone()
        for tensor in [value, *(p.grad for p in trained)] if world > 1 else []:
            torch.distributed.all_reduce(tensor)
            tensor /= world
        optimizer.step()
        averages = {name: p.detach().clone() for name, p in model.teacher.module.named_parameters()}
        steps.append((value.item(), [p.grad.clone() for p in trained], averages))
    assert model.teacher.steps == 3
    return steps


def test_three_steps_by_the_formula():
    check_three_steps(train(0, 1), ijepa(momentum=0.9))


def test_three_steps_of_two_processes(two_ranks):
    for steps in two_ranks(train, 2):
        check_three_steps(steps, ijepa(momentum=0.9))


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match=r'use mmssl\.IJEPAViT'):
        IJEPA(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="criterion='L1'"):
        ijepa(criterion='L1')


def test_resume_is_exact(tmp_path):
    check_exact_resume('ijepa', tmp_path, 5)
