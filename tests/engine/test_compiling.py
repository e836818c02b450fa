"""Graphs that torch.compile makes of training: one for each kind of block, for any batch size.

The backend aot_eager traces the backward pass too, which takes up to five times as long as 'eager', so that
only the cheapest methods are compiled by it. ``MMSSL_TEST_BACKEND=aot_eager``, as in CI, takes it for all.
"""

import copy
import importlib
import logging
import os

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mmssl.engine.compiling import compile_model
from mmssl.layers.beit_block import BEiTBlock
from mmssl.layers.drop_path import DropPath
from mmssl.layers.transformer import TransformerBlock
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import small_settings_of_methods

pytestmark = pytest.mark.filterwarnings('ignore:.*is not attached to the optimizer')
BACKEND = os.environ.get('MMSSL_TEST_BACKEND', 'eager')
# the layers have rates of 0, 0.05 and 0.1
ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
SAM_ENCODER = dict(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, out_chans=16, window_size=3)
MODELS.import_from_location()
SMALL = {
    name: small
    for name, small in small_settings_of_methods().items()
    if issubclass(MODELS.module_dict[name], SelfSupervisor)
}
GCN = dict(
    backbone=dict(type='mmseg.ResNet', depth=18, stem_channels=8, base_channels=8),
    decode_head=dict(
        type='mmssl.GlobalConvHead',
        in_channels=[8, 16, 32, 64],
        num_classes=3,
        kernel_size=3,
        loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    logging.getLogger('torch.__trace').setLevel(logging.CRITICAL)  # pytest would format its records
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def method(module, name, **backbone):
    """A method of mmssl.selfsup in its smallest size."""
    small = importlib.import_module(f'mmssl.selfsup.{module}').SMALL[name]
    settings = copy.deepcopy(small.settings)
    settings['backbone'].update(arch=ARCH, **backbone)
    model = MODELS.build(dict(settings, type=f'mmssl.{name}')).train()
    if hasattr(model, 'set_schedule'):
        model.set_schedule(1, 10)
    return model, (lambda model, images: model.loss(images)['loss']) if name == 'BEiT' else small.run


def mae():
    return method('mae', 'MAE')


def dino():
    return method('dino', 'DINO', drop_path_rate=0.1)


def mocov3():
    return method('mocov3', 'MoCoV3')


def beit():
    return method('beit', 'BEiT', drop_path_rate=0.1)


def sam_encoder():
    encoder = MODELS.build(dict(type='mmssl.SAMImageEncoder', global_attn_indexes=(1, 3), **SAM_ENCODER))
    return nn.Sequential(encoder).train(), lambda model, images: model(images).square().mean()


def gcn():
    def loss(model, images):
        return sum(scores.square().mean() for scores in model(images, mode='tensor'))

    return MODELS.build(dict(type='mmssl.EncoderDecoder', **copy.deepcopy(GCN))).train(), loss


@pytest.mark.compile
@pytest.mark.parametrize(
    ('build', 'graphs', 'backend'),
    [
        pytest.param(mae, 3, BACKEND, id='MAE: encoder, decoder, its last block'),
        pytest.param(dino, 3, 'aot_eager', id='DINO: teacher, student with and without stochastic depth'),
        pytest.param(mocov3, 2, 'aot_eager', id='MoCo v3: momentum encoder, encoder'),
        pytest.param(beit, 3, BACKEND, id='BEiT: with and without stochastic depth, the last block'),
        pytest.param(sam_encoder, 2, BACKEND, id='SAM: windows, global attention'),
        pytest.param(gcn, 1, BACKEND, id='GCN: the backbone'),
    ],
)
def test_blocks_share_their_graphs_in_every_step_and_batch_size(build, graphs, backend):
    torch.manual_seed(0)
    model, loss = build()
    compile_model(model, backend)
    numbers = []
    for batch in (2, 2, 2, 3):
        loss(model, torch.randn(batch, 3, 32, 32)).backward()
        numbers.append(counters['stats']['unique_graphs'])
    assert numbers == [graphs] * 4
    assert not counters['graph_break']


@pytest.mark.compile
def test_rates_of_stochastic_depth_are_inputs_of_the_graph_of_the_backward_pass_too():
    # numbers would be constants there, even where they are inputs of the forward graph
    model = nn.Module()
    model.COMPILED_BLOCKS = ('blocks',)
    model.blocks = nn.ModuleList(DropPath(rate) for rate in (0.1, 0.2, 0.3))
    compile_model(model, 'aot_eager')
    branch = torch.ones(8, 2, requires_grad=True)
    for block in model.blocks:
        for batch in (4, 8):
            block(branch[:batch]).sum().backward()
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.compile
def test_the_mask_decoder_of_sam_is_one_graph_for_any_number_of_prompts():
    decoder = MODELS.build(
        dict(
            type='mmssl.SAMMaskDecoder',
            transformer_dim=16,
            transformer=dict(depth=1, num_heads=2, mlp_dim=16),
        )
    ).train()
    compiled = torch.compile(decoder, backend=BACKEND, dynamic=True)
    image, positions, dense = (torch.randn(1, 16, 8, 8) for _ in range(3))
    for prompts, tokens in ((2, 3), (2, 3), (5, 4)):
        masks, iou = compiled(image, positions, torch.randn(prompts, tokens, 16), dense, True)
        (masks.mean() + iou.mean()).backward()
        assert masks.shape == (prompts, 3, 32, 32)
    assert counters['stats']['unique_graphs'] == 1 and not counters['graph_break']


def test_names_what_is_compiled_and_leaves_the_parameters_names():
    model, _ = gcn()
    names = list(model.state_dict())
    assert compile_model(model, 'eager') == 'the forward pass of ResNet'
    assert list(model.state_dict()) == names
    assert compile_model(mae()[0], 'eager') == '5 blocks'
    with pytest.raises(ValueError, match='Linear has no backbone and no blocks to compile; train without'):
        compile_model(nn.Linear(2, 2))


@pytest.mark.parametrize('name', sorted(SMALL))
def test_every_block_of_a_method_is_compiled_or_lies_in_a_backbone_that_is(name):
    model = MODELS.build(dict(copy.deepcopy(SMALL[name].settings), type=f'mmssl.{name}'))
    compile_model(model, 'eager')
    blocks = [module for module in model.modules() if isinstance(module, (TransformerBlock, BEiTBlock))]
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert blocks or model.backbone._compiled_call_impl is not None
    assert model._compiled_call_impl is None


def test_momentum_copies_of_a_backbone_are_compiled_too():
    small = importlib.import_module('mmssl.selfsup.moco').SMALL['MoCo']
    model = MODELS.build(dict(copy.deepcopy(small.settings), type='mmssl.MoCo'))
    compile_model(model, 'eager')
    copied = [module for module in model.modules() if type(module) is type(model.backbone)]
    assert len(copied) == 2 and all(module._compiled_call_impl is not None for module in copied)
    assert model._compiled_call_impl is None


@pytest.mark.compile
def test_a_recompile_limit_is_one_line_with_a_remedy(caplog, monkeypatch):
    class Block(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            return x + 1 if self.name == 'first' else x - 1

    model = nn.Module()
    model.COMPILED_BLOCKS = ('blocks',)
    model.blocks = nn.ModuleList(map(Block, ('first', 'second', 'third')))
    lines = []
    monkeypatch.setattr('mmssl.engine.compiling.print_log', lambda text, **_: lines.append(text))
    with torch._dynamo.config.patch(recompile_limit=1):
        compile_model(model, 'eager')
        for block in model.blocks:
            block(torch.ones(2))
    (line,) = lines
    assert 'was compiled once' in line and 'train without --compile' in line
    assert not any('hit config' in record.getMessage() for record in caplog.records)


def test_drop_path_has_its_rate_as_a_tensor_outside_the_state_dict():
    drop = DropPath(0.25).train()
    assert not drop.state_dict() and drop.rate == 0.25 and 'drop_prob=0.25' in repr(drop)
    torch.manual_seed(0)
    assert drop(torch.ones(4000, 1)).unique().tolist() == pytest.approx([0, 4 / 3])
    drop.drop_prob = 0.0
    branch = torch.ones(2, 3)
    assert drop(branch) is branch and drop.rate == 0
