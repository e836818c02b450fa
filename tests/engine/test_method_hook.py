"""The hook that connects a method to its run: lengths of epoch and run, and the optimizer."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmssl.engine.method_hook import MethodHook
from mmssl.engine.runner import Runner
from mmssl.layers.momentum import MomentumEncoder
from mmssl.selfsup.base import ScheduledSupervisor


class Model(BaseModel):
    """Records the calls of the hook, and the forward passes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.calls = []

    def set_schedule(self, iterations_per_epoch, max_iterations):
        self.calls.append((iterations_per_epoch, max_iterations))

    def attach(self, optimizer):
        self.calls.append(optimizer)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.calls.append('forward')
        return dict(loss=self.layer(inputs).mean())


def run(tmp_path, train_cfg, model, accumulative_counts=1, length=5, hooks=()):
    loader = torch.utils.data.DataLoader([dict(inputs=torch.ones(2)) for _ in range(length)], batch_size=1)
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=accumulative_counts
    )
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=train_cfg,
        optim_wrapper=wrapper,
        custom_hooks=list(hooks),
        default_hooks=dict(checkpoint=None, logger=None),
        experiment_name=tmp_path.name,
        log_level='ERROR',
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('train_cfg', 'accumulated', 'lengths'),
    [
        (dict(by_epoch=True, max_epochs=3), 1, (5, 15)),
        (dict(by_epoch=True, max_epochs=4), 2, (2, 10)),
        (dict(by_epoch=False, max_iters=7), 1, (5, 7)),
        (dict(by_epoch=False, max_iters=3), 1, (3, 3)),
        (dict(by_epoch=False, max_iters=4), 8, (1, 1)),
    ],
)
def test_a_method_gets_the_lengths_in_optimizer_steps_before_its_first_batch(
    train_cfg, accumulated, lengths, tmp_path
):
    model = Model()
    runner = run(tmp_path, train_cfg, model, accumulated)
    assert model.calls[:3] == [lengths, runner.optim_wrapper.optimizer, 'forward']
    assert model.calls.count(lengths) == 1  # the runner adds the hook once


def test_a_hook_of_the_config_is_not_doubled(tmp_path):
    model = Model()
    runner = run(tmp_path, dict(by_epoch=True, max_epochs=1), model, hooks=[MethodHook()])
    assert sum(isinstance(hook, MethodHook) for hook in runner.hooks) == 1 and model.calls.count((5, 5)) == 1


@pytest.mark.parametrize(('iteration', 'steps'), [(0, 0), (3, 7)])
def test_schedules_begin_at_step_0_unless_the_run_is_resumed(iteration, steps):
    class Method(ScheduledSupervisor):
        def loss(self, inputs, data_samples=None):
            """Compute nothing."""

    model = Method(nn.Conv2d(3, 2, 1))
    model.teacher = MomentumEncoder(model.backbone, 0.9, 1.0)
    model.momentum_pairs = lambda: [(model.teacher, model.backbone)]
    model.clock.steps = model.clock.followed = model.teacher.steps = 7  # of the checkpoint
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=0.1)
    MethodHook().before_train(
        SimpleNamespace(
            model=model,
            iter=iteration,
            max_iters=14,
            train_dataloader=[0, 1],
            train_loop=None,
            optim_wrapper=SimpleNamespace(optimizer=optimizer),
        )
    )
    assert (model.clock.steps, model.teacher.steps) == (steps, steps)
    assert model.clock.followed == (7 if steps else -1)
    assert model.teacher.current_momentum() == pytest.approx(0.95 if steps else 0.9)


def test_models_of_the_toolboxes_are_left_unchanged(tmp_path):
    class Plain(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.layer(inputs).mean())

    assert run(tmp_path, dict(by_epoch=True, max_epochs=1), Plain()).iter == 5
