"""Sampling positions of deformable convolutions."""

import pytest
import torch

from mmssl.visualization.deform_sampling import deformable_layers, sampling_positions, stacked_positions

pytest.importorskip('mmdet')
from mmssl.detection.deform import DeformConv


@pytest.mark.parametrize('modulated', [False, True])
def test_sampled_positions_are_those_that_the_layer_reads(modulated):
    """On a map of its own coordinates, a tap of weight 1 outputs its position times its modulation."""
    torch.manual_seed(0)
    layer = DeformConv(
        4, 2, 3, stride=2, padding=2, dilation=2, deform_groups=2, bias=False, modulated=modulated
    )
    torch.nn.init.normal_(layer.conv_offset.bias, std=0.3)
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing='ij')
    x = torch.stack([rows, columns, rows, columns])[None]
    outputs = torch.tensor([[3, 4], [5, 6]])
    offsets = layer.conv_offset(x)[0].detach()
    positions, weights = sampling_positions(layer, offsets, outputs)
    assert positions.shape == (2, 2, 9, 2) and weights.shape == (2, 2, 9)
    for group in range(2):
        for tap in range(9):
            layer.weight.data.zero_()
            for axis in range(2):
                layer.weight.data[axis, 2 * group + axis, tap // 3, tap % 3] = 1
            read = layer(x)[0, :, outputs[:, 0], outputs[:, 1]].T
            torch.testing.assert_close(
                positions[:, group, tap] * weights[:, group, tap, None], read, rtol=1e-4, atol=1e-4
            )
    assert modulated == bool((weights < 1).any())


def test_positions_of_a_stack_without_offsets_are_its_receptive_field():
    layers = [DeformConv(4, 4, 3, padding=1, deform_groups=groups, modulated=False) for groups in (4, 1, 2)]
    offsets = [torch.zeros(18 * layer.deform_groups, 9, 9) for layer in layers]
    positions, groups = stacked_positions(layers, offsets, torch.tensor([4, 5]))
    assert positions.shape == (2 * 9**3, 2) and groups.bincount().tolist() == [729, 729]
    assert positions.amin(0).tolist() == [1, 2] and positions.amax(0).tolist() == [7, 8]
    counts = torch.zeros(9, 9).index_put(
        tuple(positions[groups == 1].long().T), torch.ones(()), accumulate=True
    )
    expected = torch.tensor([1.0, 3.0, 6.0, 7.0, 6.0, 3.0, 1.0])
    assert torch.equal(counts[1:8, 2:9], expected[:, None] * expected)


def test_a_model_without_deformable_convolution_is_rejected():
    with pytest.raises(ValueError, match='has no deformable convolution'):
        deformable_layers(torch.nn.Linear(1, 1))
