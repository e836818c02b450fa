"""VICReg and Barlow Twins against loops over their formulas; gradients; two processes against one."""

import math

import pytest
import torch

from mmssl.losses import BarlowTwinsLoss, VICRegLoss
from mmssl.losses.redundancy import off_diagonal


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean(values):
    return sum(values) / len(values)


def covariance(first, second, divisor):
    a, b = mean(first), mean(second)
    return sum((x - a) * (y - b) for x, y in zip(first, second, strict=True)) / divisor


def vicreg_by_loops(first, second, weights=(25.0, 25.0, 1.0)):
    batch, dimensions = first.shape
    invariance = mean([(x - y) ** 2 for x, y in zip(first.flatten(), second.flatten(), strict=True)])
    variance = redundancy = 0.0
    for view in (first, second):
        columns = view.T.tolist()
        for i, column in enumerate(columns):
            deviation = math.sqrt(covariance(column, column, batch - 1) + 1e-4)
            variance += max(0.0, 1 - deviation) / dimensions / 2
            for j, other in enumerate(columns):
                if i != j:
                    redundancy += covariance(column, other, batch - 1) ** 2 / dimensions
    return weights[0] * float(invariance) + weights[1] * variance + weights[2] * redundancy


def barlow_by_loops(first, second, weight):
    total = 0.0
    deviations = [
        [math.sqrt(covariance(column, column, len(view)) + 1e-5) for column in view.T.tolist()]
        for view in (first, second)
    ]
    for i, column in enumerate(first.T.tolist()):
        for j, other in enumerate(second.T.tolist()):
            correlation = covariance(column, other, len(first)) / (deviations[0][i] * deviations[1][j])
            total += (1 - correlation) ** 2 if i == j else weight * correlation**2
    return total


def test_vicreg_is_its_formula():
    first, second = 0.7 * randn(6, 4), 0.7 * randn(6, 4, seed=1)
    assert VICRegLoss()(first, second).item() == pytest.approx(vicreg_by_loops(first, second), rel=1e-12)
    weights = (1.0, 2.0, 0.5)
    expected = vicreg_by_loops(first, second, weights)
    assert VICRegLoss(*weights)(first, second).item() == pytest.approx(expected, rel=1e-12)


def test_vicreg_of_constant_embeddings_by_hand():
    """Constant dimensions have the deviation sqrt(eps) = 0.01, and no covariance."""
    terms = VICRegLoss().terms(torch.zeros(3, 5), torch.ones(3, 5))
    assert terms.invariance == 1 and terms.variance.item() == pytest.approx(0.99) and terms.covariance == 0


def test_barlow_twins_is_its_formula():
    first, second = randn(6, 4), 3 * randn(6, 4, seed=1) + 1
    for weight in (0.0051, 0.3):
        expected = barlow_by_loops(first, second, weight)
        assert BarlowTwinsLoss(weight)(first, second).item() == pytest.approx(expected, rel=1e-12)


def test_barlow_twins_of_equal_uncorrelated_views_by_hand():
    views = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert BarlowTwinsLoss()(views, views).item() == pytest.approx(0, abs=1e-9)
    # the same dimension twice: two correlations of 1 beside the diagonal
    twice = views[:, :1].expand(-1, 2)
    assert BarlowTwinsLoss(0.5)(twice, twice).item() == pytest.approx(1, abs=1e-4)


def test_off_diagonal_entries_in_their_order():
    assert off_diagonal(torch.arange(9).view(3, 3)).flatten().tolist() == [1, 2, 3, 5, 6, 7]


@pytest.mark.parametrize('loss', [VICRegLoss(), BarlowTwinsLoss()], ids=['vicreg', 'barlow'])
def test_gradients_are_those_of_the_loss(loss):
    views = [randn(5, 3, seed=seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(loss, views)


@pytest.mark.parametrize('loss', [VICRegLoss(), BarlowTwinsLoss()], ids=['vicreg', 'barlow'])
def test_the_loss_is_computed_in_float32_under_autocast(loss):
    first, second = randn(8, 4).float(), randn(8, 4, seed=1).float()
    with torch.autocast('cpu', torch.bfloat16):
        assert loss(first, second).item() == loss.double()(first, second).item()
        half = loss(first.bfloat16(), second.bfloat16())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(loss(first, second).item(), rel=0.05)


def losses_of_rank(rank, world, gather=True):
    results = []
    for loss in (VICRegLoss(gather=gather), BarlowTwinsLoss(gather=gather)):
        views = [randn(8, 4, seed=seed).chunk(world)[rank].requires_grad_() for seed in range(2)]
        value = loss(*views)
        value.backward()
        # DistributedDataParallel divides the sum over the ranks by their number
        results.append((value.detach(), [view.grad / world for view in views]))
    return results


def test_two_processes_are_one_with_all_images(two_ranks):
    parts = two_ranks(losses_of_rank, 2)
    for index, (value, gradients) in enumerate(losses_of_rank(0, 1)):
        for part in parts:
            torch.testing.assert_close(part[index][0], value, atol=1e-12, rtol=0)
        for view, gradient in enumerate(gradients):
            joined = torch.cat([part[index][1][view] for part in parts])
            torch.testing.assert_close(joined, gradient, atol=1e-12, rtol=0)


def test_bad_settings_and_single_images_are_refused():
    with pytest.raises(ValueError, match='variance_weight=-1 must be 0 or more'):
        VICRegLoss(variance_weight=-1)
    with pytest.raises(ValueError, match='off_diagonal_weight=nan must be 0 or more'):
        BarlowTwinsLoss(float('nan'))
    for loss, name in ((VICRegLoss(), 'VICReg'), (BarlowTwinsLoss(), 'Barlow Twins')):
        with pytest.raises(ValueError, match=f'{name} needs the statistics of at least 2 images'):
            loss(torch.zeros(1, 3), torch.zeros(1, 3))
