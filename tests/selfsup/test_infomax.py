"""Deep InfoMax against plain readings of its paper and of f-GAN; two processes; a resumed run; refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from runs import check_exact_resume
from torch import distributed as dist
from torch import nn

from mmssl.layers.sync_bn import convert_sync_batchnorm
from mmssl.registry import MODELS
from mmssl.selfsup.infomax import DIVERGENCES, donsker_varadhan_loss, fenchel_dual_loss, infonce_loss

# generators f of the divergences, f-GAN table 1; GAN's is the Jensen-Shannon one without its constant
GENERATORS = {
    'GAN': lambda u: u * math.log(u) - (u + 1) * math.log(u + 1),
    'JSD': lambda u: u * math.log(u) - (u + 1) * math.log((u + 1) / 2),
    'KL': lambda u: u * math.log(u),
    'RKL': lambda u: -math.log(u),
    'X2': lambda u: (u - 1) ** 2,
    'H2': lambda u: (math.sqrt(u) - 1) ** 2,
}
# its table 6: the output activations
ACTIVATIONS = {
    'GAN': lambda v: -math.log(1 + math.exp(-v)),
    'JSD': lambda v: math.log(2) - math.log(1 + math.exp(-v)),
    'KL': lambda v: v,
    'RKL': lambda v: -math.exp(-v),
    'X2': lambda v: v,
    'H2': lambda v: 1 - math.exp(-v),
    'W1': lambda v: v,
}


def conjugate(name, t):
    """f*(t) = sup over u of u t - f(u), found by a search, in log u where u > 0."""
    if name == 'W1':
        return t
    low, high = -30.0, 30.0

    def value(x):
        u = x if name == 'X2' else math.exp(x)  # the table's parabola goes on below u = 0
        return u * t - GENERATORS[name](u)

    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if value(left) < value(right) else (low, right)
    return value(low)


def tensors(batch=3, units=4, num_features=2, num_vectors=2, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        scale * torch.randn(batch, units, num_features, generator=generator, dtype=torch.float64),
        torch.randn(batch, units, num_vectors, generator=generator, dtype=torch.float64),
    )


def score(features, vectors, k, i, n, j):
    return sum(float(features[k, c, i]) * float(vectors[n, c, j]) for c in range(features.shape[1]))


def pairs(features, vectors):
    """All (image of the vector, vector, image of the feature, feature, score)."""
    return [
        (n, j, k, i, score(features, vectors, k, i, n, j))
        for n in range(len(vectors))
        for j in range(vectors.shape[2])
        for k in range(len(features))
        for i in range(features.shape[2])
    ]


def plain_fenchel(features, vectors, name):
    own = [ACTIVATIONS[name](s) for n, _, k, _, s in pairs(features, vectors) if n == k]
    other = [conjugate(name, ACTIVATIONS[name](s)) for n, _, k, _, s in pairs(features, vectors) if n != k]
    return sum(other) / len(other) - sum(own) / len(own)


def plain_jsd(features, vectors):
    own = [math.log(2) - math.log1p(math.exp(-s)) for n, _, k, _, s in pairs(features, vectors) if n == k]
    other = [
        math.log1p(math.exp(-s)) + s - math.log(2) for n, _, k, _, s in pairs(features, vectors) if n != k
    ]
    return sum(other) / len(other) - sum(own) / len(own)


def plain_infonce(features, vectors):
    terms, table = [], pairs(features, vectors)
    for n, j, k, _, s in table:
        if n == k:
            others = [t for a, b, c, _, t in table if (a, b) == (n, j) and c != n]
            terms.append(-math.log(math.exp(s) / (math.exp(s) + sum(map(math.exp, others)))))
    return sum(terms) / len(terms)


def plain_dv(features, vectors):
    own = [s for n, _, k, _, s in pairs(features, vectors) if n == k]
    other = [math.exp(s) for n, _, k, _, s in pairs(features, vectors) if n != k]
    return math.log(sum(other) / len(other)) - sum(own) / len(own)


@pytest.mark.parametrize(
    'sizes',
    [dict(), dict(batch=2, num_features=1, num_vectors=1), dict(batch=4, num_features=3, num_vectors=1)],
)
def test_jsd_infonce_and_donsker_varadhan_are_the_papers(sizes):
    features, vectors = tensors(**sizes)
    assert abs(fenchel_dual_loss(features, vectors, 'JSD').item() - plain_jsd(features, vectors)) < 1e-12
    assert abs(infonce_loss(features, vectors).item() - plain_infonce(features, vectors)) < 1e-12
    assert abs(donsker_varadhan_loss(features, vectors).item() - plain_dv(features, vectors)) < 1e-12


@pytest.mark.parametrize('name', DIVERGENCES)
def test_divergences_are_those_of_f_gan(name):
    features, vectors = tensors(scale=0.7)
    assert (
        abs(fenchel_dual_loss(features, vectors, name).item() - plain_fenchel(features, vectors, name)) < 1e-7
    )
    assert torch.autograd.gradcheck(
        lambda *inputs: fenchel_dual_loss(*inputs, name),
        (features.requires_grad_(), vectors.requires_grad_()),
    )


@pytest.mark.parametrize('loss', [infonce_loss, donsker_varadhan_loss])
def test_gradients_of_the_contrastive_losses(loss):
    features, vectors = tensors()
    assert torch.autograd.gradcheck(loss, (features.requires_grad_(), vectors.requires_grad_()))


@pytest.mark.parametrize(
    ('loss', 'plain'), [(infonce_loss, plain_infonce), (donsker_varadhan_loss, plain_dv)]
)
def test_own_pairs_are_no_negatives_however_low_the_others_score(loss, plain):
    """A mask that sets own scores to -10 lets them win over negatives of -40."""
    features = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]], dtype=torch.float64)
    vectors = torch.tensor([[[-39.0], [-40.0]], [[-41.0], [-38.0]]], dtype=torch.float64)
    assert abs(loss(features, vectors).item() - plain(features, vectors)) < 1e-12


def test_large_scores_stay_finite():
    features, vectors = tensors(scale=1000.0)
    assert max(abs(row[-1]) for row in pairs(features, vectors)) > 1000
    features.requires_grad_(), vectors.requires_grad_()
    for loss in (infonce_loss, donsker_varadhan_loss, fenchel_dual_loss):
        value = loss(features, vectors)
        value.backward()
        assert value.isfinite() and features.grad.isfinite().all() and vectors.grad.isfinite().all()
    # an own score of 1000 has no exponential, and needs none
    features = (1000.0**0.5 * torch.eye(2, dtype=torch.float64).view(2, 2, 1)).requires_grad_()
    for name in ('KL', 'H2'):
        value = fenchel_dual_loss(features, features, name)
        value.backward()
        assert value.isfinite() and features.grad.isfinite().all()


def test_perfect_and_absent_information():
    """Scores that separate the pairs drive the losses to their bounds; equal scores give no information."""
    features = 10 * torch.eye(4, dtype=torch.float64).view(4, 4, 1)
    assert fenchel_dual_loss(features, features, 'GAN').item() == pytest.approx(
        math.log(2), abs=1e-9
    )  # 0.5 where nothing says anything
    assert infonce_loss(features, features).item() < 1e-9
    nothing = torch.zeros(4, 3, 2, dtype=torch.float64)
    assert fenchel_dual_loss(nothing, nothing, 'JSD').item() == pytest.approx(0, abs=1e-12)
    assert infonce_loss(nothing, nothing).item() == pytest.approx(math.log(1 + 3 * 2), abs=1e-12)
    assert donsker_varadhan_loss(nothing, nothing).item() == pytest.approx(0, abs=1e-12)


def test_half_precision_scores_are_summed_in_single():
    features, vectors = tensors(units=64)
    low = infonce_loss(features.bfloat16(), vectors.bfloat16())
    assert (
        low.dtype == torch.float32
        and low.item() == infonce_loss(features.bfloat16().float(), vectors.bfloat16().float()).item()
    )
    with torch.autocast('cpu', torch.bfloat16):
        assert (
            infonce_loss(features.float(), vectors.float()).item()
            == infonce_loss(features.float(), vectors.float()).item()
        )
        assert infonce_loss(features.float(), vectors.float()).dtype == torch.float32


SIZES = dict(
    backbone=dict(type='mmssl.InfoMaxEncoder', img_size=16, channels=(4, 6, 8), hidden=10),
    neck=dict(type='mmssl.MLP', dims=(10, 5), bias=True),
    local_channels=6,
    global_channels=32,
    units=12,
    prior=dict(hidden=(9, 7)),
)


def dim(seed=0, dtype=torch.float64, **kwargs):
    torch.manual_seed(seed)
    model = MODELS.build({'type': 'mmssl.DeepInfoMax', **{**SIZES, **kwargs}}).to(dtype)
    for module in model.modules():  # norms that are not at their neutral start
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model


def batch(number=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(number, 3, 16, 16, generator=generator, dtype=dtype), torch.rand(
        number, 5, generator=generator, dtype=dtype
    )


def reference(w, images, prior, alpha, beta, gamma, prior_loss):
    """(encoder's loss, discriminator's loss) from the weights by their names, written from the paper."""

    def normed(x, name):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = x.mean(axes, keepdim=True)
        x = (x - mean) / (((x - mean) ** 2).mean(axes, keepdim=True) + 1e-5).sqrt()
        return x * w[f'{name}.weight'].view(shape) + w[f'{name}.bias'].view(shape)

    def embed(rows, name, layer_norm):
        hidden = normed(rows @ w[f'{name}.hidden.weight'].T, f'{name}.norm').clamp(min=0)
        out = (
            hidden @ w[f'{name}.out.weight'].T + w[f'{name}.out.bias'] + rows @ w[f'{name}.shortcut.weight'].T
        )
        if layer_norm:
            centred = out - out.mean(1, keepdim=True)
            out = centred / ((centred**2).mean(1, keepdim=True) + 1e-5).sqrt()
            out = out * w[f'{name}.layer_norm.weight'] + w[f'{name}.layer_norm.bias']
        return out

    def jsd(features, vectors, number):
        own, other = [], []
        for n in range(number):
            for row, feature in enumerate(features):
                value = feature @ vectors[n]
                if row // (len(features) // number) == n:
                    own.append(math.log(2) - (1 + (-value).exp()).log())
                else:
                    other.append((1 + (-value).exp()).log() + value - math.log(2))
        return sum(other) / len(other) - sum(own) / len(own)

    def discriminator(x, w):
        for index in range(3):
            x = (x.clamp(min=0) if index else x) @ w[f'prior.layers.{index}.weight'].T + w[
                f'prior.layers.{index}.bias'
            ]
        return x.sigmoid()

    maps, x = [], images
    for index in range(3):
        x = normed(
            F.conv2d(x, w[f'backbone.stages.{index}.0.weight'], stride=2, padding=1),
            f'backbone.stages.{index}.1',
        ).clamp(min=0)
        maps.append(x)
    x = normed(x.flatten(1) @ w['backbone.stages.3.1.weight'].T, 'backbone.stages.3.2').clamp(min=0)
    y = x @ w['neck.fc0.weight'].T + w['neck.fc0.bias']
    encoder = 0.0
    if beta:
        rows = torch.stack([image[:, r, c] for image in maps[1] for r in range(4) for c in range(4)])
        encoder = encoder + beta * jsd(
            embed(rows, 'local_mi.feature_net', True), embed(y, 'local_mi.vector_net', True), len(images)
        )
    if alpha:
        rows = torch.stack([image.flatten() for image in maps[2]])
        encoder = encoder + alpha * jsd(
            embed(rows, 'global_mi.feature_net', False), embed(y, 'global_mi.vector_net', False), len(images)
        )
    z = 1 / (1 + (-y).exp())
    fixed = {name: tensor.detach() for name, tensor in w.items()}
    judged = discriminator(z, fixed)
    encoder = (
        encoder + gamma * (-judged.log() if prior_loss == 'non-saturating' else (1 - judged).log()).mean()
    )
    return encoder, -(discriminator(prior, w).log().mean() + (1 - discriminator(z.detach(), w)).log().mean())


@pytest.mark.parametrize(
    ('alpha', 'beta', 'gamma', 'prior_loss'),
    [(0.0, 1.0, 0.1, 'non-saturating'), (1.0, 0.0, 1.0, 'minimax'), (0.5, 0.7, 0.3, 'non-saturating')],
)
def test_three_steps_of_adam_are_those_of_the_paper(alpha, beta, gamma, prior_loss):
    """Loss, gradients and weights of three steps; encoder and discriminator each has a term of its own."""
    model = dim(alpha=alpha, beta=beta, gamma=gamma, prior_loss=prior_loss)
    images, prior = batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in weights.items()}
    judges = [name for name in weights if name.startswith('prior.')]
    learners = [name for name in weights if not name.startswith('prior.')]
    assert len(judges) == 6
    for step in (1, 2, 3):
        live = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        encoder, discriminator = reference(live, images, prior, alpha, beta, gamma, prior_loss)
        gradients = dict(
            zip(
                learners,
                torch.autograd.grad(encoder, [live[name] for name in learners], retain_graph=True),
                strict=True,
            )
        )
        gradients.update(
            zip(judges, torch.autograd.grad(discriminator, [live[name] for name in judges]), strict=True)
        )
        optimizer.zero_grad()
        loss = model.loss(images, prior=prior)['loss']
        loss.backward()
        assert abs(loss.item() - (encoder + discriminator).item()) < 1e-12
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-12, rtol=1e-9, msg=name)
            first, second = moments[name]
            moments[name] = (
                0.9 * first + 0.1 * gradients[name],
                0.999 * second + 0.001 * gradients[name] ** 2,
            )
            first, second = moments[name][0] / (1 - 0.9**step), moments[name][1] / (1 - 0.999**step)
            weights[name] = weights[name] - 1e-2 * first / (second.sqrt() + 1e-8)
        optimizer.step()
        for name, parameter in model.named_parameters():
            # Adam divides what rounding leaves of a gradient of 0 by itself; such weights (before a batch
            # norm) are compared loosely
            close = gradients[name].abs() > 1e-9
            torch.testing.assert_close(
                parameter.detach()[close], weights[name][close], atol=1e-9, rtol=0, msg=name
            )
            weights[name] = parameter.detach().clone()


def test_bfloat16_trains():
    model = dim(dtype=torch.float32, alpha=1.0)
    images, prior = batch(dtype=torch.float32)
    exact = model.loss(images, prior=prior)['loss']
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss(images, prior=prior)['loss']
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_parts_of_weight_0_are_left_out():
    assert {name.partition('.')[0] for name in dim(alpha=0.0, gamma=0.0).state_dict()} == {
        'backbone',
        'neck',
        'local_mi',
    }
    assert {name.partition('.')[0] for name in dim(alpha=1.0, beta=0.0).state_dict()} == {
        'backbone',
        'neck',
        'global_mi',
        'prior',
    }


def test_encoder_outputs_and_shapes():
    model = dim()
    images, prior = batch()
    assert [tuple(out.shape[1:]) for out in model.extract_feat(images)] == [
        (4, 8, 8),
        (6, 4, 4),
        (8, 2, 2),
        (10,),
    ]
    assert model.loss(images, prior=prior)['loss'] == model.loss([images], prior=prior)['loss']
    full = MODELS.build(dict(type='mmssl.InfoMaxEncoder'))
    assert [tuple(stage[0].weight.shape) for stage in full.stages[:3]] == [
        (64, 3, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
    ]
    assert tuple(full.stages[3][1].weight.shape) == (1024, 256 * 4 * 4)
    net = MODELS.build(dict(type='mmssl.InfoMaxNet', in_channels=6, units=8))
    shortcut = net.shortcut.weight.detach()
    assert torch.equal(shortcut.diagonal(), torch.ones(6))
    assert 0 < (shortcut - torch.eye(8, 6)).abs().max() <= 0.01


def test_the_prior_is_drawn_anew_from_the_global_generator():
    model = dim().eval()
    images, _ = batch()
    torch.manual_seed(1)
    first, second = model.loss(images)['loss'], model.loss(images)['loss']
    torch.manual_seed(1)
    assert first == model.loss(images)['loss'] != second
    torch.manual_seed(1)
    assert (
        first
        == model.loss(
            images, prior=torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        )['loss']
    )


def test_frozen_stages_stay_as_they_are():
    encoder = MODELS.build(
        dict(
            type='mmssl.InfoMaxEncoder',
            img_size=16,
            channels=(4, 6, 8),
            hidden=10,
            frozen_stages=4,
            out_indices=(3,),
        )
    )
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    (out,) = encoder(batch(dtype=torch.float32)[0])
    assert out.shape == (4, 10) and not out.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_residual_network_with_a_chosen_stage():
    model = MODELS.build(
        dict(
            type='mmssl.DeepInfoMax',
            estimator='InfoNCE',
            local_index=0,
            local_channels=64,
            units=32,
            neck=dict(type='mmssl.MLP', dims=(128, 16)),
            backbone=dict(
                type='mmpretrain.ResNet', depth=50, base_channels=4, stem_channels=4, out_indices=(2, 3)
            ),
        )
    )
    assert model.memory_format is torch.channels_last
    loss = model.loss(torch.randn(2, 3, 64, 64))['loss']
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


def gathered(estimator, part, alone=True):
    """Loss, averaged gradients, and running statistics of a process with images ``part``."""
    model = dim(alpha=1.0, estimator=estimator, gather=True)
    if not alone:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        convert_sync_batchnorm(model)
    images, prior = batch(6)
    loss = model.loss(images[part], prior=prior[part])['loss']
    loss.backward()
    for parameter in model.parameters():
        if not alone:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    return (
        loss.detach(),
        {name: parameter.grad for name, parameter in model.named_parameters()},
        dict(model.named_buffers()),
    )


def train_rank(rank):
    results = {
        name: gathered(name, slice(3 * rank, 3 * rank + 3), alone=False) for name in ('JSD', 'InfoNCE', 'DV')
    }
    # one image per process is enough when negatives come from both
    results['single-image'] = infonce_loss(*tensors(batch=1, seed=rank), gather=True)
    return results


def test_two_processes_equal_a_single_process_with_the_joined_batch(two_ranks):
    first, second = two_ranks(train_rank)
    for name in ('JSD', 'InfoNCE', 'DV'):
        loss, gradients, buffers = gathered(name, slice(None))
        assert abs(loss - (first[name][0] + second[name][0]) / 2) < 1e-12
        for part in (first, second):
            assert part[name][1].keys() == gradients.keys()
            for key, gradient in gradients.items():
                torch.testing.assert_close(
                    part[name][1][key], gradient, atol=1e-12, rtol=1e-9, msg=f'{name} {key}'
                )
            for key, buffer in buffers.items():
                torch.testing.assert_close(
                    part[name][2][key], buffer, atol=1e-12, rtol=0, msg=f'{name} {key}'
                )
    pairs = zip(tensors(batch=1), tensors(batch=1, seed=1), strict=True)
    features, vectors = (torch.cat(parts) for parts in pairs)
    mean = (first['single-image'] + second['single-image']) / 2
    assert abs(infonce_loss(features, vectors) - mean) < 1e-12


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 2}
    straight, _ = check_exact_resume('infomax', tmp_path, 2, changes)
    assert len(straight.losses) == 4


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(alpha=0.0, beta=0.0), 'alpha or beta must be above 0'),
        (dict(gamma=-1.0), 'none may be negative'),
        (dict(estimator='MINE'), "estimator='MINE' is unknown; one of 'InfoNCE', 'DV'"),
        (dict(prior_loss='hinge'), "prior_loss='hinge'"),
        (dict(backbone=dict(type='mmssl.InfoMaxEncoder', img_size=30)), 'give a multiple of 8'),
        (dict(backbone=dict(type='mmssl.InfoMaxEncoder', out_indices=(4,))), 'give some of 0 to 3'),
    ],
)
def test_arguments_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dim(**change)


def test_inputs_that_do_not_fit_are_refused():
    features, vectors = tensors()
    with pytest.raises(ValueError, match=r'features have shape \(3, 4, 2\) and vectors \(2, 4, 2\)'):
        infonce_loss(features, vectors[:2])
    with pytest.raises(ValueError, match='a batch of 1 image has no negatives'):
        donsker_varadhan_loss(features[:1], vectors[:1])
    with pytest.raises(
        ValueError, match="measure='DV' is no divergence of fenchel_dual_loss; call donsker_varadhan_loss"
    ):
        fenchel_dual_loss(features, vectors, 'DV')
    with pytest.raises(
        ValueError, match="measure='jsd' is no divergence of fenchel_dual_loss; one of GAN, JSD"
    ):
        fenchel_dual_loss(features, vectors, 'jsd')
    with pytest.raises(
        ValueError, match='images are 24x16 and the dense layer of the encoder was built for 16x16'
    ):
        dim().loss(torch.randn(2, 3, 24, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match='takes 1 views, not 2'):
        dim().loss([batch()[0]] * 2)
