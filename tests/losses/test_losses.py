"""The public losses against loops over their formulas in float64; gradients; two processes against one."""

import math

import pytest
import torch
from torch import nn

from mmssl.losses import (
    DonskerVaradhanLoss,
    InfoNCELoss,
    JSDLoss,
    NCELoss,
    NTXentLoss,
    donsker_varadhan_loss,
    fenchel_dual_loss,
    info_nce,
    sinkhorn,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


# InfoNCE


def info_nce_by_loops(queries, keys, negatives, temperature):
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        positive = math.exp(cosine(query, key) / temperature)
        total -= math.log(
            positive
            / (positive + sum(math.exp(cosine(query, negative) / temperature) for negative in negatives))
        )
    return total / len(queries)


def test_info_nce_with_explicit_negatives():
    queries, keys, negatives = randn(3, 5), randn(3, 5, seed=1), randn(7, 5, seed=2)
    expected = info_nce_by_loops(queries.tolist(), keys.tolist(), negatives.tolist(), 0.2)
    assert InfoNCELoss(0.2)(queries, keys, negatives).item() == pytest.approx(expected, abs=1e-12)
    unit = [nn.functional.normalize(x, dim=1) for x in (queries, keys, negatives)]
    assert info_nce(unit[0], unit[1], unit[2].T, 0.2).item() == pytest.approx(expected, abs=1e-12)


def test_info_nce_with_the_other_keys_of_the_batch():
    queries, keys = randn(4, 5), randn(4, 5, seed=1)
    rows = keys.tolist()
    expected = [
        info_nce_by_loops([query], [rows[i]], rows[:i] + rows[i + 1 :], 0.3)
        for i, query in enumerate(queries.tolist())
    ]
    assert InfoNCELoss(0.3)(queries, keys).item() == pytest.approx(sum(expected) / 4, abs=1e-12)


# NT-Xent


def nt_xent_by_loops(first, second, temperature):
    views = [*first, *second]
    total = 0.0
    for i, view in enumerate(views):
        positive = (i + len(first)) % len(views)
        terms = {k: math.exp(cosine(view, other) / temperature) for k, other in enumerate(views) if k != i}
        total -= math.log(terms[positive] / sum(terms.values()))
    return total / len(views)


@pytest.mark.parametrize(('batch', 'temperature'), [(1, 0.5), (2, 0.1), (5, 1.0)])
def test_nt_xent(batch, temperature):
    first, second = randn(batch, 6), randn(batch, 6, seed=1)
    expected = nt_xent_by_loops(first.tolist(), second.tolist(), temperature)
    assert NTXentLoss(temperature)(first, second).item() == pytest.approx(expected, abs=1e-12)


def test_contrastive_losses_of_half_precision_are_float32():
    first, second = (randn(4, 6, seed=seed).bfloat16() for seed in (0, 1))
    for loss in (NTXentLoss(), InfoNCELoss()):
        exact = loss(first.double(), second.double()).item()
        with torch.autocast('cpu', torch.bfloat16):
            value = loss(first, second)
        assert value.dtype == torch.float32 and value.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize('loss', [NTXentLoss, InfoNCELoss])
def test_a_temperature_of_0_is_refused(loss):
    with pytest.raises(ValueError, match='temperature=0 must be above 0'):
        loss(0)


# NCE


def nce_by_loops(data_model, data_noise, noise_model, noise_noise):
    total, k = 0.0, len(noise_model[0])
    for i in range(len(data_model)):

        def probability(model, noise):
            """Equation 4: the model's share of the density, with k noise samples per data sample."""
            return math.exp(model) / (math.exp(model) + k * math.exp(noise))

        total -= math.log(probability(data_model[i], data_noise[i]))
        for j in range(k):
            total -= math.log(1 - probability(noise_model[i][j], noise_noise[i][j]))
    return total / len(data_model)


def test_nce_is_the_objective_of_the_paper():
    tensors = randn(4), randn(4, seed=1), randn(4, 3, seed=2), randn(4, 3, seed=3)
    expected = nce_by_loops(*(tensor.tolist() for tensor in tensors))
    assert NCELoss()(*tensors).item() == pytest.approx(expected, abs=1e-12)


def test_nce_estimates_a_normalising_constant():
    """A Gaussian without its constant, against a wider Gaussian as noise: c becomes -log(sqrt(2 pi))."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20000, generator=generator)
    noise = 2 * torch.randn(20000, 2, generator=generator)
    loss = NCELoss(learn_normalizer=True)
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=30)

    def log_noise(x):
        return -(x**2) / 8 - math.log(2 * math.sqrt(2 * math.pi))

    def closure():
        optimizer.zero_grad()
        value = loss(-(data**2) / 2, log_noise(data), -(noise**2) / 2, log_noise(noise))
        value.backward()
        return value

    optimizer.step(closure)
    assert loss.log_normalizer.item() == pytest.approx(-math.log(math.sqrt(2 * math.pi)), abs=0.03)


def test_nce_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r'shapes \(4,\) for data and \(4,\) for noise; give'):
        NCELoss()(randn(4), randn(4), randn(4), randn(4))


# mutual information


def pairs_by_loops(features, vectors):
    """Scores of positive and of negative pairs, from (N, units, L) and (N, units, V) as nested lists."""
    positive, negative = [], []
    for n, own_vectors in enumerate(vectors):
        for k, own_features in enumerate(features):
            for vector in zip(*own_vectors, strict=True):
                for feature in zip(*own_features, strict=True):
                    (positive if n == k else negative).append(dot(vector, feature))
    return positive, negative


def mean(values):
    return sum(values) / len(values)


@pytest.fixture
def features_and_vectors():
    return randn(3, 4, 2), randn(3, 4, 1, seed=1)


def test_jsd(features_and_vectors):
    positive, negative = pairs_by_loops(*(x.tolist() for x in features_and_vectors))
    expected = mean([math.log(1 + math.exp(v)) - math.log(2) for v in negative]) - mean(
        [math.log(2) - math.log(1 + math.exp(-v)) for v in positive]
    )
    assert JSDLoss()(*features_and_vectors).item() == pytest.approx(expected, abs=1e-12)


def test_donsker_varadhan(features_and_vectors):
    positive, negative = pairs_by_loops(*(x.tolist() for x in features_and_vectors))
    expected = math.log(mean([math.exp(v) for v in negative])) - mean(positive)
    assert DonskerVaradhanLoss()(*features_and_vectors).item() == pytest.approx(expected, abs=1e-12)


def test_former_names_of_arguments_still_work(features_and_vectors):
    features, vectors = features_and_vectors
    with pytest.warns(
        DeprecationWarning, match=r'donsker_varadhan_loss\(l=\.\.\.\) is deprecated.*use features='
    ):
        value = donsker_varadhan_loss(l=features, vectors=vectors)
    assert torch.equal(value, donsker_varadhan_loss(features, vectors))
    with pytest.warns(DeprecationWarning):
        assert torch.equal(fenchel_dual_loss(features, m=vectors), fenchel_dual_loss(features, vectors))


# gradients

FIRST, SECOND, NEGATIVES = randn(4, 3), randn(4, 3, seed=1), randn(5, 3, seed=2)
PAIRS = randn(3, 4, 2), randn(3, 4, 1, seed=1)


@pytest.mark.parametrize(
    ('loss', 'inputs'),
    [
        (NTXentLoss(0.5), (FIRST, SECOND)),
        (InfoNCELoss(0.5), (FIRST, SECOND)),
        (InfoNCELoss(0.5), (FIRST, SECOND, NEGATIVES)),
        (NCELoss(), (randn(4), randn(4, seed=1), randn(4, 3, seed=2), randn(4, 3, seed=3))),
        (JSDLoss(), PAIRS),
        (DonskerVaradhanLoss(), PAIRS),
    ],
    ids=['nt-xent', 'info-nce', 'info-nce-negatives', 'nce', 'jsd', 'donsker-varadhan'],
)
def test_gradients(loss, inputs):
    assert torch.autograd.gradcheck(loss, [x.clone().requires_grad_() for x in inputs])


def test_sinkhorn_has_no_gradient():
    assert not sinkhorn(randn(4, 3).requires_grad_()).requires_grad


# two processes

LOSSES = {
    'nt-xent': (NTXentLoss(0.3), (randn(6, 5), randn(6, 5, seed=1))),
    'info-nce': (InfoNCELoss(0.3), (randn(6, 5), randn(6, 5, seed=1))),
    'jsd': (JSDLoss(gather=True), (randn(6, 4, 2), randn(6, 4, 1, seed=1))),
    'donsker-varadhan': (DonskerVaradhanLoss(gather=True), (randn(6, 4, 2), randn(6, 4, 1, seed=1))),
}


def losses_and_gradients(rank, world):
    results = {}
    for name, (loss, inputs) in LOSSES.items():
        parts = [x.chunk(world)[rank].clone().requires_grad_() for x in inputs]
        value = loss(*parts)
        value.backward()
        # the gradient of the mean of the processes' losses, as DistributedDataParallel computes it
        results[name] = value.item(), [part.grad / world for part in parts]
    return results


def losses_on_rank(rank):
    return losses_and_gradients(rank, world=2)


def test_two_processes_equal_a_single_process_with_all_samples(two_ranks):
    expected = losses_and_gradients(0, world=1)
    first, second = two_ranks(losses_on_rank)
    for name, (value, gradients) in expected.items():
        assert (first[name][0] + second[name][0]) / 2 == pytest.approx(value, abs=1e-12), name
        for whole, *parts in zip(gradients, first[name][1], second[name][1], strict=True):
            torch.testing.assert_close(torch.cat(parts), whole, atol=1e-12, rtol=0, msg=name)
