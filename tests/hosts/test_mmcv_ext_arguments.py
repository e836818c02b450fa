"""Unusual arguments of mmcv's operators: the replacements compute or refuse what the compiled ones do."""

import pytest
import torch

import mmssl.registry  # noqa: F401  installs the import hook
from mmssl.hosts import ops_import
from mmssl.ops import deform_conv2d

pytest.importorskip('mmcv')
needs_ops = pytest.mark.skipif(not ops_import.has_ops(), reason='mmcv has no compiled operators')


def run_v1(module, x, offset, weight):
    return module.deform_conv2d(x, offset, weight, 1, 1)


def run_v2(module, x, offset, mask, weight):
    return module.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)


@pytest.mark.parametrize('caller', ['torch', 'torchvision', 'stand-in'])
def test_border_taps_have_no_gradient(with_gradients, caller):
    """All layers begin with offsets of 0, whose border taps are exactly one pixel outside the map."""
    x = torch.tensor([[[[1.0, 2.0, 3.0]] * 3]])
    offset = torch.zeros(1, 18, 3, 3)
    if caller != 'stand-in':
        offset.requires_grad_()
        deform_conv2d(x, offset, torch.ones(1, 1, 3, 3), padding=1, backend=caller).sum().backward()
        gradient = offset.grad
    else:
        gradient = with_gradients('deform_conv', run_v1, x, offset, torch.ones(1, 1, 3, 3))[2]
    by_tap = gradient.view(3, 3, 2, 3, 3)  # tap row, tap column, (y, x), output row, output column
    assert not by_tap[0, :, :, 0].any() and not by_tap[:, 0, :, :, 0].any()
    assert not by_tap[2, :, :, 2].any() and not by_tap[:, 2, :, :, 2].any()
    assert by_tap[1, 1, 1].any()


@needs_ops
@pytest.mark.parametrize('shift', [0.0, 1.0, -1.0, 0.5])
def test_whole_offsets_have_the_gradients_of_the_compiled_operators(with_gradients, shift):
    torch.manual_seed(0)
    offset, mask = torch.full((2, 18, 4, 5), shift), torch.rand(2, 9, 4, 5)
    x, weight = torch.randn(2, 2, 4, 5), torch.randn(3, 2, 3, 3)
    for name, run, tensors in (
        ('deform_conv', run_v1, (x, offset, weight)),
        ('modulated_deform_conv', run_v2, (x, offset, mask, weight)),
    ):
        compiled = with_gradients(name, run, *tensors, replaced=False)
        replacement = with_gradients(name, run, *tensors)
        torch.testing.assert_close(replacement, compiled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'name, run, shapes, message',
    [
        ('deform_conv', run_v1, [(1, 36, 8, 8), (4, 4, 3, 3)], 'offset has 36 channels; deform_groups=1'),
        ('deform_conv', run_v1, [(1, 18, 8, 8), (4, 2, 3, 3)], 'does not fit 4 input channels and groups=1'),
        ('deform_conv', run_v1, [(1, 18, 16, 16), (4, 4, 3, 3)], r'offset of deform_conv2d must be'),
        (
            'modulated_deform_conv',
            run_v2,
            [(1, 18, 8, 8), (1, 9, 8, 8), (4, 2, 3, 3)],
            'does not fit 4 input channels and groups=1',
        ),
        (
            'modulated_deform_conv',
            run_v2,
            [(1, 36, 8, 8), (1, 18, 8, 8), (4, 4, 3, 3)],
            'offset has 36 channels; deform_groups=1',
        ),
        (
            'modulated_deform_conv',
            run_v2,
            [(1, 18, 8, 8), (1, 18, 8, 8), (4, 4, 3, 3)],
            'mask has 18 channels; deform_groups=1',
        ),
        (
            'modulated_deform_conv',
            run_v2,
            [(1, 18, 4, 4), (1, 9, 4, 4), (4, 4, 3, 3)],
            'offset of deform_conv2d must be',
        ),
    ],
)
def test_groups_and_sizes_that_disagree_with_the_shapes_are_refused(swap, name, run, shapes, message):
    tensors = [torch.rand(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        run(swap(name), torch.rand(1, 4, 8, 8), *tensors)


def test_offsets_of_a_larger_map_are_read_from_its_memory(with_gradients):
    """As DyHead's released weights were trained: each image's first 18 * 8 * 8 and 9 * 8 * 8 values."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
    offset, mask = torch.randn(2, 27, 16, 16).split((18, 9), 1)
    expected = with_gradients(
        'modulated_deform_conv',
        run_v2,
        x,
        offset.flatten(1)[:, : 18 * 64].view(2, 18, 8, 8),
        mask.flatten(1)[:, : 9 * 64].view(2, 9, 8, 8),
        weight,
    )
    results = [with_gradients('modulated_deform_conv', run_v2, x, offset, mask, weight)]
    if ops_import.has_ops():
        results.append(
            with_gradients('modulated_deform_conv', run_v2, x, offset, mask, weight, replaced=False)
        )
    for output, grad_x, grad_offset, grad_mask, grad_weight in results:
        assert not grad_offset.flatten(1)[:, 18 * 64 :].any() and not grad_mask.flatten(1)[:, 9 * 64 :].any()
        cut = grad_offset.flatten(1)[:, : 18 * 64], grad_mask.flatten(1)[:, : 9 * 64]
        for result, reference in zip((output, grad_x, *cut, grad_weight), expected, strict=True):
            torch.testing.assert_close(result.reshape(reference.shape), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('box', [(3.0, 1.0, 0.0, 2.0), (0.0, 3.0, 2.0, 1.0), (0.0, float('nan'), 2.0, 2.0)])
def test_roi_align_refuses_reversed_regions(swap, box):
    x, rois = torch.rand(1, 2, 4, 4), torch.tensor([[0, 0.0, 0, 3, 3], [0, *box]])
    roi_align = swap('roi_align').roi_align
    with pytest.raises(ValueError, match=r'region 1 of roi_align, .* has a negative size or NaN; order'):
        roi_align(x, rois, (2, 2), 1.0, 2, 'avg', True)
    roi_align(x, rois[:1], (2, 2), 1.0, 2, 'avg', True)
    if ops_import.has_ops():
        with pytest.raises(RuntimeError):
            swap('roi_align', False).roi_align(x, rois, (2, 2), 1.0, 2, 'avg', True)
        if rois.isfinite().all():
            outputs = [
                swap('roi_align', replaced).roi_align(x, rois, (2, 2), 1.0, 2, 'avg', False)
                for replaced in (True, False)
            ]
            torch.testing.assert_close(*outputs)


def test_backward_inside_autocast(swap):
    """The gradients are those of float32, as the forward pass of these operators is."""
    torch.manual_seed(0)
    x, offset, mask = torch.randn(1, 4, 6, 6), torch.randn(1, 18, 6, 6), torch.rand(1, 9, 6, 6)
    weight, logits = torch.randn(4, 4, 3, 3), torch.randn(4, 3)
    rois = torch.tensor([[0, 0.0, 0, 30, 40], [0, 10, 20, 50, 50]])
    cases = {
        'deform_conv': (run_v1, (x, offset, weight)),
        'modulated_deform_conv': (run_v2, (x, offset, mask, weight)),
        'roi_align': (lambda module, x: module.roi_align(x, rois, 2, 1 / 8), (x,)),
        'focal_loss': (
            lambda module, x: module.sigmoid_focal_loss(
                x, torch.tensor([0, 1, 2, 3]), 2.0, 0.25, None, 'none'
            ),
            (logits,),
        ),
    }
    for name, (run, tensors) in cases.items():
        module = swap(name)
        gradients = []
        for enabled in (False, True):
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
                run(module, *leaves).sum().backward()
            gradients.append([leaf.grad for leaf in leaves])
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
