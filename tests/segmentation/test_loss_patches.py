"""mmseg's cross entropies with class weights and with ignored pixels, against PyTorch's formulas."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch.nn import functional as F

import mmssl.segmentation  # noqa: F401  patches mmseg

WEIGHTS = [1.0, 2.0, 4.0]


def loss(**settings):
    init_default_scope('mmseg')
    return MODELS.build(dict(type='CrossEntropyLoss', **settings))


def maps(channels=3, width=5):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, channels, 4, width, generator=generator, requires_grad=True)
    labels = torch.randint(0, max(channels, 2), (2, 4, width), generator=generator)
    labels[:, 1] = 255
    return scores, labels


@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_class_weights_with_ignored_pixels(avg_non_ignore):
    scores, labels = maps()
    got = loss(class_weight=WEIGHTS, avg_non_ignore=avg_non_ignore)(scores, labels, ignore_index=255)
    expected = F.cross_entropy(scores, labels, torch.tensor(WEIGHTS), ignore_index=255)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('width', [3, 5])  # as wide as there are classes, where a wrong broadcast is silent
def test_class_weights_of_sigmoid_scores(width):
    scores, labels = maps(width=width)
    got = loss(class_weight=WEIGHTS, use_sigmoid=True, avg_non_ignore=True)(scores, labels, ignore_index=255)
    known = (labels != 255)[:, None].expand_as(scores)
    targets = F.one_hot(labels.where(labels != 255, 0), 3).movedim(-1, 1).float()
    each = F.binary_cross_entropy_with_logits(
        scores, targets, pos_weight=torch.tensor(WEIGHTS)[:, None, None], reduction='none'
    )
    torch.testing.assert_close(got, each[known].mean())


@pytest.mark.parametrize('width', [2, 5])
def test_one_channel_has_one_class_weight(width):
    scores, labels = maps(channels=1, width=width)
    got = loss(class_weight=[3.0], use_sigmoid=True, avg_non_ignore=True)(scores, labels, ignore_index=255)
    known = labels != 255
    expected = F.binary_cross_entropy_with_logits(
        scores[:, 0][known], labels[known].float(), pos_weight=torch.tensor([3.0])
    )
    torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match='class_weight has 2 numbers for 1 channels'):
        loss(class_weight=[1.0, 3.0], use_sigmoid=True)(scores, labels, ignore_index=255)


@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_one_channel_whose_pixels_are_all_ignored(avg_non_ignore):
    scores, labels = maps(channels=1)
    got = loss(use_sigmoid=True, avg_non_ignore=avg_non_ignore)(
        scores, torch.full_like(labels, 255), ignore_index=255
    )
    got.backward()
    assert got == 0 and not scores.grad.any()


def test_a_known_label_of_one_channel_counts():
    scores, labels = maps(channels=1)
    labels[:] = 255
    labels[0, 0, 0] = 1
    got = loss(use_sigmoid=True, avg_non_ignore=True)(scores, labels, ignore_index=255)
    torch.testing.assert_close(got, -F.logsigmoid(scores[0, 0, 0, 0]))
