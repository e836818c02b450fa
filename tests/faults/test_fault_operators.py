"""Every public operator: gradients in float64, odd layouts, empty input, one pixel, CPU against CUDA.

The operators are plain functions of tensors; none is registered with ``torch.library``, so that there is
nothing for ``torch.library.opcheck`` to look at, and the last test notices when that changes. Formulas:
tests/ops.
"""

import pytest
import torch

import mmssl.ops
from mmssl.ops import dcnv3, deform_conv2d, deform_ps_roi_pool, ps_roi_align, ps_roi_pool
from mmssl.ops.attention import attention

SEEDS = range(10)


def draw(seed, *shape, scale=1.0):
    """Numbers around 0, away from the integers, where bilinear sampling has no derivative."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5) * scale


def rois_of(seed, number, batch, size):
    """(N, 5) boxes within maps of a cell a pixel."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, 2, generator=generator, dtype=torch.float64).sort(1)[0] * torch.tensor(
        size[::-1]
    )
    return torch.cat([(torch.arange(number) % max(batch, 1)).double()[:, None], corners.flatten(1)], 1)


def convolution(seed, batch=1, size=(3, 4), groups=1):
    offset, mask = draw(seed + 1, batch, 18, *size, scale=0.8) + 0.45, draw(seed + 2, batch, 9, *size) + 1
    return (lambda x, o, w, b, m: deform_conv2d(x, o, w, b, padding=1, mask=m, backend='torch')), [
        draw(seed, batch, 2, *size),
        offset,
        draw(seed + 3, 2, 2, 3, 3),
        draw(seed + 4, 2),
        mask,
    ]


def core(seed, batch=1, size=(3, 4)):
    offset, mask = (
        draw(seed + 1, batch, *size, 2 * 9 * 2, scale=0.8) + 0.45,
        draw(seed + 2, batch, *size, 2 * 9) + 1,
    )
    return (lambda x, o, m: dcnv3(x, o, m, groups=2)), [draw(seed, batch, *size, 4), offset, mask]


def pooling(operator):
    def case(seed, batch=1, size=(4, 5), number=3):
        rois = rois_of(seed, number if batch else 0, batch, size)
        return (lambda maps: operator(maps, rois.to(maps.device, maps.dtype), 2, 1.0, 2)), [
            draw(seed, batch, 2 * 4, *size)
        ]

    return case


def deformable_pooling(seed, batch=1, size=(4, 5), number=3):
    rois = rois_of(seed, number if batch else 0, batch, size)
    trans = draw(seed + 1, len(rois), 2, 2, 2)
    return (
        lambda maps, moved: deform_ps_roi_pool(
            maps, rois.to(maps.device, maps.dtype), moved, 2, 1.0, 2, 2, sample_per_part=2
        )
    ), [draw(seed, batch, 2 * 4, *size), trans]


def attending(seed, batch=1, size=(2, 3)):
    return attention, [draw(seed + place, batch, 2, size[0] * size[1], 4) for place in range(3)]


CASES = {
    'deform_conv2d': convolution,
    'dcnv3': core,
    'ps_roi_pool': pooling(ps_roi_pool),
    'ps_roi_align': pooling(ps_roi_align),
    'deform_ps_roi_pool': deformable_pooling,
    'attention': attending,
}


def test_every_public_operator_is_here():
    assert set(mmssl.ops.__all__) <= set(CASES)


@pytest.mark.parametrize('name', CASES)
def test_gradcheck_over_ten_seeds(name):
    """In a random direction each; tests/ops looks at every element."""
    for seed in SEEDS:
        operator, inputs = CASES[name](100 * seed)
        assert torch.autograd.gradcheck(
            operator, [tensor.requires_grad_() for tensor in inputs], eps=1e-7, atol=1e-5, fast_mode=True
        )


def every_other(tensor):
    """The same values with a gap after each."""
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
    wide[..., ::2] = tensor
    return wide[..., ::2]


def turned(tensor):
    """The same values, the axes in memory from the last to the first."""
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('layout', [every_other, turned, channels_last])
def test_odd_layouts_change_neither_result_nor_gradient(name, layout):
    operator, inputs = CASES[name](7)
    results = []
    for change in (lambda tensor: tensor, layout):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = operator(*map(change, leaves))
        pull = draw(5, *out.shape)
        results.append((out, *torch.autograd.grad(out, leaves, turned(pull) if change is layout else pull)))
    torch.testing.assert_close(results[1], results[0], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('shape', [dict(batch=0), dict(size=(1, 1))])
def test_no_input_and_one_pixel(name, shape):
    operator, inputs = CASES[name](3, **shape)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    out = operator(*leaves)
    assert bool(torch.isfinite(out).all())
    if 'batch' in shape:
        assert out.shape[0] == 0
    gradients = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            assert gradient.shape == leaf.shape and bool(torch.isfinite(gradient).all())
            assert shape != dict(batch=0) or not gradient.any()


@pytest.mark.parametrize('name', ['ps_roi_pool', 'ps_roi_align', 'deform_ps_roi_pool'])
def test_maps_without_regions(name):
    operator, inputs = CASES[name](3, number=0)
    out = operator(*[tensor.requires_grad_() for tensor in inputs])
    assert out.shape == (0, 2, 2, 2) and not torch.autograd.grad(out.sum(), inputs[0])[0].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('name', CASES)
def test_cuda_equals_cpu(name):
    for seed in SEEDS:
        operator, inputs = CASES[name](100 * seed)
        results = []
        for device in ('cpu', 'cuda'):
            leaves = [tensor.to(device, torch.float32).requires_grad_() for tensor in inputs]
            out = operator(*leaves)
            grads = torch.autograd.grad(out, leaves, draw(seed, *out.shape).to(out))
            results.append([tensor.cpu() for tensor in (out, *grads)])
        torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


def test_nothing_is_registered_with_torch_library(repo_root):
    sources = ''.join(path.read_text(encoding='utf-8') for path in (repo_root / 'mmssl/ops').glob('*.py'))
    assert 'torch.library' not in sources and 'custom_op' not in sources
