"""A bad step stops the run or is skipped; the optimizer never uses it."""

from types import SimpleNamespace

import pytest
import resume_toy as toy
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement

from mmssl.engine import nonfinite_flag, runtime_info
from mmssl.engine.nonfinite import NonFiniteError, NonFiniteHook, image_files
from mmssl.engine.optim_wrapper import OptimWrapper
from mmssl.engine.runner import Runner


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data') / 'images'
    toy.make_images(directory)
    return directory


@pytest.fixture
def asynchronous(monkeypatch):
    """Treat the CPU as a device whose values are read later, as those of a GPU."""
    for module in (nonfinite_flag, runtime_info):
        monkeypatch.setattr(module, 'is_asynchronous', lambda tensor: True)


def build(
    tmp_path, images, accumulate=1, fail_on=('03.png',), clip=None, batches=1, wrapper='OptimWrapper', **hook
):
    cfg = toy.config(
        tmp_path,
        images,
        accumulate=accumulate,
        fail_on=fail_on,
        validate=False,
        ema=False,
        wrapper=wrapper,
        clip_grad=clip,
        epochs=batches,
        loop='epoch',
        sampler='DefaultSampler',
        hooks=[dict(type='mmssl.NonFiniteHook', **hook)],
    )
    cfg['train_dataloader']['sampler']['shuffle'] = False
    cfg['model'] = dict(type='ToyNet')
    return Runner.from_cfg(cfg)


def count_steps(runner):
    """The optimizer's wrapper and the list of iterations at which the optimizer steps."""
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    stepped = []
    runner.optim_wrapper.optimizer.register_step_post_hook(lambda *args: stepped.append(runner.iter))
    return runner.optim_wrapper, stepped


def weights(runner):
    return {name: value.clone() for name, value in runner.model.named_parameters()}


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'mmssl.AmpOptimWrapper'])
def test_stops_at_the_step_and_names_the_files(tmp_path, images, wrapper):
    """Image 03 is in the first of the unshuffled batches; the weights are those of the start."""
    runner = build(tmp_path, images, wrapper=wrapper)
    before = weights(runner)
    with pytest.raises(
        NonFiniteError,
        match=r'iteration 1: not finite: loss_fit = nan.*00.png.*03.png.*optimizer has not used it',
    ):
        runner.train()
    assert all(torch.equal(value, before[name]) for name, value in weights(runner).items())


def test_a_wrapper_that_does_not_check_stops_after_the_step(tmp_path, images):
    from mmengine.optim import OptimWrapper

    runner = build(tmp_path, images)
    optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    runner.optim_wrapper = OptimWrapper(optimizer)
    with pytest.raises(
        NonFiniteError, match=r'(?s)iteration 1: not finite.*03\.png.*The optimizer has used it'
    ):
        runner.train()


def test_skips_within_the_budget(tmp_path, images):
    """One of five batches is bad in three epochs: the optimizer takes twelve steps."""
    runner = build(tmp_path, images, batches=3, policy='skip', budget=100, fail_on=('19.png',))
    optim, stepped = count_steps(runner)
    runner.train()
    assert stepped == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]
    assert optim.inner_count == 15 and runner.message_hub.get_info('non_finite_skips') == 3
    state = runner.model.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in state.values())  # running statistics too


def test_budget_ends_the_run(tmp_path, images):
    runner = build(tmp_path, images, batches=4, policy='skip', budget=2, fail_on=('19.png',))
    count_steps(runner)
    with pytest.raises(NonFiniteError, match='iteration 15.*skipped so far: 3, more than the budget of 2'):
        runner.train()


def test_bad_batch_takes_its_accumulated_step_with_it(tmp_path, images):
    """Batches 0 1 | 2 3 | 4: batch 2 is bad, so of the steps after 1, 3 and 4 the middle one is skipped."""
    runner = build(tmp_path, images, accumulate=2, policy='skip', fail_on=('08.png',))
    optim, stepped = count_steps(runner)
    runner.train()
    assert stepped == [1, 4] and optim.inner_count == 5


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0), dict(type='value', clip_value=1.0)])
def test_bad_gradients_do_not_reach_the_optimizer(tmp_path, images, clip):
    """A finite loss whose gradient is not: the derivative of a root at zero."""
    runner = build(tmp_path, images, fail_on=(), clip=clip)
    before = weights(runner)
    forward = runner.model.forward
    runner.model.forward = lambda *args, **kwargs: dict(
        loss_root=(runner.model.net[0].weight * 0).abs().sum().sqrt(), **forward(*args, **kwargs)
    )
    with pytest.raises(NonFiniteError, match='iteration 1: the gradient norm is (nan|inf)'):
        runner.train()
    assert all(torch.equal(value, before[name]) for name, value in weights(runner).items())


def test_a_loss_is_read_before_the_optimizer_uses_it(asynchronous, tmp_path, images):
    runner = build(tmp_path, images, policy='skip', fail_on=('19.png',), batches=2)
    optim, stepped = count_steps(runner)
    runner.train()
    assert stepped == [0, 1, 2, 3, 5, 6, 7, 8] and optim.inner_count == 10
    assert all(bool(torch.isfinite(value).all()) for value in runner.model.state_dict().values())


def bad_gradient(runner, step):
    """Let the gradients of one step be NaN, and its loss finite."""
    forward = runner.model.forward

    def with_root(*args, **kwargs):
        bad = 0.0 if runner.iter == step else 1.0
        weight = runner.model.net[0].weight
        return dict(loss_root=(weight * 0 + bad).abs().sum().sqrt() * 0, **forward(*args, **kwargs))

    runner.model.forward = with_root


@pytest.mark.parametrize(
    ('policy', 'interval', 'message'),
    [
        ('stop', 10, 'iteration 2: the gradient norm is nan, and the optimizer has used it'),
        ('stop', 2, r'weights are NaN or infinite \(net.0.weight and .* no checkpoint is written'),
        ('skip', 2, None),
    ],
)
def test_gradients_are_read_late_and_never_saved(asynchronous, tmp_path, images, policy, interval, message):
    runner = build(tmp_path, images, fail_on=(), clip=dict(max_norm=1.0), policy=policy)
    runner.hooks[[type(hook).__name__ for hook in runner.hooks].index('CheckpointHook')].interval = interval
    runner.hooks[[type(hook).__name__ for hook in runner.hooks].index('CheckpointHook')].by_epoch = False
    bad_gradient(runner, step=1)
    if message is None:
        runner.train()
    else:
        with pytest.raises(NonFiniteError, match=message):
            runner.train()
        assert not list(tmp_path.glob('*.pth'))
    files = [torch.load(path, weights_only=True)['state_dict'] for path in tmp_path.glob('*.pth')]
    assert bool(files) == (policy == 'skip')
    assert all(bool(torch.isfinite(value).all()) for state in files for value in state.values())


def test_a_flag_is_copied_in_the_background(monkeypatch):
    """What a GPU is asked to do: one copy that does not block, an event behind it, a wait for the event."""
    calls = []

    class Host:
        def copy_(self, flag, non_blocking):
            calls.append(('copy', non_blocking))

        def __bool__(self):
            calls.append('read')
            return False

    class Event:
        def record(self):
            calls.append('record')

        def synchronize(self):
            calls.append('wait')

    flag = SimpleNamespace(device=torch.device('cuda'), is_cuda=True)
    monkeypatch.setattr(torch, 'empty_like', lambda tensor, device, pin_memory: Host())
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    on_its_way = nonfinite_flag.DeviceFlag(flag)
    assert not on_its_way.ready and calls == [('copy', True), 'record']
    assert on_its_way.read() is False and calls[2:] == ['wait', 'read']


def test_scalars_are_read_for_the_log_only(asynchronous, tmp_path, images):
    """Four losses are still on the device before the fifth step, whose epoch ends and is logged."""
    waiting, values = [], []

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            waiting.append(len(runtime_info._recorded.get(runner.message_hub, [])))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            values.append(outputs['loss'].item())

    runner = build(tmp_path, images, fail_on=(), clip=dict(max_norm=1.0))
    runner.register_hook(Watch())
    runner.train()
    scalars = ('loss', 'loss_fit', 'loss_queue', 'grad_norm')
    assert waiting == [step * len(scalars) for step in range(5)]
    assert runner.message_hub.get_scalar('train/loss').data[0].tolist() == values
    assert all(runner.message_hub.get_scalar(f'train/{name}').data[0].size == 5 for name in scalars)


def test_good_run_is_unchanged(tmp_path, images):
    plain = toy.train(tmp_path / 'a', images)
    assert toy.train(tmp_path / 'b', images, hooks=[dict(type='mmssl.NonFiniteHook')]) == plain


def test_wrong_arguments():
    with pytest.raises(ValueError, match="policy='ignore'.*stop, skip"):
        NonFiniteHook(policy='ignore')
    with pytest.raises(ValueError, match='budget=-1'):
        NonFiniteHook(budget=-1)


def test_image_files():
    sample = BaseDataElement(metainfo=dict(img_path='b.png'))
    assert image_files(
        dict(inputs=[torch.zeros(1)], data_samples=[dict(img_path='a.png'), [sample], None])
    ) == ['a.png', 'b.png']
    assert image_files(None) == []


def stop_on(rank, bad_rank):
    """The error of this rank where the loss of one of them is NaN, and the weights after it."""
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    hook = NonFiniteHook()
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=4)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, {})
    loss = model(torch.full((1, 2), float('nan') if rank == bad_rank else 1.0)).sum()
    try:
        wrapper.update_params(loss)
    except NonFiniteError as error:
        return str(error), model.weight.tolist()
    return '', model.weight.tolist()


def test_a_bad_step_of_one_rank_stops_all_before_the_optimizer(two_ranks):
    (first, first_weights), (second, second_weights) = two_ranks(stop_on, 1)
    assert 'the loss of another rank is not finite' in first and 'nan' in second
    assert 'module' not in first + second
    assert first_weights == second_weights == [[1.0, 1.0]]
