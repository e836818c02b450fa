"""The MLP of projectors and predictors."""

import pytest
import torch

from mmssl.layers.mlp import MLP


def test_layers_names_and_values():
    torch.manual_seed(0)
    mlp = MLP((3, 5, 5, 2), last_bn=True).double()
    shapes = {name: tuple(parameter.shape) for name, parameter in mlp.named_parameters()}
    assert shapes == {
        'fc0.weight': (5, 3),
        'bn0.weight': (5,),
        'bn0.bias': (5,),
        'fc1.weight': (5, 5),
        'bn1.weight': (5,),
        'bn1.bias': (5,),
        'fc2.weight': (2, 5),
    }
    x = torch.randn(6, 3, dtype=torch.float64)

    def normed(rows):
        return (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt()

    hidden = normed(x @ mlp.fc0.weight.T).clamp(min=0)
    expected = normed(normed(hidden @ mlp.fc1.weight.T).clamp(min=0) @ mlp.fc2.weight.T)
    torch.testing.assert_close(mlp(x), expected, atol=1e-12, rtol=0)


def test_biases_and_no_last_batch_norm():
    mlp = MLP((3, 5, 2), bias=True)
    assert [name for name, _ in mlp.named_parameters()] == [
        'fc0.weight',
        'fc0.bias',
        'bn0.weight',
        'bn0.bias',
        'fc1.weight',
        'fc1.bias',
    ]
    linear = MLP((3, 2), bias=True)
    x = torch.randn(4, 3)
    torch.testing.assert_close(linear(x), x @ linear.fc0.weight.T + linear.fc0.bias)


def test_maps_are_averaged_and_the_last_of_a_tuple_is_taken():
    mlp = MLP((3, 5, 2)).eval()
    maps = torch.randn(4, 3, 2, 5)
    expected = mlp(maps.mean(dim=(2, 3)))
    assert torch.equal(mlp(maps), expected) and torch.equal(mlp((torch.zeros(1), maps)), expected)


def test_initial_weights_are_drawn_anew():
    mlp = MLP((3, 5, 2), last_bn=True)
    mlp(torch.randn(4, 3))
    before = mlp.fc0.weight.detach().clone()
    mlp.init_weights()
    assert (
        not torch.equal(mlp.fc0.weight, before)
        and not mlp.bn1.running_mean.any()
        and mlp.bn0.num_batches_tracked == 0
    )


@pytest.mark.parametrize('dims', [(3,), (), (3, 0), (3, 2.5)])
def test_impossible_widths_are_refused(dims):
    with pytest.raises(ValueError, match='of an MLP must be its widths from input to output, such as'):
        MLP(dims)
