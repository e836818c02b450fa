"""HDC and DUC: what dilated layers see, the backbone, the head."""

import warnings
from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from mmssl.segmentation import DUCHead, HDCResNet, dilation_coverage, hdc_max_gap


@pytest.mark.parametrize(
    'rates, coverage, gap',
    [
        ([1, 2, 5], Fraction(17, 17), 2),
        ([1, 2, 9], Fraction(21, 25), 5),
        ([2, 4, 8], Fraction(15, 29), 4),
        ([2, 2, 2], Fraction(7, 13), 2),
        ([2, 2, 5, 9], Fraction(33, 37), 2),
        ([5, 9, 17], Fraction(27, 63), 9),
        ([1, 2, 5, 9, 5, 9, 17], Fraction(97, 97), 2),
    ],
)
def test_coverage_and_gap(rates, coverage, gap):
    assert dilation_coverage(rates, 3) == coverage
    assert len(rates) > 4 or hdc_max_gap(rates, 3) == gap


def test_the_rule_of_the_paper_does_not_see_common_factors():
    assert hdc_max_gap([2, 2, 2]) <= 3 and dilation_coverage([2, 2, 2]) < 1


@pytest.mark.parametrize('rates', [[1, 2, 5], [2, 4, 8], [3, 1]])
@pytest.mark.parametrize('kernel', [3, 5])
def test_coverage_is_what_convolutions_see(rates, kernel):
    x = torch.zeros(1, 1, 4 * kernel * sum(rates) + 1, dtype=torch.float64)
    x[..., x.shape[-1] // 2] = 1
    for rate in rates:
        x = F.conv1d(
            x, torch.ones(1, 1, kernel, dtype=torch.float64), padding=rate * (kernel // 2), dilation=rate
        )
    reached = x[0, 0].nonzero()
    assert dilation_coverage(rates, kernel) == Fraction(len(reached), int(reached.max() - reached.min()) + 1)


def test_hdc_resnet_has_the_rates_and_the_keys_of_a_resnet():
    from mmseg.models.backbones import ResNet

    model = HDCResNet(50, stem_channels=8, base_channels=8)
    assert model.rates == [2, 2, 5, 1, 2, 5, 5, 9, 17]
    assert [block.conv2.dilation[0] for block in [*model.layer3, *model.layer4]] == model.rates
    plain = ResNet(50, stem_channels=8, base_channels=8)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.eval()
    assert [tuple(out.shape[-2:]) for out in model(torch.randn(1, 3, 64, 64))] == [
        (16, 16),
        (8, 8),
        (8, 8),
        (8, 8),
    ]
    released = HDCResNet(101, stem_channels=4, base_channels=4).rates
    assert released == [2, 2, 5, 9] + [1, 2, 5, 9] * 4 + [1, 2, 5] + [5, 9, 17]


def test_a_grid_is_warned_of_with_both_numbers():
    with pytest.warns(UserWarning, match=r'\d+ of \d+ positions are sampled, the largest gap is M = 2'):
        HDCResNet(18, stage3=[2], stage4=[2], stem_channels=4, base_channels=4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        HDCResNet(18, stage3=[1, 2], stage4=[5, 9], stem_channels=4, base_channels=4)
    with pytest.raises(ValueError, match='has more dilations'):
        HDCResNet(18, stage3=[1, 2, 5])


@pytest.mark.parametrize('dilations', [(1,), (1, 2)])
def test_duc_puts_channels_where_they_belong(dilations):
    model = DUCHead(6, 3, factor=4, dilations=dilations, loss_decode=dict(type='mmseg.CrossEntropyLoss'))
    x = torch.randn(2, 6, 5, 7)
    out = model([x])
    assert out.shape == (2, 3, 20, 28)
    channels = sum(
        F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(model.convs, dilations, strict=True)
    )
    for label, row, column in ((0, 0, 0), (1, 3, 2), (2, 1, 3)):
        torch.testing.assert_close(
            out[:, label, row::4, column::4], channels[:, label * 16 + row * 4 + column]
        )


def test_rates_are_checked():
    for rates in ([], [0], [1.5]):
        with pytest.raises(ValueError, match='dilation rates'):
            dilation_coverage(rates)
    with pytest.raises(ValueError, match='factor=0'):
        DUCHead(6, 3, factor=0)


@pytest.mark.parametrize(
    'unused',
    [
        dict(norm_cfg=dict(type='BN')),
        dict(act_cfg=dict(type='GELU')),
        dict(conv_cfg=dict(type='Conv2d')),
        dict(channels=512),
    ],
)
def test_settings_of_hidden_layers_are_refused(unused):
    with pytest.raises(ValueError, match=f'DUCHead does not use {next(iter(unused))}='):
        DUCHead(6, 3, **unused)


def test_dropout_is_honoured():
    head = DUCHead(8, 3, factor=2, in_index=0, dropout_ratio=0.5)
    maps = [torch.rand(1, 8, 4, 4)]
    assert not torch.equal(head(maps), head(maps))
    head.eval()
    assert torch.equal(head(maps), head(maps))


def test_concatenated_levels_and_several_levels():
    head = DUCHead([4, 8], 3, factor=2, in_index=[0, 1], input_transform='resize_concat')
    assert head([torch.rand(1, 4, 4, 4), torch.rand(1, 8, 2, 2)]).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match='single feature map'):
        DUCHead([4, 8], 3, in_index=[0, 1], input_transform='multiple_select')


@pytest.mark.parametrize('unused', [dict(dilations=(1, 1, 2, 4)), dict(multi_grid=(1, 2, 4))])
def test_dilations_of_the_plain_resnet_are_refused(unused):
    with pytest.raises(ValueError, match='HDCResNet does not use'):
        HDCResNet(50, **unused)
