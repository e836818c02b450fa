"""Position-sensitive pooling and align against loops over the formula."""

import math

import numpy as np
import pytest
import torch

from mmssl.ops import ps_roi_align, ps_roi_pool, switch
from mmssl.ops.rois import round_half_away

pytestmark = pytest.mark.slow

SCALE = 1 / 16


def rounded(value):
    return math.copysign(math.floor(abs(value) + 0.5), value)


def loops(features, rois, k, dim, convention='caffe', real=np.float64):
    """PSROIPooling as psroi_pooling.cu states it; ``real`` is the type of the borders."""
    _, _, height, width = features.shape
    out = features.new_zeros(len(rois), dim, k, k)
    for n, (image, *box) in enumerate(rois.tolist()):
        spans = []
        for low, high, size in ((box[1], box[3], height), (box[0], box[2], width)):
            if convention == 'caffe':
                start = real(rounded(low)) * real(SCALE)
                length = max((real(rounded(high)) + real(1)) * real(SCALE) - start, real(0.1))
                step = length / real(k)
                span = [
                    (math.floor(real(i) * step + start), math.ceil(real(i + 1) * step + start))
                    for i in range(k)
                ]
            else:
                start, end = rounded(low * SCALE), rounded(high * SCALE)
                step = real(max(end - start, 1)) / real(k)
                span = [
                    (math.floor(real(i) * step) + int(start), math.ceil(real(i + 1) * step) + int(start))
                    for i in range(k)
                ]
                size -= 1
            spans.append([(min(max(a, 0), size), min(max(b, 0), size)) for a, b in span])
        for c in range(dim):
            for i, (top, bottom) in enumerate(spans[0]):
                for j, (left, right) in enumerate(spans[1]):
                    if bottom > top and right > left:
                        out[n, c, i, j] = features[
                            int(image), (c * k + i) * k + j, top:bottom, left:right
                        ].mean()
    return out


def example(dtype=torch.float64, batch=2, dim=3, k=3, size=(9, 11), seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    features = (torch.randn(batch, dim * k * k, *size, generator=generator, dtype=torch.float64) + mean).to(
        dtype
    )
    corners = torch.rand(12, 2, generator=generator) * torch.tensor([size[1] * 16, size[0] * 16]) - 16
    sides = torch.rand(12, 2, generator=generator) * 120
    boxes = torch.cat((corners, corners + sides), 1)
    last = [
        [0, 0, size[1] * 16 - 1, size[0] * 16 - 1],
        [size[1] * 16 - 17, size[0] * 16 - 17, size[1] * 16 - 1, size[0] * 16 - 1],
        [8, 8, 8, 8],
        [-300, -300, -200, -200],
        [5000, 5000, 6000, 6000],
        [40, 40, 10, 10],
        [24.5, 8.5, 71.5, 39.5],
    ]
    boxes = torch.cat((boxes, torch.tensor(last)))
    image = torch.arange(len(boxes)) % batch
    return features, torch.cat((image[:, None].float(), boxes), 1).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )


@pytest.fixture(params=[False, True], ids=['fast', 'plain'])
def form(request, monkeypatch):
    """The fast form, then the plain one."""
    monkeypatch.setattr(switch, '_plain_only', request.param)


@pytest.mark.parametrize('convention', ['caffe', 'torchvision'])
@pytest.mark.parametrize('size', [(9, 11), (30, 40)], ids=['much-of-the-map', 'little-of-the-map'])
@pytest.mark.parametrize('batch', [1, 2])
def test_pooling_equals_the_formula(form, convention, size, batch):
    features, rois = example(batch=batch, size=size)
    features.requires_grad_()
    expected = loops(features, rois, 3, 3, convention)
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(expected.shape, dtype=expected.dtype, generator=generator)
    (reference,) = torch.autograd.grad(expected, features, grad_output, retain_graph=True)
    out = ps_roi_pool(features, rois, 3, SCALE, 3, convention)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad(out, features, grad_output)
    torch.testing.assert_close(gradient, reference, atol=1e-10, rtol=0)
    voted, mean = ps_roi_pool(features, rois, 3, SCALE, 3, convention, vote=True), expected.mean((2, 3))
    torch.testing.assert_close(voted, mean, atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad(voted, features, grad_output[:, :, 0, 0])
    (reference,) = torch.autograd.grad(mean, features, grad_output[:, :, 0, 0])
    torch.testing.assert_close(gradient, reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize('vote', [False, True])
def test_float32_of_a_map_with_a_mean(form, vote):
    features, rois = example(torch.float32, size=(19, 31), mean=5.0)
    expected = loops(features.double(), rois, 3, 3, real=np.float32)
    expected = expected.mean((2, 3)) if vote else expected
    out = ps_roi_pool(features, rois, 3, SCALE, 3, vote=vote)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('operator', [ps_roi_pool, ps_roi_align])
@pytest.mark.parametrize('vote', [False, True])
def test_gradcheck_reaches_the_last_row_and_column(operator, vote):
    features, _ = example(batch=1, dim=1, k=2, size=(4, 5))
    rois = torch.tensor([[0, 0, 0, 79, 63], [0, 60, 40, 79, 63], [0, 3, 9, 50, 70]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda maps: operator(maps, rois, 2, SCALE, 1, vote=vote), features.requires_grad_()
    )


def test_a_gradient_arrives_in_the_last_row_and_column():
    features = torch.zeros(1, 1, 4, 5, requires_grad=True)
    ps_roi_pool(features, torch.tensor([[0.0, 0, 0, 79, 63]]), 1, SCALE, 1).sum().backward()
    torch.testing.assert_close(features.grad, torch.full_like(features, 1 / 20))


def align_loops(features, rois, k, dim, ratio):
    _, _, height, width = features.shape
    out = features.new_zeros(len(rois), dim, k, k)

    def sample(maps, y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return maps.sum((1, 2)) * 0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        a, b = y - top, x - left
        return (
            maps[:, top, left] * (1 - a) * (1 - b)
            + maps[:, top, right] * (1 - a) * b
            + maps[:, bottom, left] * a * (1 - b)
            + maps[:, bottom, right] * a * b
        )

    for n, (image, *box) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (value * SCALE - 0.5 for value in box)
        bin_height, bin_width = (y1 - y0) / k, (x1 - x0) / k
        rows, columns = (
            (ratio, ratio) if ratio > 0 else (max(0, math.ceil(bin_height)), max(0, math.ceil(bin_width)))
        )
        for i in range(k):
            for j in range(k):
                maps = features[int(image), [(c * k + i) * k + j for c in range(dim)]]
                for v in range(rows):
                    for u in range(columns):
                        out[n, :, i, j] += sample(
                            maps,
                            y0 + i * bin_height + (v + 0.5) * bin_height / rows,
                            x0 + j * bin_width + (u + 0.5) * bin_width / columns,
                        ) / (rows * columns)
    return out


@pytest.mark.parametrize('ratio', [2, 0])
def test_align_equals_the_formula(ratio):
    features, rois = example()
    features.requires_grad_()
    expected = align_loops(features, rois, 3, 3, ratio)
    out = ps_roi_align(features, rois, 3, SCALE, 3, ratio)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    grad_output = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(out, features, grad_output)[0],
        torch.autograd.grad(expected, features, grad_output)[0],
        atol=1e-10,
        rtol=0,
    )
    torch.testing.assert_close(
        ps_roi_align(features, rois, 3, SCALE, 3, ratio, vote=True), out.mean((2, 3)), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize('vote', [False, True])
def test_backends_agree(vote):
    pytest.importorskip('torchvision')
    features, rois = example(torch.float32)
    for operator, keywords in (
        (ps_roi_pool, {'convention': 'torchvision'}),
        (ps_roi_align, {'sampling_ratio': 2}),
    ):
        mine, theirs = (
            operator(features, rois, 3, SCALE, 3, vote=vote, backend=name, **keywords)
            for name in ('torch', 'torchvision')
        )
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('operator', [ps_roi_pool, ps_roi_align])
@pytest.mark.parametrize('vote', [False, True])
def test_odd_inputs(operator, vote):
    features, rois = example(torch.float32)
    plain = operator(features, rois, 3, SCALE, 3, vote=vote)
    torch.testing.assert_close(
        operator(features.to(memory_format=torch.channels_last), rois, 3, SCALE, 3, vote=vote), plain
    )
    strided = torch.stack((features, features), -1)[..., 0]
    torch.testing.assert_close(
        operator(strided, torch.stack((rois, rois), -1)[..., 0], 3, SCALE, 3, vote=vote), plain
    )
    none = operator(features.requires_grad_(), rois[:0], 3, SCALE, 3, vote=vote)
    assert none.shape == (0, *plain.shape[1:])
    assert not torch.autograd.grad(none.sum(), features)[0].any()
    assert operator(features[:0], rois[:0], 3, SCALE, 3, vote=vote).shape == none.shape
    lost = rois[:2].clone()
    lost[0, 1:] = float('nan')
    lost[1, 3] = float('inf')
    assert operator(features, lost, 3, SCALE, 3, vote=vote).isfinite().all()
    for size in ((1, 7), (7, 1), (1, 1)):
        features, rois = example(torch.float32, size=size)
        assert operator(features, rois, 3, SCALE, 3, vote=vote).isfinite().all()


@pytest.mark.parametrize('operator', [ps_roi_pool, ps_roi_align])
def test_bfloat16_under_autocast(operator):
    features, rois = example(torch.float32)
    exact = operator(features.bfloat16().float(), rois, 3, SCALE, 3, vote=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = operator(features.bfloat16().requires_grad_(), rois, 3, SCALE, 3, vote=True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=1e-2, rtol=1e-2)


@pytest.mark.compile
@pytest.mark.parametrize('operator', [ps_roi_pool, ps_roi_align])
def test_compiles_whole_with_any_number_of_regions(operator):
    features, rois = example(torch.float32)
    features.requires_grad_()
    compiled = torch.compile(
        lambda maps, boxes: operator(maps, boxes, 3, SCALE, 3, vote=True),
        backend='aot_eager',
        fullgraph=True,
        dynamic=True,
    )
    for number in (len(rois), 5):
        out, plain = (
            compiled(features, rois[:number]),
            operator(features, rois[:number], 3, SCALE, 3, vote=True),
        )
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            *(torch.autograd.grad(result.square().sum(), features)[0] for result in (out, plain)),
            atol=1e-5,
            rtol=1e-5,
        )


def test_halves_are_rounded_away_from_zero():
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997, 3.2, -3.7])
    assert round_half_away(values).tolist() == [1, 2, 3, -1, -3, 0, 3, -4]


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        ({'features': torch.zeros(1, 10, 4, 4)}, ValueError, r'\(B, 27, H, W\)'),
        ({'rois': torch.zeros(3, 4)}, ValueError, r'rois \(N, 5\).*\(3, 4\)'),
        (
            {'rois': torch.tensor([[2.0, 0, 0, 9, 9]])},
            ValueError,
            'image indices of rois go from 2 to 2, but the batch of features has 2',
        ),
        ({'rois': torch.zeros(3, 5, dtype=torch.long)}, TypeError, 'floating point'),
        ({'convention': 'mxnet'}, ValueError, "convention='mxnet'"),
        ({'backend': 'cuda'}, ValueError, "backend='cuda'"),
        ({'backend': 'mmcv'}, ValueError, "not available from backend='mmcv'"),
        ({'backend': 'torchvision'}, ValueError, "not available from backend='torchvision'"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    features, rois = example(torch.float32)
    arguments = {
        'features': features,
        'rois': rois,
        'output_size': 3,
        'spatial_scale': SCALE,
        'output_dim': 3,
        **change,
    }
    with pytest.raises(error, match=message):
        ps_roi_pool(**arguments)


@pytest.mark.parametrize('batch', [1, 2])
def test_few_regions_on_a_map_with_the_channels_last(batch):
    features = torch.randn(batch, 3 * 9, 24, 31, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 20.0, 30.0, 90.0, 120.0], [batch - 1, 100.0, 10.0, 180.0, 70.0]])
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = features.clone().contiguous(memory_format=layout).requires_grad_()
        out = ps_roi_pool(own, rois, 3, 1 / 8, 3, vote=True)
        results.append((out, *torch.autograd.grad(out.square().sum(), own)))
    torch.testing.assert_close(*results)
