"""What torch's own tools need of a network: trace, fx, checkpointing, FLOPs, quantisation, torch.func."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmssl.registry import MODELS, build

ARCH = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=96)
TOKENS = 17  # 4 x 4 patches and the class token


def make_vit(**options):
    torch.manual_seed(0)
    return build(dict(type='mmssl.ViT', arch=ARCH, img_size=64, **options), MODELS).eval()


def assert_same(result, reference):
    torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings('ignore:Converting a tensor to a Python boolean')  # checks of shapes
@pytest.mark.parametrize('out_type', ['featmap', 'raw', 'cls_token', 'avg_featmap'])
def test_trace(out_type):
    net = make_vit(out_type=out_type)
    traced = torch.jit.trace(net, torch.randn(1, 3, 64, 64))
    images = torch.randn(3, 3, 64, 64)
    assert_same(traced(images), net(images))


@pytest.mark.parametrize('out_type', ['featmap', 'raw', 'cls_token', 'avg_featmap'])
def test_fx_takes_other_sizes(out_type):
    net = make_vit(out_type=out_type)
    graph = torch.fx.symbolic_trace(net)
    for shape in ((2, 3, 64, 64), (1, 3, 96, 48)):
        images = torch.randn(shape)
        assert_same(graph(images), net(images))
    with pytest.raises(ValueError, match='does not divide into 16x16 patches'):
        graph(torch.randn(1, 3, 60, 64))


def test_fx_feature_extraction():
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    net = make_vit(out_indices=(0, 1), out_type='raw', final_norm=False)
    last_step = [name for name in extraction.get_graph_node_names(net)[1] if name.startswith('layers.0.')][-1]
    extractor = extraction.create_feature_extractor(net, {last_step: 'first', 'layers.1.ffn': 'branch'})
    images = torch.randn(2, 3, 64, 64)
    features, outputs = extractor(images), net(images)
    assert_same(features['first'], outputs[0])
    assert features['branch'].shape == (2, TOKENS, 48)


def test_fx_trains_with_stochastic_depth():
    net = make_vit(drop_path_rate=0.5).train()
    graph = torch.fx.symbolic_trace(net)
    images = torch.randn(4, 3, 64, 64)
    outputs = []
    for network in (net, graph):
        torch.manual_seed(1)
        outputs.append(network(images))
    assert_same(*outputs)


def test_gradient_checkpointing():
    net = make_vit(drop_rate=0.1, drop_path_rate=0.2).train()
    checkpointed = copy.deepcopy(net)
    for layer in checkpointed.layers:
        layer.forward = lambda x, forward=layer.forward: checkpoint(forward, x, use_reentrant=False)
    images = torch.randn(2, 3, 64, 64)
    for network in (net, checkpointed):
        torch.manual_seed(1)
        network(images)[-1].square().mean().backward()
    for parameter, reference in zip(checkpointed.parameters(), net.parameters(), strict=True):
        assert_same(parameter.grad, reference.grad)


@pytest.mark.parametrize('with_grad', [False, True])
def test_flops_are_counted_in_full(with_grad):
    """Of linear layers and the patch embedding; torch counts products of attention on some devices only."""
    net = make_vit()
    width, hidden = ARCH['embed_dims'], ARCH['feedforward_channels']
    linear = ARCH['num_layers'] * TOKENS * width * (4 * width + 2 * hidden)
    convolution = 16 * width * 3 * 16 * 16
    images = torch.randn(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(with_grad):
        net(images)
    counts = counter.get_flop_counts()['Global']
    assert counts[torch.ops.aten.addmm] == 2 * linear
    assert counts[torch.ops.aten.convolution] == 2 * convolution
    from mmengine.analysis import get_model_complexity_info

    info = get_model_complexity_info(net, (3, 64, 64), show_table=False, show_arch=False)
    assert info['flops'] >= linear + convolution


def test_dynamic_quantisation_replaces_every_linear_layer():
    net = make_vit()
    try:
        quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    except RuntimeError as error:  # a build of torch without an engine
        pytest.skip(str(error))
    modules = [type(module).__module__ for module in quantised.modules()]
    linear = sum(isinstance(layer, nn.Linear) for layer in net.modules())
    assert sum('quantized.dynamic' in module for module in modules) == linear == 8
    images = torch.randn(2, 3, 64, 64)
    result, reference = quantised(images)[-1], net(images)[-1]
    assert (result - reference).norm() < 0.1 * reference.norm()


def test_gradients_per_sample():
    net = make_vit(out_type='cls_token')
    weights = {name: value.detach() for name, value in net.named_parameters()}

    def loss(weights, image):
        return functional_call(net, weights, (image[None],))[-1].square().mean()

    images = torch.randn(3, 3, 64, 64)
    gradients = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    for index, image in enumerate(images):
        for name, reference in grad(loss)(weights, image).items():
            assert_same(gradients[name][index], reference)
