"""Deep InfoMax's concatenate-and-convolve discriminator, coordinates and occlusion, by their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmssl.registry import MODELS, build
from mmssl.selfsup.infomax import SMALL, ConcatMutualInformation
from mmssl.selfsup.infomax_tasks import ConcatNet, CoordinateNet, occlude


def infomax(**settings):
    torch.manual_seed(0)
    return build(
        dict(type='mmssl.DeepInfoMax', **{**SMALL['DeepInfoMax'].settings, 'alpha': 0.0, **settings}), MODELS
    )


def test_scores_are_those_of_concatenated_pairs():
    torch.manual_seed(0)
    net = ConcatNet(4, 3, hidden=8).double()
    features, vectors = torch.randn(5, 4, 6).double(), torch.randn(2, 3).double()
    weight = torch.cat([net.of_features.weight, net.of_vectors.weight], 1)
    scores = net(features, vectors)
    assert scores.shape == (2, 1, 5, 6)
    for n in range(2):
        for k in range(5):
            for position in range(6):
                pair = torch.cat([features[k, :, position], vectors[n]])
                hidden = F.relu(net.middle(F.relu(weight @ pair + net.of_features.bias)))
                assert torch.allclose(scores[n, 0, k, position], net.score(hidden)[0])


@pytest.mark.parametrize('estimator', ['JSD', 'InfoNCE', 'DV'])
def test_estimators_of_concatenated_pairs(estimator):
    torch.manual_seed(0)
    net = ConcatNet(4, 3, hidden=8).double()
    features, vectors = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 3).double()
    loss = ConcatMutualInformation(net, estimator, gather=False)(features, vectors)
    scores = net(features.flatten(2), vectors)[:, 0]  # (N, K, L)
    own, other = torch.eye(3, dtype=torch.bool), ~torch.eye(3, dtype=torch.bool)
    positives, negatives = scores[own], scores[other]
    if estimator == 'JSD':
        expected = F.softplus(negatives).mean() - (-F.softplus(-positives)).mean() - 2 * math.log(2)
    elif estimator == 'DV':
        expected = negatives.exp().mean().log() - positives.mean()
    else:
        of_image = torch.stack([scores[n][other[n]].exp().sum() for n in range(3)])
        expected = -(positives.exp() / (positives.exp() + of_image[:, None])).log().mean()
    assert torch.allclose(loss, expected)


def test_coordinates_are_classes_of_rows_and_columns():
    torch.manual_seed(0)
    net = CoordinateNet(4, 3, hidden=8, sides=(5, 6)).double().eval()
    features, vectors = torch.randn(2, 4, 2, 3).double(), torch.randn(2, 3).double()
    expected = []
    for image in range(2):
        for row in range(2):
            for column in range(3):
                logits = net.net(torch.cat([features[image, :, row, column], vectors[image]])[None])[0]
                of_row, of_column = logits[:2].log_softmax(0), logits[5:8].log_softmax(0)
                expected.append(-of_row[row] - of_column[column])
    assert torch.allclose(net(features, vectors), torch.stack(expected).mean())
    with pytest.raises(ValueError, match='9x1 positions.*up to 5x6'):
        net(torch.randn(1, 4, 9, 1).double(), vectors[:1])


def test_squares_are_occluded_where_they_are_drawn():
    images = torch.ones(3, 2, 6, 8)
    corners = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.5]])
    occluded = occlude(images, 3, corners)
    for image, (top, left) in enumerate([(0, 0), (3, 5), (2, 3)]):
        expected = torch.ones(2, 6, 8)
        expected[:, top : top + 3, left : left + 3] = 0
        assert torch.equal(occluded[image], expected)
    assert (images == 1).all()
    with pytest.raises(ValueError, match='occlusion=6 of images of 6x8 pixels; give 1 to 5'):
        occlude(images, 6)


def test_the_vector_is_of_the_occluded_image_and_the_features_are_not():
    model = infomax(occlusion=8, coordinates=0.5, gamma=0.0, discriminator='concat').eval()
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(5)
    loss = model.loss(images)['loss']
    torch.manual_seed(5)
    features = model.backbone(images)[1]
    vectors = model.neck(model.backbone(occlude(images, 8))[-1])
    expected = model.local_mi(features, vectors) + 0.5 * model.coordinate_net(features, vectors)
    assert torch.allclose(loss, expected)
    model.train().loss(images)['loss'].backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


@pytest.mark.parametrize(
    'settings, words', [(dict(discriminator='conv'), "'dot', 'concat'"), (dict(coordinates=-1.0), 'negative')]
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        infomax(**settings)
