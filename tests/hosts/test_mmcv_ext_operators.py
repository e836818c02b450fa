"""Replacements for operators that mmcv compiles for CUDA only: against loops over the formulas."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import mmssl.registry  # noqa: F401  installs the import hook
from mmssl.hosts import ops_import

pytest.importorskip('mmcv')
needs_ops = pytest.mark.skipif(not ops_import.has_ops(), reason='mmcv has no compiled operators')


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def assert_same(results, run, tensors):
    """Compare output and gradients with those of the differentiable function ``run``."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = run(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    expected = [output, *torch.autograd.grad((output * weights).sum(), leaves)]
    torch.testing.assert_close(results, expected, rtol=1e-9, atol=1e-9)


@needs_ops
@pytest.mark.parametrize('threshold', [0.3, 0.5, 1.5])
def test_nms_match_equals_the_compiled_operator(swap, threshold):
    torch.manual_seed(0)
    for count in (0, 1, 60):
        corners = (torch.rand(count, 2, 2) * 8).round()
        dets = torch.cat([corners.amin(1), corners.amax(1), (torch.rand(count, 1) * 9).round() / 9], 1)
        compiled, replacement = (swap('nms', how).nms_match(dets, threshold) for how in (False, True))
        assert [group.tolist() for group in replacement] == [group.tolist() for group in compiled]


def test_nms_match_by_hand(swap):
    boxes = torch.tensor([[0, 0, 2, 1, 0.5], [5, 5, 6, 6, 0.6], [1, 0, 3, 1, 0.9]])
    assert [group.tolist() for group in swap('nms').nms_match(boxes, 1 / 3)] == [[2, 0], [1]]
    assert [group.tolist() for group in swap('nms').nms_match(boxes, 0.34)] == [[2], [1], [0]]


@pytest.mark.parametrize('kernel, padding', [((3, 3), 1), ((1, 1), 0), ((3, 5), (1, 2))])
def test_masked_convolution(swap, kernel, padding):
    """The convolution at the positions of the mask, 0 elsewhere."""
    torch.manual_seed(0)
    x, weight, bias = draw(1, 4, 6, 7), draw(3, 4, *kernel), draw(3)
    masks = [torch.rand(1, 6, 7) > 0.5, torch.ones(1, 6, 7), torch.zeros(1, 6, 7)]
    for mask in masks:
        result = swap('masked_conv').masked_conv2d(x, mask.double(), weight, bias, padding)
        torch.testing.assert_close(result, F.conv2d(x, weight, bias, padding=padding) * mask)


def carafe_loop(features, masks, kernel_size, groups, scale):
    batch, channels, height, width = features.shape
    rows = []
    radius = kernel_size // 2
    for b, c, y, x in itertools.product(
        range(batch), range(channels), range(height * scale), range(width * scale)
    ):
        total = features.new_zeros(())
        for i, j in itertools.product(range(kernel_size), repeat=2):
            row, column = y // scale + i - radius, x // scale + j - radius
            if 0 <= row < height and 0 <= column < width:
                tap = (c // (channels // groups)) * kernel_size**2 + i * kernel_size + j
                total = total + features[b, c, row, column] * masks[b, tap, y, x]
        rows.append(total)
    return torch.stack(rows).view(batch, channels, height * scale, width * scale)


@pytest.mark.parametrize('kernel_size, groups, scale', [(3, 2, 2), (1, 1, 3), (5, 1, 1)])
def test_carafe_is_a_weighted_sum_of_the_surroundings(with_gradients, swap, kernel_size, groups, scale):
    torch.manual_seed(0)
    features, masks = draw(2, 4, 2, 3), draw(2, groups * kernel_size**2, 2 * scale, 3 * scale)
    options = dict(kernel_size=kernel_size, groups=groups, scale=scale)
    results = with_gradients(
        'carafe', lambda module, x, m: module.carafe(x, m, *options.values()), features, masks
    )
    assert_same(results, functools.partial(carafe_loop, **options), (features, masks))
    # mmcv asserts that the gradient of the naive form is on CUDA: call what it would call
    naive = swap('carafe').carafe_naive(features, masks, *options.values())
    torch.testing.assert_close(naive, results[0])
    weights = torch.linspace(-1, 1, naive.numel(), dtype=naive.dtype).view_as(naive)
    grads = torch.zeros_like(features), torch.zeros_like(masks)
    swap('carafe').ext_module.carafe_naive_backward(
        weights, features, masks, *grads, kernel_size=kernel_size, group_size=groups, scale_factor=scale
    )
    torch.testing.assert_close(list(grads), results[1:])


def psa_loop(mask, psa_type, size):
    batch, _, height, width = mask.shape
    out = mask.new_zeros(batch, height * width, height, width)
    for h, w, i, j in itertools.product(range(height), range(width), range(size[0]), range(size[1])):
        row, column = h + i - (size[0] - 1) // 2, w + j - (size[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            value = mask[:, i * size[1] + j, h, w]
            if psa_type == 0:
                out[:, row * width + column, h, w] = value
            else:
                out[:, h * width + w, row, column] = value
    return out


@pytest.mark.parametrize('psa_type', [0, 1])
@pytest.mark.parametrize('size', [(3, 5), (7, 7), (4, 2)])
def test_psamask_equals_loops(with_gradients, psa_type, size):
    torch.manual_seed(0)
    mask = draw(2, size[0] * size[1], 4, 3)

    def run(module, x):
        return module.PSAMaskFunction.apply(x, psa_type, size)

    results = with_gradients('psa_mask', run, mask)
    assert_same(results, lambda x: psa_loop(x, psa_type, size), (mask,))
    if ops_import.has_ops():
        compiled = with_gradients('psa_mask', run, mask.float(), replaced=False)
        torch.testing.assert_close([result.float() for result in results], compiled)


def interpolate(plane, y, x):
    """Bilinear sample at numbers or 0-d tensors y and x; pixels outside count as 0."""
    height, width = plane.shape
    row, column = math.floor(float(y.detach())), math.floor(float(x.detach()))
    total = plane.new_zeros(())
    for i, j in itertools.product((row, row + 1), (column, column + 1)):
        if 0 <= i < height and 0 <= j < width:
            total = total + plane[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def attention_loop(value, locations, weights, shapes):
    batch, _, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    starts = [0, *itertools.accumulate(height * width for height, width in shapes)]
    out = []
    for b, q, head, c in itertools.product(range(batch), range(queries), range(heads), range(channels)):
        total = value.new_zeros(())
        for level, p in itertools.product(range(levels), range(points)):
            height, width = shapes[level]
            plane = value[b, starts[level] : starts[level + 1], head, c].view(height, width)
            x, y = locations[b, q, head, level, p] * torch.tensor([width, height]) - 0.5
            total = total + weights[b, q, head, level, p] * interpolate(plane, y, x)
        out.append(total)
    return torch.stack(out).view(batch, queries, heads * channels)


def test_deformable_attention_sums_samples_of_all_levels(with_gradients):
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 1)]
    value = draw(2, 14, 2, 3)
    locations, weights = 0.5 + 0.5 * draw(2, 3, 2, 2, 2, 2), draw(2, 3, 2, 2, 2)

    def run(module, value, locations, weights):
        levels, starts = torch.tensor(shapes), torch.tensor([0, 12])
        return module.MultiScaleDeformableAttnFunction.apply(value, levels, starts, locations, weights, 64)

    results = with_gradients('multi_scale_deform_attn', run, value, locations, weights)
    assert_same(results, lambda *leaves: attention_loop(*leaves, shapes), (value, locations, weights))
    half = with_gradients('multi_scale_deform_attn', run, value.half(), locations.half(), weights.half())
    torch.testing.assert_close(half[0].double(), results[0], rtol=0.02, atol=0.02)


def test_deformable_attention_has_no_gradient_at_the_border(with_gradients):
    value, weights = torch.ones(1, 4, 1, 1), torch.ones(1, 1, 1, 1, 2)
    locations = torch.tensor([[-0.25, 0.5], [0.5, -0.25]]).view(1, 1, 1, 1, 2, 2)  # x or y is -1 pixel

    def run(module, locations):
        levels, starts = torch.tensor([[2, 2]]), torch.tensor([0])
        return module.MultiScaleDeformableAttnFunction.apply(value, levels, starts, locations, weights, 64)

    assert not with_gradients('multi_scale_deform_attn', run, locations)[1].any()


def pool_loop(features, offset, rois, size, scale, ratio, gamma):
    channels, height, width = features.shape[1:]
    out = []
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top, right, bottom = (border * scale - 0.5 for border in (x1, y1, x2, y2))
        bin_h, bin_w = (bottom - top) / size[0], (right - left) / size[1]
        counts = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for c, i, j in itertools.product(range(channels), range(size[0]), range(size[1])):
            y0, x0 = top + i * bin_h, left + j * bin_w
            if offset is not None:
                x0 = x0 + gamma * (right - left) * offset[n, 0, i, j]
                y0 = y0 + gamma * (bottom - top) * offset[n, 1, i, j]
            total = features.new_zeros(())
            for a, b in itertools.product(range(counts[0]), range(counts[1])):
                y = torch.as_tensor(y0 + (a + 0.5) * bin_h / counts[0], dtype=torch.float64)
                x = torch.as_tensor(x0 + (b + 0.5) * bin_w / counts[1], dtype=torch.float64)
                if -1 <= y <= height and -1 <= x <= width:
                    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
                    total = total + interpolate(features[int(image), c], y, x)
            out.append(total / max(counts[0] * counts[1], 1))
    return torch.stack(out).view(len(rois), channels, *size)


ROIS = torch.tensor([[0, 4.0, 8, 40, 30], [1, 20, 12, 60, 70], [0, 8, 8, 8, 8], [1, 0, 0, 17, 90]]).double()


@pytest.mark.parametrize('ratio', [0, 2])
def test_deformable_pooling_averages_samples_of_moved_bins(with_gradients, ratio):
    torch.manual_seed(0)
    features, offset = draw(2, 2, 6, 7), 2 * draw(4, 2, 3, 2)
    options = dict(size=(3, 2), scale=1 / 8, ratio=ratio, gamma=0.1)

    def run(module, x, offset=None):
        return module.deform_roi_pool(x, ROIS, offset, *options.values())

    loop = functools.partial(pool_loop, rois=ROIS, **options)
    assert_same(with_gradients('deform_roi_pool', run, features, offset), loop, (features, offset))
    plain = with_gradients('deform_roi_pool', run, features)
    assert_same(plain, lambda x: loop(x, None), (features,))
    torchvision = pytest.importorskip('torchvision')
    expected = torchvision.ops.roi_align(features, ROIS, (3, 2), 1 / 8, ratio, True)
    torch.testing.assert_close(plain[0], expected)


@pytest.mark.parametrize('name', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
def test_deformable_pooling_layers_train(swap, name):
    layer = getattr(swap('deform_roi_pool'), name)((3, 3), 2, 16, spatial_scale=1 / 8).double()
    features = draw(2, 2, 6, 7).requires_grad_()
    output = layer(features, ROIS)
    output.square().sum().backward()
    assert output.shape == (4, 2, 3, 3) and features.grad.abs().sum() > 0
    gradient = layer.offset_fc[-1].bias.grad
    assert gradient.isfinite().all() and gradient.any()
