"""The strategy that shards, on a small method with counters: steps, state and refusals."""

import copy

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import distributed, nn

from mmssl.engine import LARS
from mmssl.engine.fsdp import FSDPStrategy, _copy_from_first_rank, _refuse_what_needs_whole_parameters
from mmssl.engine.nonfinite_flag import refuse_nonfinite_weights
from mmssl.errors import MismatchError, NonFiniteError
from mmssl.layers.distributed import resharded
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.queue import FeatureQueue

OPTIMIZER = dict(
    type='mmssl.OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),
    constructor='mmssl.MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=0.1),
)
STEPS = 3


class Block(nn.Module):
    """A unit: three outputs, which two ranks cannot divide evenly."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.layer(self.norm(x)).tanh()


class Method(BaseModel):
    """A layer and two blocks, a momentum encoder that moves in the forward pass, and a queue."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 3))
        self.stem = nn.Linear(3, 3)  # in the group of the root, as the token
        self.blocks = nn.Sequential(Block(), Block())
        self.teacher = MomentumEncoder(nn.Sequential(self.stem, self.blocks), momentum=0.9)
        self.queue = FeatureQueue(3, 8)

    def forward(self, inputs, data_samples=None, mode='loss'):
        output = self.blocks(self.stem(inputs) + self.token)
        with resharded(self):
            self.teacher.update(nn.Sequential(self.stem, self.blocks))
        with torch.no_grad():
            target = self.teacher(inputs)
        self.queue.enqueue(target)
        return dict(loss=(output - target.flip(1)).square().mean())


def method():
    torch.manual_seed(3)
    return Method()


def batches(rank=None):
    """Batches of four images, or this rank's half of them."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(4, 3, generator=generator) for _ in range(STEPS)]
    return whole if rank is None else [batch[2 * rank : 2 * rank + 2] for batch in whole]


def prepare(folder, settings=None, model=None):
    strategy = FSDPStrategy(units=['Block'], work_dir=str(folder), **(settings or {}))
    strategy.prepare(model or method(), optim_wrapper=copy.deepcopy(OPTIMIZER))
    return strategy


def train(strategy, inputs):
    return [
        strategy.model.train_step(dict(inputs=batch), strategy.optim_wrapper)['loss'].item()
        for batch in inputs
    ]


def states(strategy):
    return strategy.model_state_dict(), strategy.optim_state_dict()


def sharded(rank, folder, settings, unsharded):
    """A sharded run, a second one that continues from its state, and one from an unsharded state."""
    strategy = prepare(folder, settings)
    strategy.load_model_state_dict(copy.deepcopy(unsharded[0]), strict=True)
    strategy.load_optim_state_dict(copy.deepcopy(unsharded[1]))
    taken_over = train(strategy, batches(rank))
    strategy = prepare(folder, settings)
    losses = train(strategy, batches(rank))
    saved = [copy.deepcopy(states(strategy))]
    distributed.broadcast_object_list(saved, src=0)
    again = prepare(folder, settings)
    again.load_model_state_dict(copy.deepcopy(saved[0][0]), strict=True)
    again.load_optim_state_dict(copy.deepcopy(saved[0][1]))
    continued = train(strategy, batches(rank)), train(again, batches(rank))
    by_name = named(saved[0][1], strategy)
    again.load_optim_state_dict(by_name)
    return dict(
        losses=losses,
        taken_over=taken_over,
        saved=saved[0],
        continued=continued,
        end=states(strategy),
        by_name=again.optim_state_dict(),
        counter=strategy.model.queue.queue_ptr,
        norm=strategy.optim_wrapper.message_hub.get_scalar('train/grad_norm').current(),
    )


def named(state, strategy):
    """The state with parameters by name, as version 0.1 saved it."""
    names = {id(parameter): name for name, parameter in strategy.model.named_parameters()}
    groups = strategy.optim_wrapper.optimizer.param_groups
    order = [names[id(parameter)] for group in groups for parameter in group['params']]
    return dict(
        state,
        state={order[index]: values for index, values in state['state'].items()},
        param_groups=[
            dict(group, params=[order[index] for index in group['params']]) for group in state['param_groups']
        ],
    )


@pytest.fixture(scope='module')
def alone():
    """The run of one process on whole batches: losses, the state after STEPS steps, and later losses."""
    from mmengine.optim import build_optim_wrapper

    model = method()
    wrapper = build_optim_wrapper(model, copy.deepcopy(OPTIMIZER))

    def train():
        return [model.train_step(dict(inputs=batch), wrapper)['loss'].item() for batch in batches()]

    losses, state = train(), copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    return losses, *state, train()


@pytest.mark.parametrize('settings', [{}, dict(reshard_after_forward=False, activation_checkpointing=True)])
def test_two_ranks_train_as_one_process_and_save_the_same(two_ranks, tmp_path, alone, settings):
    losses, weights, optimizer, later_losses = alone
    first, second = two_ranks(sharded, tmp_path, settings, (weights, optimizer))
    for name, expected in (('losses', losses), ('taken_over', later_losses)):
        mean = [(a + b) / 2 for a, b in zip(first[name], second[name], strict=True)]
        assert mean == pytest.approx(expected, abs=1e-6)
    saved_weights, saved_optimizer = first['saved']
    assert list(saved_weights) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(saved_weights[name], value, atol=1e-6, rtol=1e-5)
    assert saved_optimizer['param_groups'] == optimizer['param_groups']
    for index, state in optimizer['state'].items():
        torch.testing.assert_close(saved_optimizer['state'][index], state, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(first['by_name']['state'][index], saved_optimizer['state'][index])
    for rank in (first, second):
        assert rank['continued'][0] == rank['continued'][1]  # bit for bit
        assert rank['counter'] == 2 * STEPS * 4 % 8
    assert second['end'] == ({}, {}) and first['norm'] == second['norm'] > 0


def in_bfloat16(rank, folder):
    settings = dict(mixed_precision=dict(param_dtype='bfloat16', reduce_dtype='float32'))
    strategy = prepare(folder, settings)
    inside = []
    strategy.model.blocks[0].layer.register_forward_hook(lambda layer, *_: inside.append(layer.weight.dtype))
    return train(strategy, batches(rank)), inside, strategy.model_state_dict()


def test_parameters_are_gathered_in_bfloat16_and_updated_in_float32(two_ranks, tmp_path, alone):
    ranks = two_ranks(in_bfloat16, tmp_path)
    mean = [(a + b) / 2 for a, b in zip(ranks[0][0], ranks[1][0], strict=True)]
    assert mean == pytest.approx(alone[0], rel=0.02)
    assert set(ranks[0][1]) == {torch.bfloat16}
    assert {value.dtype for value in ranks[0][2].values() if value.is_floating_point()} == {torch.float32}


def refused_weights(rank, folder):
    """Messages for weights that do not fit, and for one that is not finite on the second rank."""
    strategy = prepare(folder)
    good = method().state_dict()
    messages = []
    for name, value in (
        ('token', torch.zeros(2, 3)),
        ('token', torch.zeros(1, 3, dtype=torch.int64)),
        ('blocks.0.layer.bias', torch.zeros(3, dtype=torch.complex64)),
    ):
        with pytest.raises(MismatchError) as raised:
            strategy.load_model_state_dict({**good, name: value})
        messages.append(str(raised.value))
    with pytest.raises(MismatchError) as raised:
        strategy.load_model_state_dict({'other': torch.zeros(1)})
    messages.append(str(raised.value))
    with pytest.raises(MismatchError) as raised:
        strategy.load_optim_state_dict(dict(state={}, param_groups=[dict(params=['other'])]))
    messages.append(str(raised.value))
    strategy.load_model_state_dict({name: value.half() for name, value in good.items()})  # a cast, logged
    refuse_nonfinite_weights(strategy.model, every_rank=True)
    if rank == 1:
        strategy.model.blocks[0].layer.weight.detach().to_local().fill_(torch.nan)
    with pytest.raises(NonFiniteError) as raised:
        refuse_nonfinite_weights(strategy.model, every_rank=True)
    return [*messages, str(raised.value)]


def test_weights_that_do_not_fit_are_refused_on_every_rank(two_ranks, tmp_path):
    first, second = two_ranks(refused_weights, tmp_path)
    assert first[:-1] == second[:-1]
    for message, part in zip(
        first,
        (
            'do not fit the sharded model',
            'token is int64, and the model takes float32',
            'blocks.0.layer.bias is complex64',
            'no weight of the checkpoint fits',
            'lacks, such as other',
            'those of another rank',
        ),
        strict=True,
    ):
        assert part in message
    assert 'blocks.0.layer.weight' in second[-1]


def test_what_needs_whole_parameters_is_refused():
    parameter = nn.Parameter(torch.zeros(2, 2))
    _refuse_what_needs_whole_parameters(OptimWrapper(torch.optim.AdamW([parameter])))
    with pytest.raises(ValueError, match='LARS takes norms of whole parameters'):
        _refuse_what_needs_whole_parameters(OptimWrapper(LARS([parameter], lr=1.0)))
    with pytest.raises(ValueError, match=r'start it with tools/dist_train\.sh'):
        _copy_from_first_rank(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(state_dict_cfg='local'), "state_dict_cfg='local'"),
        (dict(model_wrapper=dict(use_orig_params=True)), r'units=\[.CLASS.\] for auto_wrap_policy'),
        (dict(mixed_precision=dict(param_dtype='int8')), "param_dtype='int8'; give one of bfloat16"),
        (dict(mixed_precision=dict(dtype='bfloat16')), 'it takes param_dtype, reduce_dtype'),
        (dict(activation_checkpointing=dict(check_fn='f')), 'give True'),
    ],
)
def test_settings_of_the_former_strategy_are_refused_with_the_new_ones(settings, message):
    with pytest.raises(ValueError, match=message):
        FSDPStrategy(**settings)
