"""Base classes: when teachers move and hooks run, in a run, in custom loops, accumulated and under DDP."""

import copy
import pickle
import warnings

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmssl.engine.runner import Runner
from mmssl.layers.momentum import MomentumEncoder
from mmssl.selfsup.base import ScheduledSupervisor, SelfSupervisor


class Toy(ScheduledSupervisor):
    """One weight w and its teacher c; two views x and y; the loss is the mean of (w x - c y - 1)^2.

    c moves in the forward pass, once per step; the bias b is trained from the third step on.
    """

    def __init__(self, momentum=0.5, final_momentum=None):
        super().__init__(nn.Linear(1, 1))
        nn.init.constant_(self.backbone.weight, 2.0)
        nn.init.constant_(self.backbone.bias, 0.0)
        self.momentum_encoder = MomentumEncoder(self.backbone, momentum, final_momentum)
        self.events = []

    def momentum_pairs(self):
        return [(self.momentum_encoder, self.backbone)]

    def before_update(self):
        self.events.append(('before', self.clock.steps, self.backbone.weight.item()))
        if self.clock.steps < 2:
            self.backbone.bias.grad = None

    def after_update(self):
        self.events.append(('after', self.clock.steps, self.backbone.weight.item()))

    def loss(self, inputs, data_samples=None):
        self.begin_forward()
        first, second = inputs
        self.update_teachers()
        return dict(loss=(self.backbone(first) - self.momentum_encoder(second) - 1).square().mean())

    def forward(self, inputs, data_samples=None, mode='loss'):
        return self.loss(inputs, data_samples)


class Nothing(SelfSupervisor):
    """No method."""

    def loss(self, inputs, data_samples=None):
        return dict()


class ByHand:
    """The same by arithmetic; ``step(batches)`` is a step of SGD, learning rate 0.1, on several batches."""

    def __init__(self, momentum):
        self.w, self.b, self.c, self.d, self.steps, self.momentum = 2.0, 0.0, 2.0, 0.0, 0, momentum

    def step(self, batches):
        m = self.momentum(self.steps)
        self.c, self.d = m * self.c + (1 - m) * self.w, m * self.d + (1 - m) * self.b
        grad_w = grad_b = 0.0
        for batch in batches:
            for x, y in batch:
                error = self.w * x + self.b - self.c * y - self.d - 1
                grad_w += 2 * error * x / len(batch) / len(batches)
                grad_b += 2 * error / len(batch) / len(batches)
        self.w -= 0.1 * grad_w
        if self.steps >= 2:
            self.b -= 0.1 * grad_b
        self.steps += 1
        return self

    def agrees(self, model):
        got = [
            tensor.item()
            for tensor in (*model.backbone.parameters(), *model.momentum_encoder.module.parameters())
        ]
        assert got == pytest.approx([self.w, self.b, self.c, self.d], abs=1e-6)
        assert model.momentum_encoder.steps == self.steps


VALUES = [
    [(0.1 * i + 0.3 * j, 0.2 * i - 0.1 * j) for j in range(2)] for i in range(8)
]  # eight batches of two images of one pixel


def views(batch):
    return [torch.tensor([[pair[index]] for pair in batch]) for index in (0, 1)]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer, *batches):
    optimizer.zero_grad()
    for batch in batches:
        (model(views(batch))['loss'] / len(batches)).backward()
    optimizer.step()


def run(model, folder, **wrapper):
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            return [torch.tensor([value]) for value in VALUES[index // 2][index % 2]]

    model.data_preprocessor.forward = lambda data, training=False: dict(inputs=data)
    Runner(
        model,
        str(folder),
        train_dataloader=torch.utils.data.DataLoader(Data(), batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=OptimWrapper(sgd(model), **wrapper),
        default_hooks=dict(checkpoint=None, logger=None),
        experiment_name=folder.name,
        log_level='ERROR',
    ).train()


def test_a_run(tmp_path):
    model, hand = Toy(), ByHand(lambda step: 0.5)
    run(model, tmp_path)
    for batch in VALUES:
        hand.step([batch])
    hand.agrees(model)
    assert (model.clock.steps, model.clock.steps_per_epoch, model.clock.max_steps, model.clock.epoch) == (
        8,
        8,
        8,
        1,
    )
    assert [event[:2] for event in model.events] == [
        (moment, number) for number in range(8) for moment in ('before', 'after')
    ]
    assert all(
        before[2] != after[2] for before, after in zip(model.events[::2], model.events[1::2], strict=True)
    )


def test_the_former_name_of_update_teachers_still_works():
    model = Toy()
    with pytest.warns(DeprecationWarning, match=r'ScheduledSupervisor\.follow is deprecated'):
        model.follow()
    assert model.momentum_encoder.steps == 1


def test_an_accumulated_run_moves_the_copy_once_a_step(tmp_path):
    def momentum(number):
        return 1 - 0.4 * (1, 0.8535533905932737, 0.5, 0.14644660940672627)[number]

    model, hand = Toy(0.6, 1.0), ByHand(momentum)
    run(model, tmp_path, accumulative_counts=2)
    for first, second in zip(VALUES[::2], VALUES[1::2], strict=True):
        hand.step([first, second])
    hand.agrees(model)
    assert model.momentum_encoder.max_steps == model.clock.max_steps == model.clock.steps == 4


def test_a_loop_of_ones_own_attached():
    model, hand = Toy(), ByHand(lambda step: 0.5)
    optimizer = sgd(model)
    model.attach(optimizer)
    model.attach(optimizer)
    for number in range(4):
        step(model, optimizer, *VALUES[2 * number : 2 * number + 2])
        hand.step(VALUES[2 * number : 2 * number + 2]).agrees(model)
    assert len(model.events) == 8


def test_a_loop_of_ones_own_that_attaches_nothing_catches_up():
    """``after_update`` runs when the next batch comes; ``before_update`` cannot, and a warning says so."""

    class Simple(Toy):
        before_update = ScheduledSupervisor.before_update

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = Simple()
        optimizer = sgd(model)
        for batch in VALUES[:3]:
            step(model, optimizer, batch)
    assert [event[:2] for event in model.events] == [('after', 0), ('after', 1)]
    assert model.clock.steps == 2 and model.momentum_encoder.steps == 3
    with pytest.warns(
        UserWarning,
        match=r'Toy changes gradients before each optimizer step, and is not attached .*call model.attach',
    ):
        Toy()(views(VALUES[0]))


@pytest.mark.parametrize('fused', [True, False])
def test_a_step_that_a_gradient_scaler_skips_moves_nothing(fused):
    model = Toy().train()
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    model.attach(optimizer)
    reads = []

    def update(factor):
        optimizer.zero_grad()
        scaler.scale(model.loss(views([(1.0, 0.5)]))['loss'] * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        reads.append((model.clock.steps, model.momentum_encoder.steps, len(model.events)))

    update(1.0)
    weight = model.backbone.weight.item()
    update(torch.inf)
    assert reads == [(1, 1, 2), (1, 2, 2)]  # the copy moves in the forward pass, to the first step's weights
    assert model.backbone.weight.item() == weight
    update(torch.inf)
    assert reads[-1] == (1, 2, 2) and scaler.get_scale() == 1.0
    update(1.0)
    assert reads[-1] == (2, 2, 4)


def test_train_step_attaches():
    model, hand = Toy(), ByHand(lambda step: 0.5)
    model.data_preprocessor.forward = lambda data, training=False: dict(inputs=data)
    wrapper = OptimWrapper(sgd(model))
    for batch in VALUES[:4]:
        model.train_step(views(batch), wrapper)
        hand.step([batch]).agrees(model)


def test_every_new_optimizer_is_attached():
    """Also one that stands where a dead one stood in memory."""
    model = Toy()
    for number in range(20):
        optimizer = sgd(model)
        model.attach(optimizer)
        step(model, optimizer, VALUES[0])
        assert model.clock.steps == number + 1
        del optimizer


def test_evaluation_moves_no_clock():
    model = Toy().eval()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for batch in VALUES[:3]:
            model.begin_forward()
            model.backbone(views(batch)[0])
    assert model.clock.steps == 0 and not model.events


def test_the_clock_is_in_the_state_dict():
    model, other = Toy(), Toy()
    optimizer = sgd(model)
    model.attach(optimizer)
    model.set_schedule(2, 8)
    for batch in VALUES[:5]:
        step(model, optimizer, batch)
    other.load_state_dict(model.state_dict())
    other.set_schedule(2, 8)
    assert (other.clock.steps, other.clock.followed, other.clock.epoch, other.momentum_encoder.steps) == (
        5,
        4,
        2,
        5,
    )
    second = sgd(other)
    other.attach(second)
    for each, its in ((model, optimizer), (other, second)):
        step(each, its, VALUES[5])
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert Toy().clock.epoch == 0  # nobody said how long an epoch is
    with pytest.raises(ValueError, match='a run of 0 iterations with 3 per epoch: both must be above 0'):
        model.set_schedule(3, 0)


def test_copies_begin_equal_to_new_weights():
    model = Toy()
    with torch.no_grad():
        model.backbone.weight += 1
    model.init_weights()
    assert torch.equal(model.momentum_encoder.module.weight, model.backbone.weight)


def test_a_checkpoint_of_the_encoder_alone_sets_the_copy_too():
    model = Toy()
    model.load_state_dict(
        {'backbone.weight': torch.tensor([[7.0]]), 'backbone.bias': torch.tensor([1.0])}, strict=False
    )
    assert model.momentum_encoder.module.weight.item() == 7 and model.momentum_encoder.module.bias.item() == 1
    whole = Toy().state_dict()
    whole['backbone.weight'] = torch.tensor([[5.0]])
    model.load_state_dict(whole)
    assert model.momentum_encoder.module.weight.item() == 2  # a checkpoint with the copy is taken as it is


def test_models_are_copied_and_pickled():
    model = Toy()
    optimizer = sgd(model)
    model.attach(optimizer)
    step(model, optimizer, VALUES[0])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
        its = sgd(other)
        other.attach(its)
        step(other, its, VALUES[1])
        assert other.clock.steps == 2 and model.clock.steps == 1


def test_views():
    model = Nothing(nn.Conv2d(3, 4, 3))
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert model.memory_format is torch.contiguous_format and model.views([images], 1)[0].is_contiguous()
    model = Nothing(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    (view,) = model.views([images.contiguous()])
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(
        ValueError,
        match='Nothing takes a list of views, not one batch of images; begin the pipeline with mmssl.Load',
    ):
        model.views(images)
    with pytest.raises(ValueError, match='Nothing takes 2 views, not 1'):
        model.views([images], 2)


def test_parts_and_preprocessor_resolve_in_any_scope():
    from mmengine.registry import init_default_scope

    init_default_scope('mmengine')
    model = Nothing(
        dict(type='mmpretrain.ResNet', depth=18, base_channels=4, stem_channels=4),
        dict(type='MLP', dims=(32, 4)),
        data_preprocessor=dict(mean=[1.0, 1.0, 1.0], std=[2.0, 2.0, 2.0]),
    )
    assert type(model.data_preprocessor).__name__ == 'SelfSupDataPreprocessor' and model.neck.dims == (32, 4)
    assert model.data_preprocessor(dict(inputs=torch.full((1, 3, 2, 2), 5), data_samples=None), True)[
        'inputs'
    ][0].unique().tolist() == [2.0]


def train_rank(rank):
    model = Toy()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = sgd(model)
    model.attach(optimizer)
    for batch in VALUES[:4]:
        optimizer.zero_grad()
        parallel(views(batch[rank : rank + 1]))['loss'].backward()
        optimizer.step()
    return model.state_dict()


def test_two_processes_equal_a_single_process_with_the_joined_batch(two_ranks):
    hand = ByHand(lambda step: 0.5)
    for batch in VALUES[:4]:
        hand.step([batch])
    for state in two_ranks(train_rank):
        model = Toy()
        model.load_state_dict(state)
        hand.agrees(model)
        assert model.clock.steps == 4


@pytest.mark.parametrize(
    'name, part',
    [('MoCo', 'head'), ('SimCLR', 'head'), ('BEiT', 'neck'), ('DINO', 'neck'), ('Rotation', 'neck')],
)
def test_parts_that_a_method_does_not_have_are_refused(name, part, repo_root):
    """mmpretrain's configs give MoCo and SimCLR a head with the temperature, which would have no effect."""
    from mmengine.config import Config

    from mmssl.registry import MODELS

    configs = dict(MoCo='moco', SimCLR='simclr', BEiT='beit', DINO='dino', Rotation='rotation')
    cfg = Config.fromfile(repo_root / f'configs/smoke/{configs[name]}.py').model
    cfg[part] = dict(type='mmpretrain.ContrastiveHead', temperature=0.2)
    with pytest.raises(ValueError, match=f'does not use {part}='):
        MODELS.build(cfg)
