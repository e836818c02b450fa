"""``backward()`` called inside autocast: no mixed data types, and gradients close to those of float32."""

import pytest
import torch

from mmssl.ops import dcnv3, deform_conv2d, deform_ps_roi_pool, ps_roi_align, ps_roi_pool

ROIS = torch.tensor([[0, 0.0, 0, 60, 60], [0, 10, 20, 50, 50]])
MAPS, OFFSETS = (1, 18, 8, 8), (2, 2, 3, 3)
CASES = {
    'deform_conv2d': (
        lambda x, offset, weight: deform_conv2d(x, offset, weight, padding=1),
        [(1, 4, 8, 8), (1, 18, 8, 8), (4, 4, 3, 3)],
    ),
    'modulated': (
        lambda x, offset, mask, weight: deform_conv2d(x, offset, weight, padding=1, mask=mask),
        [(1, 4, 8, 8), (1, 18, 8, 8), (1, 9, 8, 8), (4, 4, 3, 3)],
    ),
    'dcnv3': (
        lambda x, offset, mask: dcnv3(x, offset, mask, kernel_size=3, padding=1, groups=2),
        [(1, 6, 6, 4), (1, 6, 6, 36), (1, 6, 6, 18)],
    ),
    'ps_roi_pool': (lambda x: ps_roi_pool(x, ROIS, 3, 1 / 8, 2), [MAPS]),
    'ps_roi_pool-vote': (lambda x: ps_roi_pool(x, ROIS, 3, 1 / 8, 2, vote=True), [MAPS]),
    'ps_roi_align': (lambda x: ps_roi_align(x, ROIS, 3, 1 / 8, 2), [MAPS]),
    'deform_ps_roi_pool': (
        lambda x, offset: deform_ps_roi_pool(x, ROIS, offset, 3, 1 / 8, 2, 3),
        [MAPS, OFFSETS],
    ),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gradients_are_those_outside_of_autocast(name, dtype):
    run, shapes = CASES[name]
    torch.manual_seed(0)
    tensors = [torch.rand(shape).to(dtype) for shape in shapes]
    gradients = []
    for enabled in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            run(*leaves).float().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for reference, gradient in zip(*gradients, strict=True):
        assert gradient.dtype == dtype
        # plain forms leave the products of their backward pass to torch, which computes them in bfloat16
        assert (gradient - reference).float().norm() <= 0.02 * reference.float().norm()
