"""Jigsaw puzzles, colourisation and inpainting by loops; their draws; refusals."""

import math

import pytest
import torch
from torch import nn

from mmssl.selfsup.pretext_pixels import Colorization, Inpainting, Jigsaw, permutation_set

F64 = torch.float64


class Convolution(nn.Module):
    """One convolution to four channels, in index of a backbone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2, bias=False)

    def forward(self, x):
        self.last_input = x
        return (self.conv(x).tanh(),)


def make(task, **settings):
    torch.manual_seed(0)
    head = dict(type='mmssl.PretextHead' if task is Jigsaw else 'mmssl.PixelHead', in_channels=4)
    return task(Convolution(), settings.pop('head', head), **settings).double()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(F64)


# jigsaw


def test_permutations_differ_in_many_positions():
    chosen = permutation_set(24, 4)  # all of them
    assert len({tuple(row) for row in chosen.tolist()}) == 24
    chosen = permutation_set(4, 4)
    distances = (chosen[:, None] != chosen).sum(dim=2)
    assert distances[~torch.eye(4, dtype=torch.bool)].tolist() == [4] * 12  # a Latin square exists
    chosen = permutation_set(100)
    distances = (chosen[:, None] != chosen).sum(dim=2) + 9 * torch.eye(100, dtype=torch.long)
    assert torch.equal(chosen.sort().values, torch.arange(9).expand(100, 9)) and distances.min() >= 6
    assert torch.equal(chosen, permutation_set(100))


def test_jigsaw_by_loops():
    model, batch = make(Jigsaw, num_permutations=5, tile_size=4), images(2, 3, 16, 19)
    with torch.no_grad():
        model.head.fc.weight.mul_(100)
    generator = torch.Generator().manual_seed(2)
    corners, labels = torch.randint(2, (2, 9, 2), generator=generator), torch.tensor([3, 1])
    result = model.loss([batch], labels=labels, corners=corners)
    expected, right = 0.0, 0
    for image, corner, label in zip(batch, corners.tolist(), labels.tolist(), strict=True):
        features = []
        for position in model.permutations[label].tolist():
            top = position // 3 * 5 + corner[position][0]
            left = position % 3 * 6 + corner[position][1]
            tile = image[:, top : top + 4, left : left + 4].clone()
            for channel in range(3):
                mean = tile[channel].mean()
                variance = (tile[channel] - mean).square().sum() / 15
                tile[channel] = (tile[channel] - mean) / (variance + 1e-6).sqrt()
            features += model.backbone(tile[None])[0].mean(dim=(2, 3))[0].tolist()
        weight, bias = model.head.fc.weight.tolist(), model.head.fc.bias.tolist()
        scores = [
            b + sum(w * f for w, f in zip(row, features, strict=True))
            for row, b in zip(weight, bias, strict=True)
        ]
        expected += (math.log(sum(map(math.exp, scores))) - scores[label]) / 2
        right += scores.index(max(scores)) == label
    assert result['loss'].item() == pytest.approx(expected, abs=1e-12)
    assert result['accuracy'].item() == right / 2


def test_the_draw_of_a_puzzle_follows_the_seed():
    model, losses = make(Jigsaw, num_permutations=50, tile_size=4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.loss(images(2, 3, 18, 18))['loss'])
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


# pixels


def predictions(model, batch):
    maps = model.head.conv(model.backbone(batch)[0])
    return nn.functional.interpolate(maps, size=batch.shape[2:], mode='bilinear')


def test_colorization_by_loops():
    model, batch = make(Colorization), images(2, 3, 6, 4)
    result = model.loss([batch])['loss']
    assert torch.equal(model.backbone.last_input[:, 0], model.backbone.last_input[:, 2])
    gray, errors = torch.zeros_like(batch), []
    for b in range(2):
        for y in range(6):
            for x in range(4):
                red, green, blue = batch[b, :, y, x].tolist()
                gray[b, :, y, x] = 0.299 * red + 0.587 * green + 0.114 * blue
    predicted = predictions(model, gray)
    for b in range(2):
        for y in range(6):
            for x in range(4):
                lightness = gray[b, 0, y, x].item()
                errors.append((predicted[b, 0, y, x].item() - (batch[b, 0, y, x].item() - lightness)) ** 2)
                errors.append((predicted[b, 1, y, x].item() - (batch[b, 2, y, x].item() - lightness)) ** 2)
    assert result.item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    result.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_inpainting_by_loops():
    model, batch = make(Inpainting), images(2, 3, 8, 6)
    result = model.loss(batch)['loss']
    damaged, errors = batch.clone(), []
    damaged[:, :, 2:6, 1:4] = 0  # half of 8 and of 6, in the middle
    assert torch.equal(model.backbone.last_input, damaged)
    predicted = predictions(model, damaged)
    for y in range(2, 6):
        for x in range(1, 4):
            errors += (predicted[:, :, y, x] - batch[:, :, y, x]).flatten().square().tolist()
    assert result.item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)


def test_random_holes_reach_every_border():
    hole = make(Inpainting, hole=0.25, random_hole=True).draw(torch.zeros(300, 3, 8, 12))
    assert hole.flatten(1).sum(dim=1).tolist() == [6] * 300
    assert hole.any(dim=0).all() and len(hole.flatten(1).unique(dim=0)) == 7 * 10


def test_impossible_settings_and_sizes_are_refused():
    with pytest.raises(ValueError, match='tile_size=1 must be 2 pixels or more'):
        make(Jigsaw, tile_size=1)
    with pytest.raises(ValueError, match='num_permutations=0 of 9 tiles'):
        make(Jigsaw, num_permutations=0)
    with pytest.raises(ValueError, match='images of 17x40 give squares of 5x13, smaller than tile_size=6'):
        make(Jigsaw, num_permutations=2, tile_size=6).loss(images(1, 3, 17, 40))
    with pytest.raises(ValueError, match='hole=1 must be a fraction'):
        make(Inpainting, hole=1)
    with pytest.raises(ValueError, match='head has out_channels=3; Colorization predicts 2'):
        make(Colorization, head=dict(type='mmssl.PixelHead', in_channels=4, out_channels=3))
