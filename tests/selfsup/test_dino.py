"""DINO against a plain reading of the paper, two processes, a resumed run; and what it refuses."""

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModule
from runs import check_exact_resume
from torch import distributed as dist
from torch import nn

from mmssl.layers.vit import ViT
from mmssl.layers.weight_norm import WeightNormLinear
from mmssl.registry import MODELS
from mmssl.selfsup.dino import DINO, DINOHead, DINOLoss, DINOViT

ROOT = Path(__file__).resolve().parents[2]
ARCH = {'embed_dims': 32, 'num_layers': 3, 'num_heads': 4, 'feedforward_channels': 64}
LR, WEIGHT_DECAY, CLIP, STEPS = 0.3, 0.01, 0.05, 6


class ConvTanh(BaseModule):
    """A convolution, a tanh, and the mean over the positions; records the shapes of its inputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.calls = []

    def forward(self, x):
        self.calls.append(tuple(x.shape))
        return (self.conv(x).tanh().mean((2, 3)),)


def small_dino(seed=0, norm_last_layer=True, **kwargs):
    torch.manual_seed(seed)
    head = DINOHead(4, 7, hidden_dim=6, bottleneck_dim=5, norm_last_layer=norm_last_layer)
    for parameter in head.mlp.parameters():
        nn.init.normal_(parameter, 0.0, 0.7)
    settings = dict(
        num_crops=4,
        warmup_teacher_temp=0.04,
        teacher_temp=0.07,
        warmup_teacher_temp_epochs=3,
        momentum=0.9,
        freeze_last_layer=1,
    )
    return DINO(ConvTanh(), head, **{**settings, **kwargs}).double().train()


def crops(batch=3, seed=1, large=9, small=5, number=4):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)
        for size in [large] * 2 + [small] * (number - 2)
    ]


def loss_of_pairs(student, teacher, center, student_temp, teacher_temp):
    """Algorithm 1 with multi-crop, one sample and one exponential at a time; (B, K) of each crop in lists."""

    def softmax(logits):
        exponentials = [math.e ** (x - max(logits)) for x in logits]
        return [value / sum(exponentials) for value in exponentials]

    total, terms = 0.0, 0
    for t, teacher_rows in enumerate(teacher):
        for s, student_rows in enumerate(student):
            if s == t:
                continue
            entropies = []
            for of_teacher, of_student in zip(teacher_rows, student_rows, strict=True):
                target = softmax(
                    [(float(x) - float(c)) / teacher_temp for x, c in zip(of_teacher, center, strict=True)]
                )
                logits = [x / student_temp for x in of_student]
                largest = max(x.item() for x in logits)
                normalizer = largest + sum((x - largest).exp() for x in logits).log()
                entropies.append(-sum(q * (x - normalizer) for q, x in zip(target, logits, strict=True)))
            total, terms = total + sum(entropies) / len(entropies), terms + 1
    return total / terms


class Reference:
    """DINO's algorithm with parameters in dicts, crop by crop, with clipped gradients and plain descent."""

    def __init__(self, model, norm_last_layer=True):
        self.student = {
            name: value.detach().clone().requires_grad_()
            for name, value in model.momentum_pairs()[0][1].named_parameters()
        }
        self.teacher = {name: value.detach().clone() for name, value in self.student.items()}
        self.center, self.fixed = torch.zeros(7, dtype=torch.float64), norm_last_layer

    @staticmethod
    def outputs(weights, images):
        rows = []
        for image in images:
            x = (
                F.conv2d(image[None], weights['0.conv.weight'], weights['0.conv.bias'], stride=2)
                .tanh()
                .mean((2, 3))[0]
            )
            for layer in (0, 2, 4):
                x = weights[f'1.mlp.{layer}.weight'] @ x + weights[f'1.mlp.{layer}.bias']
                x = x * (1 + torch.erf(x / math.sqrt(2))) / 2 if layer < 4 else x
            x = x / x.square().sum().sqrt()
            lengths = weights['1.last_layer.parametrizations.weight.original0'][:, 0]
            directions = weights['1.last_layer.parametrizations.weight.original1']
            rows.append(
                torch.stack(
                    [
                        g * (v * x).sum() / v.square().sum().sqrt()
                        for g, v in zip(lengths, directions, strict=True)
                    ]
                )
            )
        return torch.stack(rows)

    def step(self, views, number, epoch):
        with torch.no_grad():
            teacher = [self.outputs(self.teacher, view) for view in views[:2]]
        student = [self.outputs(self.student, view) for view in views]
        temperature = {0: 0.04, 1: 0.055, 2: 0.07}.get(epoch, 0.07)
        loss = loss_of_pairs(student, teacher, self.center, 0.1, temperature)
        gradients = torch.autograd.grad(loss, list(self.student.values()))
        self.center = 0.9 * self.center + 0.1 * sum(output.sum(0) for output in teacher) / sum(
            len(output) for output in teacher
        )
        momentum = 1 - (1 - 0.9) * (1 + math.cos(math.pi * number / STEPS)) / 2
        with torch.no_grad():
            for (name, value), gradient in zip(self.student.items(), gradients, strict=True):
                if 'last_layer' in name and (epoch < 1 or (self.fixed and name.endswith('original0'))):
                    continue
                norm = gradient.square().sum().sqrt()
                value -= LR * (gradient * min(1.0, CLIP / (norm + 1e-6)) + WEIGHT_DECAY * value)
            for name, value in self.teacher.items():  # after the step, towards the student as it is now
                value.copy_(momentum * value + (1 - momentum) * self.student[name])
        return loss.item()


def wrapped_sgd(model):
    from mmssl.registry import OPTIM_WRAPPERS

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return OPTIM_WRAPPERS.build(
        dict(
            type='mmssl.OptimWrapper',
            clip_grad=dict(type='each', max_norm=CLIP),
            optimizer=torch.optim.SGD(trained, lr=LR, weight_decay=WEIGHT_DECAY),
        )
    )


@pytest.mark.parametrize('ncrops', [2, 5])
def test_loss_is_the_mean_over_all_pairs_of_different_crops(ncrops):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(n * 3, 6, generator=generator, dtype=torch.float64) for n in (ncrops, 2))
    criterion = DINOLoss(6, ncrops, 0.04, 0.07, 4, 10, student_temp=0.2, center_momentum=0.8).double()
    centers = [torch.zeros(6, dtype=torch.float64)]
    for epoch, temperature in ((0, 0.04), (1, 0.05), (2, 0.06), (3, 0.07), (9, 0.07)):
        expected = loss_of_pairs(student.chunk(ncrops), teacher.chunk(2), centers[-1], 0.2, temperature)
        assert abs(criterion(student, teacher, epoch).item() - expected.item()) < 1e-12
        # moved after it was used, by the mean of both crops of the teacher
        centers.append(0.8 * centers[-1] + 0.2 * sum(teacher) / 6)
        assert (criterion.center[0] - centers[-1]).abs().max() < 1e-15 and criterion.center.shape == (1, 6)
    criterion.eval()
    before = criterion.center.clone()
    criterion(student, teacher, 0)
    assert torch.equal(criterion.center, before)


def test_loss_gradient_and_types():
    student, teacher = (torch.randn(rows, 6, dtype=torch.float64, requires_grad=True) for rows in (8, 4))
    criterion = DINOLoss(6, 4, 0.04, 0.07, 0, 10).eval()
    assert torch.autograd.gradcheck(lambda x: criterion(x, teacher, 0), student)
    criterion.train()(student, teacher, 0).backward()
    assert teacher.grad is None and student.grad is not None
    # half precision is worked on in float32
    low = DINOLoss(6, 4, 0.04, 0.07, 0, 10)
    loss = low(student.detach().bfloat16(), teacher.detach().bfloat16(), 0)
    assert loss.dtype == torch.float32 and low.center.dtype == torch.float32
    rounded = [x.detach().bfloat16().double() for x in (student, teacher)]
    assert loss.item() == pytest.approx(
        DINOLoss(6, 4, 0.04, 0.07, 0, 10).double()(*rounded, 0).item(), rel=1e-5
    )


@pytest.mark.parametrize('norm_last_layer', [True, False])
def test_steps_are_the_papers(norm_last_layer):
    """Loss, student, teacher and centre over three epochs of two steps."""
    model = small_dino(norm_last_layer=norm_last_layer)
    plain = Reference(model, norm_last_layer)
    wrapper = wrapped_sgd(model)
    model.attach(wrapper.optimizer)
    model.set_schedule(2, STEPS)
    last = model.head.last_layer.weight.detach().clone()
    for number in range(STEPS):
        views = crops(seed=number)
        expected = plain.step(views, number, number // 2)
        loss = model.loss(views)['loss']
        assert abs(loss.item() - expected) < 1e-12
        wrapper.update_params(loss)
        for own, reference in (
            (model.momentum_pairs()[0][1], plain.student),
            (model.teacher.module, plain.teacher),
        ):
            for name, value in own.named_parameters():
                assert (value - reference[name]).abs().max() < 1e-12, (number, name)
        assert (model.dino_loss.center[0] - plain.center).abs().max() < 1e-12
        assert torch.equal(model.head.last_layer.weight, last) == (number < 2)
        assert all(parameter.grad is None for parameter in model.teacher.parameters())
    lengths = model.head.last_layer.weight.norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths)) == norm_last_layer
    assert model.teacher.steps == model.clock.steps == STEPS and model.clock.epoch == 3


@pytest.mark.filterwarnings('ignore:DINO changes gradients')
def test_a_forward_pass_per_size_and_only_global_crops_for_the_teacher():
    model = small_dino()
    model.loss(crops())
    assert model.backbone.calls == [(6, 3, 9, 9), (6, 3, 5, 5)] and model.teacher.module[0].calls == [
        (6, 3, 9, 9)
    ]
    model = small_dino()
    model.loss(crops(small=9))
    assert model.backbone.calls == [(12, 3, 9, 9)] and model.teacher.module[0].calls == [(6, 3, 9, 9)]


def test_features_are_the_teachers_or_the_students():
    images = crops()[0]
    for whose in ('teacher', 'student'):
        model = small_dino(evaluate=whose)
        with torch.no_grad():
            model.backbone.conv.weight.add_(1.0)
        own, other = (model.teacher.module[0], model.backbone)[:: 1 if whose == 'teacher' else -1]
        assert torch.equal(model.extract_feat(images)[0], own(images)[0]) and not torch.equal(
            own(images)[0], other(images)[0]
        )


def random_vit(**kwargs):
    torch.manual_seed(0)
    backbone = DINOViT(arch=ARCH, img_size=32, patch_size=8, **kwargs)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone.double()


@pytest.mark.parametrize('size', [(32, 32), (16, 24)])
def test_class_tokens_are_those_of_the_plain_vit(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    backbone = random_vit()
    plain = ViT(arch=ARCH, img_size=32, patch_size=8, out_type='cls_token', out_indices=(1, 2)).double()
    plain.load_state_dict(backbone.state_dict())
    before_last, last = plain(images)
    (got,) = backbone(images)
    torch.testing.assert_close(got, last, atol=1e-12, rtol=0)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(net.parameters()))
        for out, net in ((got, backbone), (last, plain))
    ]
    for own, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(own, reference, atol=1e-9, rtol=1e-9)
    # for linear probing: class tokens of several blocks, each after the norm; and the averaged patches
    probe = random_vit(num_cls_tokens=2, with_avg_patches=True)
    plain.out_type = 'raw'
    raw = plain(images)[1]
    expected = torch.cat([plain.ln1(before_last), last, raw[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(probe(images)[0], expected, atol=1e-12, rtol=0)


def test_positions_of_small_crops_are_bicubic_and_learned():
    backbone = random_vit()
    table = backbone.pos_embed
    expected = F.interpolate(
        table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2), scale_factor=(2 / 4, 3 / 4), mode='bicubic'
    )
    got = backbone.positions((2, 3))
    torch.testing.assert_close(got[:, 1:], expected.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)
    assert torch.equal(got[:, :1], table[:, :1])
    backbone(torch.randn(2, 3, 16, 24, dtype=torch.float64))[0].sum().backward()
    assert bool((table.grad.abs().sum(-1) > 0).all())


def test_initialisation_is_as_released():
    torch.manual_seed(0)
    backbone = DINOViT(arch='tiny')
    for values in (
        backbone.pos_embed,
        backbone.layers[3].attn.qkv.weight,
        backbone.layers[0].ffn.layers[1].weight,
    ):
        assert values.std().item() == pytest.approx(0.02, rel=0.02) and abs(values.mean().item()) < 1e-3
    assert (
        backbone.pos_embed.requires_grad
        and backbone.cls_token.abs().sum() > 0
        and not backbone.layers[0].attn.qkv.bias.any()
    )
    head = DINOHead(64, 128)
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02) and not head.mlp[0].bias.any()
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(128))
    assert [tuple(module.weight.shape) for module in head.mlp if isinstance(module, nn.Linear)] == [
        (2048, 64),
        (2048, 2048),
        (256, 2048),
    ]


def test_stochastic_depth_is_the_students_alone():
    torch.manual_seed(0)
    model = DINO(
        DINOViT(arch=ARCH, img_size=32, patch_size=8, drop_path_rate=0.5),
        dict(type='DINOHead', out_dim=16),
        num_crops=2,
    )
    model.train()
    images = torch.randn(8, 3, 32, 32)
    teacher, student = model.teacher.module[0], model.backbone
    assert torch.equal(teacher(images)[0], teacher(images)[0]) and not torch.equal(
        student(images)[0], student(images)[0]
    )
    assert model.head.in_dim == 32


def test_weight_norm_is_torchs():
    torch.manual_seed(0)
    own = WeightNormLinear(5, 7, fixed_length=False).double()
    other = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False)).double()
    old = {f'weight_{name}': torch.rand(7, size, dtype=torch.float64) for name, size in (('g', 1), ('v', 5))}
    other.load_state_dict(old)
    own.load_state_dict(other.state_dict())
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(own(x), other(x), atol=1e-14, rtol=0)
    for layer in (own, other):
        layer(x).square().sum().backward()
    for (name, value), (same, reference) in zip(
        own.named_parameters(), other.named_parameters(), strict=True
    ):
        assert name == same
        torch.testing.assert_close(value.grad, reference.grad, atol=1e-13, rtol=0)
    fresh = WeightNormLinear(5, 7).double()
    fresh.load_state_dict(old, strict=True)  # names of older files
    assert torch.equal(fresh.weight, own.weight) and not fresh.weight_g.requires_grad


def test_residual_networks_and_batch_norm_in_the_head():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmssl.DINO',
            num_crops=3,
            freeze_last_layer=0,
            momentum=0.5,
            final_momentum=None,
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
            head=dict(
                type='mmssl.DINOHead', in_dim=64, out_dim=16, hidden_dim=32, bottleneck_dim=8, use_bn=True
            ),
        )
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.attach(optimizer)
    before = copy.deepcopy(model.teacher.module)
    model.train().loss([torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64), torch.randn(4, 3, 32, 32)])[
        'loss'
    ].backward()
    optimizer.step()
    for old, own, student in zip(
        before.parameters(),
        model.teacher.module.parameters(),
        model.momentum_pairs()[0][1].parameters(),
        strict=True,
    ):
        torch.testing.assert_close(own, (old + student) / 2, atol=1e-7, rtol=1e-5)
    mine, theirs = model.teacher.module[0].bn1.running_mean, model.backbone.bn1.running_mean
    assert mine.any() and not torch.equal(mine, theirs)  # its own statistics, of the large crops alone


@pytest.mark.filterwarnings('ignore:DINO changes gradients')
def test_bfloat16_trains_on_the_cpu():
    torch.manual_seed(0)
    model = DINO(
        DINOViT(arch=ARCH, img_size=32, patch_size=8), dict(type='DINOHead', out_dim=16), num_crops=3
    ).train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.randn(4, 3, 16, 16)])[
            'loss'
        ]
    loss.backward()
    assert loss.dtype == torch.float32 and all(
        parameter.grad.isfinite().all() for parameter in model.backbone.parameters()
    )


def train_two_steps(model, views_of_step):
    """Two steps in float64, with DistributedDataParallel in a process group; losses and state dict."""
    wrapper = wrapped_sgd(model)
    model.attach(wrapper.optimizer)
    model.set_schedule(1, 2)
    network = nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    losses = []
    for views in views_of_step:
        loss = network(views, mode='loss')['loss']
        losses.append(loss.item())
        wrapper.update_params(loss)
    return losses, {key: value.clone() for key, value in model.state_dict().items()}


def train_rank(rank):
    steps = [[view[2 * rank : 2 * rank + 2] for view in crops(batch=4, seed=number)] for number in (0, 1)]
    return train_two_steps(small_dino(warmup_teacher_temp_epochs=2), steps)


def test_two_processes_equal_a_single_process_with_the_joined_batch(two_ranks):
    ranks = two_ranks(train_rank)
    steps = [crops(batch=4, seed=number) for number in (0, 1)]
    losses, weights = train_two_steps(small_dino(warmup_teacher_temp_epochs=2), steps)
    for number, loss in enumerate(losses):
        assert abs(sum(rank[0][number] for rank in ranks) / 2 - loss) < 1e-12
    assert weights['dino_loss.center'].abs().max() > 1e-3
    for key, value in weights.items():
        for _, state in ranks:
            assert (value - state[key]).abs().max() < 1e-12, key


def test_a_run_is_resumed_exactly(tmp_path):
    pipeline = [
        dict(type='mmssl.LoadViews', preset='dino', scale=16, local_scale=8, num_local=1),
        dict(type='PackInputs'),
    ]
    changes = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline': pipeline,
        'train_cfg.max_iters': 8,
        'param_scheduler.0.end': 8,
        'param_scheduler.1.end': 8,
        'default_hooks.checkpoint.interval': 3,
        'model.backbone.img_size': 16,
        'model.head.norm_last_layer': False,
        'model.num_crops': 3,
        'model.freeze_last_layer': 1,
        'model.warmup_teacher_temp_epochs': 1,
        'model.teacher_temp': 0.07,
    }
    # inside the first epoch of six steps, in which the last layer is not trained
    straight, saved = check_exact_resume('dino', tmp_path, 3, changes)
    assert straight.model['teacher.steps'] == straight.model['clock.steps'] == 8
    for key, value in straight.model.items():
        if key.startswith(('head.last_layer', 'teacher', 'backbone.layers', 'dino_loss')):
            assert not torch.equal(value, saved[key]), key
    decays = sorted(group['weight_decay'] for group in straight.optimizer['param_groups'])
    assert decays[0] == 0 and decays[-1] == pytest.approx(0.4)


def test_recipe_of_the_configs():
    for name, temperatures, fixed in (
        ('dino_vit-small-p16_8xb64-amp-coslr-100e_in1k', (0.04, 0.04, 0), True),
        ('dino_vit-small-p16_16xb64-amp-coslr-300e_in1k', (0.04, 0.07, 30), False),
        ('dino_vit-small-p8_16xb64-coslr-300e_in1k', (0.04, 0.07, 30), False),
        ('dino_vit-base-p16_16xb64-amp-coslr-100e_in1k', (0.04, 0.04, 0), True),
    ):
        cfg = Config.fromfile(ROOT / f'configs/dino/{name}.py')
        model, wrapper = cfg.model, cfg.optim_wrapper
        assert (
            model.warmup_teacher_temp,
            model.teacher_temp,
            model.warmup_teacher_temp_epochs,
        ) == temperatures
        assert model.head.norm_last_layer is fixed and model.head.out_dim == 65536 and model.num_crops == 10
        assert wrapper.optimizer.lr == pytest.approx(5e-4 * cfg.auto_scale_lr.base_batch_size / 256)
        assert wrapper.clip_grad == dict(type='each', max_norm=3.0) and wrapper.optimizer.weight_decay == 0.04
        assert (
            cfg.param_scheduler[1].final == 0.4
            and model.momentum == 0.996
            and model.backbone.drop_path_rate == 0.1
        )
        assert {scheduler.end for scheduler in cfg.param_scheduler} == {cfg.train_cfg.max_epochs}


LOSS = functools.partial(DINOLoss, 6, 4, 0.04, 0.07, 0, 10)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: DINOLoss(6, 1, 0.04, 0.07, 0, 10), 'ncrops=1'),
        (lambda: DINOLoss(6, 4, 0.04, 0.0, 0, 10), 'teacher_temp=0.0 of DINO must be above 0'),
        (lambda: DINOLoss(6, 4, -1, 0.07, 0, 10), 'warmup_teacher_temp=-1'),
        (
            lambda: DINOLoss(6, 4, 0.04, 0.07, 30, 10),
            'warmup_teacher_temp_epochs=30 in a run of 10 epochs',
        ),
        (lambda: DINOLoss(6, 4, 0.04, 0.07, -1, 10), 'warmup_teacher_temp_epochs=-1'),
        (lambda: LOSS(student_temp=0), 'student_temp=0'),
        (lambda: LOSS(center_momentum=1.5), 'center_momentum=1.5'),
        (lambda: LOSS()(torch.zeros(8, 6), torch.zeros(3, 6), 0), 'the teacher 3'),
        (lambda: LOSS()(torch.zeros(7, 6), torch.zeros(4, 6), 0), 'the student has 7 outputs'),
        (lambda: DINOHead(4, 0), 'out_dim=0'),
        (lambda: DINOHead(4, 5, nlayers=0), 'nlayers=0'),
        (lambda: DINOViT(arch=ARCH, num_cls_tokens=4), 'num_cls_tokens=4 of a ViT with 3 layers'),
        (
            lambda: DINO(DINOViT(arch=ARCH, img_size=32), DINOHead(16, 8)),
            'head has in_dim=16, but the backbone has 32 channels',
        ),
        (lambda: small_dino(evaluate='both'), "evaluate='both'"),
        (lambda: small_dino(freeze_last_layer=-1), 'freeze_last_layer=-1'),
        (lambda: small_dino(momentum=2.0), 'momentum=2.0'),
        (lambda: small_dino().set_schedule(10, 20), 'warmup_teacher_temp_epochs=3 in a run of 2 epochs'),
        (lambda: small_dino().loss(crops()[0]), 'takes a list of views'),
        (lambda: small_dino().loss(crops(number=3)), 'takes 4 views, not 3'),
        (lambda: small_dino().loss(crops()[1:] + crops()[:1]), 'must be equal'),
    ],
)
@pytest.mark.filterwarnings('ignore:DINO changes gradients')
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_without_a_schedule_are_refused():
    for settings in (dict(), dict(final_momentum=None), dict(final_momentum=None, freeze_last_layer=0)):
        model = small_dino(**settings)
        wrapper = wrapped_sgd(model)
        model.attach(wrapper.optimizer)
        loss = model.loss(crops())['loss']
        with pytest.raises(RuntimeError, match='set_schedule'):
            wrapper.update_params(loss)
