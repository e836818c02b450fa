"""Rotation prediction and relative location by hand and by plain loops; a resumed run; refusals."""

import math

import numpy as np
import pytest
import torch
from runs import check_exact_resume
from torch import nn

from mmssl.selfsup.pretext import PatchDraw, PretextHead, RelativeLocation, RotationPrediction

F64 = torch.float64


class Convolution(nn.Module):
    """One convolution to four channels, in index of a backbone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, bias=False)

    def init_weights(self):
        self.conv.reset_parameters()

    def forward(self, x):
        self.last_input = x
        return (self.conv(x).relu(),)


def make(task, dtype=F64, head=None, **settings):
    torch.manual_seed(0)
    model = task(Convolution(), head or dict(type='mmssl.PretextHead', in_channels=4), **settings).to(dtype)
    with torch.no_grad():
        model.head.fc.weight.mul_(100)  # so that scores differ
    return model


def images(*shape, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def scores_of(model, batch):
    """Class scores by loops over images, pixels and weights."""
    weight, bias = model.head.fc.weight.detach(), model.head.fc.bias.detach()
    kernel = model.backbone.conv.weight.detach()
    rows = []
    for group in batch:
        features = []
        for image in group:
            for channel in range(4):
                values = []
                for top in range(0, image.shape[1] - 2, 2):
                    for left in range(0, image.shape[2] - 2, 2):
                        values.append(
                            max(
                                0.0, float((image[:, top : top + 3, left : left + 3] * kernel[channel]).sum())
                            )
                        )
                features.append(sum(values) / len(values))
        rows.append(
            [
                float(bias[k]) + sum(float(weight[k, i]) * value for i, value in enumerate(features))
                for k in range(len(bias))
            ]
        )
    return rows


def cross_entropy(rows, labels):
    return sum(
        math.log(sum(math.exp(score) for score in row)) - row[label]
        for row, label in zip(rows, labels, strict=True)
    ) / len(rows)


# rotation


def test_turns_are_quarter_turns_counter_clockwise():
    model = make(RotationPrediction)
    turned, labels = model.rotate(
        torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]]).expand(2, 3, 2, 2)
    )
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and turned.shape == (8, 3, 2, 2)
    assert turned[::2, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert turned[1::2, 2].tolist() == [
        [[5, 6], [7, 8]],
        [[6, 8], [5, 7]],
        [[8, 7], [6, 5]],
        [[7, 5], [8, 6]],
    ]


def test_rotation_loss_is_the_cross_entropy_over_all_four_turns():
    model, batch = make(RotationPrediction), images(2, 3, 7, 7)
    result = model.loss([batch])
    turned = []
    for image in batch:
        pixels = image.numpy()
        for turns in range(4):
            turned.append(([torch.from_numpy(np.stack([np.rot90(plane, turns) for plane in pixels]))], turns))
    rows, labels = scores_of(model, [group for group, _ in turned]), [turns for _, turns in turned]
    assert result['loss'].dtype == F64 and abs(result['loss'].item() - cross_entropy(rows, labels)) < 1e-12
    assert (
        result['accuracy'].item()
        == sum(int(np.argmax(row)) == label for row, label in zip(rows, labels, strict=True)) / 8
    )
    assert torch.equal(model.loss(batch)['loss'], result['loss'])
    other = images(2, 3, 7, 7).flip(3)
    assert torch.allclose(
        model.loss([batch, other])['loss'], (result['loss'] + model.loss(other)['loss']) / 2, atol=1e-12
    )


def test_rotation_takes_square_images():
    with pytest.raises(ValueError, match='square images, not 8x6'):
        make(RotationPrediction).loss(images(1, 3, 8, 6))


# relative location


def draw_of(count, size, corners, channels, dropped):
    return PatchDraw(
        torch.tensor(corners),
        torch.tensor(channels),
        torch.tensor(dropped),
        torch.randn(count * 9, 3, size, size, generator=torch.Generator().manual_seed(2)).to(F64),
    )


CORNERS = [
    [[0, 1], [1, 5], [0, 9], [5, 0], [4, 4], [5, 8], [8, 2], [9, 5], [8, 9]],
    [[1, 1], [0, 5], [1, 9], [4, 1], [5, 5], [4, 9], [9, 1], [8, 4], [9, 8]],
]
CHANNELS = [[0, 1, 2, 0, 1, 2, 0, 1, 2], [2, 2, 2, 1, 1, 1, 0, 0, 0]]
DROPPED = [
    [True, False, True, True, True, False, False, True, True],
    [False, True, False, True, False, True, True, True, False],
]


def cut_by_hand(batch, draw, size):
    cut = []
    for number, image in enumerate(batch):
        for index in range(9):
            top, left = draw.corners[number, index].tolist()
            patch = image[:, top : top + size, left : left + size].clone()
            if draw.dropped[number, index]:
                channel_left = int(draw.channel[number, index])
                values = patch[channel_left].flatten().tolist()
                mean = sum(values) / len(values)
                deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
                for channel in range(3):
                    if channel != channel_left:
                        patch[channel] = 0.01 * deviation * draw.noise[number * 9 + index, channel]
            cut.append(patch)
    return cut


def test_patches_and_loss_of_relative_location():
    size = 3
    model = make(RelativeLocation, patch_size=size, gap=1, jitter=0)
    batch, draw = images(2, 3, 12, 12), draw_of(2, size, CORNERS, CHANNELS, DROPPED)
    result = model.loss([batch], draw=draw)
    cut = cut_by_hand(batch, draw, size)
    assert torch.allclose(model.backbone.last_input, torch.stack(cut), atol=1e-14, rtol=0)
    groups, labels = [], []
    for number in range(2):
        for label, index in enumerate((0, 1, 2, 3, 5, 6, 7, 8)):  # row by row without the centre
            groups.append([cut[number * 9 + 4], cut[number * 9 + index]])
            labels.append(label)
    rows = scores_of(model, groups)
    assert abs(result['loss'].item() - cross_entropy(rows, labels)) < 1e-12
    assert (
        result['accuracy'].item()
        == sum(int(np.argmax(row)) == label for row, label in zip(rows, labels, strict=True)) / 16
    )
    result['loss'].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_patches_are_drawn_over_all_that_gap_and_jitter_allow():
    model = make(RelativeLocation, torch.float32, patch_size=5, gap=3, jitter=2, drop_prob=0.3)
    assert model.min_size == 3 * 5 + 2 * 3 + 2 * 2
    torch.manual_seed(0)
    draw = model.draw(torch.zeros(3000, 3, model.min_size + 2, model.min_size + 4))
    assert (
        (draw.corners >= 0).all()
        and (draw.corners[..., 0] <= 27 - 5).all()
        and (draw.corners[..., 1] <= 29 - 5).all()
    )
    for axis, spare in ((0, 2), (1, 4)):
        step = draw.corners[:, :, axis].reshape(-1, 3, 3)
        step = step if axis == 0 else step.transpose(1, 2)  # (image, along the axis, across)
        between = step[:, 1:] - step[:, :-1]
        # neighbours are a patch and a gap apart, each shifted by -2 to 2: from 4 to 12 apart, 8 on average,
        # never overlapping by more
        assert between.min() == 4 and between.max() == 12 and abs(between.double().mean().item() - 8) < 0.05
        first = step[:, 0].flatten().bincount(minlength=spare + 5)
        assert len(first) == spare + 5 and (first > 0).all()
        # the sum of two uniform draws
        ways = np.convolve(np.ones(spare + 1), np.ones(5)) / (5 * (spare + 1))
        assert np.abs(first.numpy() / first.sum().item() - ways).max() < 0.015
    assert np.abs(draw.channel.flatten().bincount().numpy() / 27000 - 1 / 3).max() < 0.015
    assert abs(draw.dropped.double().mean().item() - 0.3) < 0.015
    assert abs(draw.noise.mean().item()) < 0.01 and abs(draw.noise.std().item() - 1) < 0.01
    plain = make(RelativeLocation, torch.float32, patch_size=5, gap=3, jitter=0, drop_prob=0.0)
    draw = plain.draw(torch.zeros(2, 3, 21, 21))
    assert (
        draw.corners[1].tolist() == [[top, left] for top in (0, 8, 16) for left in (0, 8, 16)]
        and not draw.dropped.any()
    )


def test_the_seed_decides_the_draw():
    model = make(RelativeLocation, torch.float32, patch_size=5, gap=3, jitter=2)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.loss(images(2, 3, 40, 30, dtype=torch.float32))['loss'])
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_the_head_has_a_hidden_layer_on_request():
    head = PretextHead(4, 8, 2, hid_channels=6).double()
    features = images(5, 8)
    hidden = features @ head.hidden[0].weight.T
    hidden = ((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()).clamp_min(0)
    assert torch.allclose(head(features), hidden @ head.fc.weight.T, atol=1e-12)
    assert 0.005 < head.fc.weight.std() < 0.015 and head.hidden[0].bias is None


@pytest.mark.parametrize('task, steps', [(RotationPrediction, 60), (RelativeLocation, 120)])
def test_both_are_learnt_where_they_can_be(task, steps):
    """A ramp of brightness tells its turn and its places."""
    ramp = torch.linspace(-1, 1, 24)
    batch = (3 * ramp[:, None] + ramp)[None, None].expand(4, 3, 24, 24) + 0.05 * images(
        4, 3, 24, 24, dtype=torch.float32
    )
    settings = {} if task is RotationPrediction else dict(patch_size=5, gap=3, jitter=1, drop_prob=0.0)
    model = make(
        task, torch.float32, dict(type='mmssl.PretextHead', in_channels=4, hid_channels=32), **settings
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss([batch])['loss'].backward()
        optimizer.step()
    with torch.no_grad():
        assert model.loss([batch])['accuracy'] > 0.7


# a run


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {'default_hooks.checkpoint.interval': 2, 'train_cfg.max_iters': 4}
    straight, saved = check_exact_resume('relative_location', tmp_path, 2, changes)
    assert not torch.equal(saved['head.fc.weight'], straight.model['head.fc.weight'])


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(patch_size=0), 'patch_size=0'),
        (dict(gap=-1), 'gap=-1'),
        (dict(jitter=-2), 'jitter=-2'),
        (dict(drop_prob=1.5), 'drop_prob=1.5'),
        (
            dict(head=dict(type='mmssl.PretextHead', in_channels=4, out_channels=4)),
            'RelativeLocation has 8 and 2',
        ),
        (dict(head=dict(type='mmssl.PretextHead', in_channels=0)), 'in_channels=0'),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(RelativeLocation, **settings)


def test_images_and_widths_that_do_not_fit_are_refused():
    model = make(RelativeLocation, patch_size=5, gap=3, jitter=2)
    with pytest.raises(ValueError, match='images of 24x40 are too small.*need 25x25'):
        model.loss(images(1, 3, 24, 40))
    with pytest.raises(ValueError, match='in_channels=5, but the backbone has 4 channels; set in_channels=4'):
        make(RotationPrediction, head=dict(type='mmssl.PretextHead', in_channels=5)).loss(images(1, 3, 8, 8))
