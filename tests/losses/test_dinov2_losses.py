"""KoLeo, iBOT's loss of masked patches and SIGReg, against loops and hand-made numbers."""

import math

import pytest
import torch
from torch import nn

from mmssl.losses import KoLeoLoss, SIGRegLoss, masked_patch_loss

DOUBLE = dict(dtype=torch.float64)


def test_koleo_by_loops():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x.tolist()]
    total = 0.0
    for i, a in enumerate(unit):
        nearest = min(
            math.sqrt(sum((v - w) ** 2 for v, w in zip(a, b, strict=True)))
            for j, b in enumerate(unit)
            if j != i
        )
        total -= math.log(nearest)
    assert KoLeoLoss()(x).item() == pytest.approx(total / 5, abs=1e-6)


def test_koleo_spreads_features():
    x = nn.Parameter(torch.randn(8, 2, generator=torch.Generator().manual_seed(0), **DOUBLE))
    optimizer = torch.optim.SGD([x], lr=0.05)
    before = KoLeoLoss()(x).item()
    for _ in range(50):
        optimizer.zero_grad()
        KoLeoLoss()(x).backward()
        optimizer.step()
    assert KoLeoLoss()(x).item() < before - 0.2
    assert KoLeoLoss()(x.detach().bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match='the batch has 1'):
        KoLeoLoss()(x[:1])


def test_masked_patch_loss_by_loops():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, **DOUBLE)
    targets = torch.rand(5, 4, generator=generator, **DOUBLE)
    targets /= targets.sum(dim=1, keepdim=True)
    image = torch.tensor([0, 0, 0, 2, 2])  # image 1 has no masked patch
    expected = 0.0
    for patches in ([0, 1, 2], [3, 4]):
        for row in patches:
            scaled = [value / 0.1 for value in logits[row].tolist()]
            norm = math.log(sum(math.exp(value) for value in scaled))
            cross = -sum(q * (s - norm) for q, s in zip(targets[row].tolist(), scaled, strict=True))
            expected += cross / len(patches)
    loss = masked_patch_loss(logits, targets, image, 3)
    assert loss.item() == pytest.approx(expected / 3, abs=1e-12)
    assert masked_patch_loss(logits[:0], targets[:0], image[:0], 3).item() == 0


def test_sigreg_by_loops():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 3, generator=generator, **DOUBLE)
    directions = torch.randn(3, 2, generator=generator, **DOUBLE)
    directions /= directions.norm(dim=0)
    total = 0.0
    points = [-5 + 10 * i / 16 for i in range(17)]
    for a in directions.T.tolist():
        x = [sum(v * w for v, w in zip(row, a, strict=True)) for row in z.tolist()]
        errors = []
        for t in points:
            phi = sum(complex(math.cos(t * value), math.sin(t * value)) for value in x) / 6
            gaussian = math.exp(-t * t / 2)
            errors.append(abs(phi - gaussian) ** 2 * gaussian)
        step = points[1] - points[0]
        total += 6 * step * (sum(errors) - (errors[0] + errors[-1]) / 2)
    assert SIGRegLoss(2)(z, directions).item() == pytest.approx(total / 2, abs=1e-12)


def test_sigreg_prefers_a_gaussian():
    torch.manual_seed(0)
    gaussian, narrow = torch.randn(512, 8), 0.1 * torch.randn(512, 8)
    uniform = (torch.rand(512, 8) - 0.5) * 4
    loss = SIGRegLoss(64)
    assert loss(gaussian) < loss(uniform) < loss(narrow)
    with pytest.raises(ValueError, match='num_directions=0'):
        SIGRegLoss(0)


def sigreg_gradient(rank, z, directions):
    part = z.chunk(2)[rank].clone().requires_grad_()
    loss = SIGRegLoss(3)(part, directions)
    loss.backward()
    drawn = SIGRegLoss(3).draw_directions(part)
    return loss.item(), part.grad / 2, drawn


def test_sigreg_of_two_processes_is_that_of_all_features(two_ranks):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 3, generator=generator, **DOUBLE)
    directions = torch.randn(3, 3, generator=generator, **DOUBLE)
    whole = z.clone().requires_grad_()
    loss = SIGRegLoss(3)(whole, directions)
    loss.backward()
    (first, grad_first, drawn), (second, grad_second, same) = two_ranks(sigreg_gradient, z, directions)
    assert first == pytest.approx(loss.item(), abs=1e-12) and second == pytest.approx(first, abs=1e-12)
    torch.testing.assert_close(torch.cat([grad_first, grad_second]), whole.grad)
    assert torch.equal(drawn, same)
