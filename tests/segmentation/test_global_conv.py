"""GCN: the blocks against plain convolutions, the numbers of the paper, the head."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.segmentation import BoundaryRefine, GCNResNet, GlobalConvBlock, GlobalConvHead
from mmssl.segmentation.global_conv import Upsample

LOSS = dict(type='mmseg.CrossEntropyLoss')


def head(**kwargs):
    settings = dict(in_channels=[8, 16, 24, 48], num_classes=5, kernel_size=7, loss_decode=LOSS)
    return GlobalConvHead(**{**settings, **kwargs})


@pytest.mark.parametrize('k, parameters', [(3, 260_694), (5, 434_490), (7, 608_286), (9, 782_082)])
def test_parameters_of_the_papers_table(k, parameters):
    assert sum(p.numel() for p in GlobalConvBlock(2048, 21, k).parameters()) == parameters == 86_898 * k


@pytest.mark.parametrize('k', [1, 3, 7, 15])
@pytest.mark.parametrize('bias', [False, True])
def test_fused_is_plain(k, bias):
    """Values and all gradients of the fused form equal those of four convolutions, on small maps too."""
    torch.manual_seed(0)
    block = GlobalConvBlock(12, 3, k, bias=bias, fused=False).double()
    x = torch.randn(2, 12, 6, 9, dtype=torch.float64).requires_grad_()
    results = []
    for fused in (False, True):
        block.fused = fused
        out = block(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-10, rtol=1e-10)
    convs = dict(block.named_parameters())
    pad = k // 2

    def conv(name, values, vertical):
        return F.conv2d(
            values,
            convs[f'{name}.weight'],
            convs.get(f'{name}.bias'),
            padding=(pad, 0) if vertical else (0, pad),
        )

    torch.testing.assert_close(
        results[0][0],
        conv('left2', conv('left1', x, True), False) + conv('right2', conv('right1', x, False), True),
    )


def test_shape_decides_what_is_fused():
    assert (
        GlobalConvBlock(2048, 21, 15).fused
        and not GlobalConvBlock(256, 21, 15).fused
        and not GlobalConvBlock(2048, 21, 7).fused
    )


def test_the_kernel_reaches_as_far_as_it_says():
    block = GlobalConvBlock(1, 1, 7)
    for parameter in block.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 1, 21, 21)
    x[0, 0, 10, 10] = 1
    assert torch.equal(block(x)[0, 0].nonzero().aminmax(dim=0)[0], torch.tensor([7, 7]))
    assert block(x).sum() == 2 * 49  # a dense 7 x 7 from either branch


@pytest.mark.parametrize('factor', [2, 4])
def test_deconvolution_begins_as_bilinear_interpolation(factor):
    x = torch.randn(1, 3, 6, 7)
    ours, bilinear = (
        Upsample(3, factor, True)(x),
        F.interpolate(x, scale_factor=factor, mode='bilinear', align_corners=False),
    )
    inside = slice(factor, -factor)  # at the border a transposed convolution has nothing to average with
    torch.testing.assert_close(ours[..., inside, inside], bilinear[..., inside, inside])
    torch.testing.assert_close(Upsample(3, factor, False)(x), bilinear)


def test_nine_refinements_and_the_size_of_the_image():
    model = head()
    assert sum(isinstance(module, BoundaryRefine) for module in model.modules()) == 9
    assert sum(isinstance(module, BoundaryRefine) for module in head(boundary_refine=False).modules()) == 0
    levels = [
        torch.randn(2, width, side, side + 2)
        for width, side in zip((8, 16, 24, 48), (17, 9, 5, 3), strict=True)
    ]
    levels = [level[..., : -(-20 // 2**index)] for index, level in enumerate(levels)]
    assert model(levels).shape == (2, 5, 68, 4 * levels[0].shape[-1])


@pytest.mark.parametrize('upsample', ['deconv', 'bilinear'])
def test_levels_of_equal_size(upsample):
    """A ViT or a dilated backbone: nothing to enlarge between the levels."""
    model = head(in_channels=[16, 16], strides=(16, 16), upsample=upsample)
    assert model([torch.randn(1, 16, 4, 4)] * 2).shape == (1, 5, 16, 16)


def test_it_learns_and_every_parameter_has_a_gradient():
    torch.manual_seed(0)
    model = head()
    model.init_weights()
    levels = [
        torch.randn(2, width, side, side) for width, side in zip((8, 16, 24, 48), (8, 4, 2, 1), strict=True)
    ]
    target = torch.randint(0, 5, (2, 32, 32))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(levels), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(kernel_size=8), 'kernel_size=8.* 7 or 9'),
        (dict(kernel_size=[3, 3]), '2 kernel sizes'),
        (dict(strides=(4, 8, 12, 32)), 'multiple'),
        (dict(upsample='nearest'), "upsample='nearest'"),
        (dict(norm_cfg=dict(type='BN')), 'GlobalConvHead does not use norm_cfg'),
        (dict(act_cfg=dict(type='GELU')), 'does not use act_cfg'),
        (dict(conv_cfg=dict(type='Conv2d')), 'does not use conv_cfg'),
        (dict(channels=512), 'does not use channels=512'),
        (dict(input_transform='resize_concat'), 'does not use input_transform'),
    ],
)
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words):
        head(**wrong)


def test_dropout_and_init_cfg_are_honoured():
    levels = [
        torch.rand(1, width, side, side) for width, side in zip((8, 16, 24, 48), (8, 4, 2, 1), strict=True)
    ]
    model = head(dropout_ratio=0.5, init_cfg=dict(type='Constant', layer='Conv2d', val=0.25))
    assert not torch.equal(model(levels), model(levels))
    model.eval()
    assert torch.equal(model(levels), model(levels))
    model.init_weights()
    assert (model.gcn[0].left1.weight == 0.25).all()


def small_resnet(**kwargs):
    return GCNResNet(50, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'), **kwargs)


def test_a_block_with_a_stride_equals_the_plain_block_at_every_second_pixel():
    torch.manual_seed(0)
    strided = GlobalConvBlock(3, 4, 5, stride=2)
    plain = GlobalConvBlock(3, 4, 5)
    plain.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 9, 12)
    torch.testing.assert_close(strided(x), plain(x)[..., ::2, ::2])


def test_resnet_gcn_replaces_the_middle_convolutions():
    from mmseg.models.backbones import ResNet

    torch.manual_seed(0)
    net, plain = (
        small_resnet(kernel_size=(3, 5, 7, 0)),
        ResNet(50, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
    )
    x = torch.randn(2, 3, 64, 96)
    assert [tuple(out.shape) for out in net(x)] == [tuple(out.shape) for out in plain(x)]
    # k x 1 and 1 x k twice are 4 k c^2 weights for the 9 c^2 of a 3 x 3
    blocks, widths, kernels = (3, 4, 6), (8, 16, 32), (3, 5, 7)
    more = sum(n * (4 * k - 9) * width**2 for n, width, k in zip(blocks, widths, kernels, strict=True))
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())  # noqa: E731
    assert count(net) == count(plain) + more
    # all weights but the replaced ones fit
    result = net.load_state_dict(plain.state_dict(), strict=False)
    assert set(result.unexpected_keys) == {
        f'layer{s}.{b}.conv2.weight' for s, n in enumerate(blocks, 1) for b in range(n)
    }
    sum(out.mean() for out in net(x)).backward()
    assert net.layer1[0].conv2.right2.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(kernel_size=(3, 3)), 'names 2 stages'),
        (dict(kernel_size=4), 'kernel_size=4'),
        (dict(dcn=dict(type='DCN'), stage_with_dcn=(True,) * 4), 'GCNResNet does not use dcn'),
        (dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)), 'layer4.*dilation of 2'),
    ],
)
def test_wrong_resnet_gcn(wrong, words):
    with pytest.raises(ValueError, match=words):
        small_resnet(**wrong)
    with pytest.raises(ValueError, match='depth=18'):
        GCNResNet(18)
