"""mmcv's RoIAlign reads maps of any memory format."""

import torch
import torchvision

import mmssl.registry  # noqa: F401  applies the patches

ROIS = torch.tensor([[0, 5.0, 5, 60, 70], [1, 10.0, 0, 79, 40]])


def channels_last(x):
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def test_features_and_gradients_of_channels_last_maps_are_torchvisions():
    from mmcv.ops import roi_align

    torch.manual_seed(0)
    maps = torch.randn(2, 6, 20, 20)
    pull = channels_last(torch.randn(2, 6, 7, 7))
    ours, theirs = (channels_last(maps).detach().requires_grad_() for _ in range(2))
    found = roi_align(ours, ROIS, (7, 7), 0.25, 2, 'avg', True)
    expected = torchvision.ops.roi_align(theirs, ROIS, (7, 7), 0.25, 2, True)
    torch.testing.assert_close(found, expected)
    found.backward(pull)
    expected.backward(pull.contiguous())
    torch.testing.assert_close(ours.grad, theirs.grad)
