"""Deformable position-sensitive pooling against loops over MXNet's formula."""

import math

import pytest
import torch

from mmssl.ops import deform_ps_roi_pool

pytestmark = pytest.mark.slow

SCALE = 1 / 16


def rounded(value):
    return math.copysign(math.floor(abs(value) + 0.5), value)


def loops(features, rois, trans, size, dim, group, part, samples=4, std=0.1):
    _, _, height, width = features.shape
    classes = 1 if trans is None else trans.shape[1] // 2
    out = []
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x0, y0 = rounded(x1) * SCALE - 0.5, rounded(y1) * SCALE - 0.5
        roi_width, roi_height = (
            max((rounded(x2) + 1) * SCALE - 0.5 - x0, 0.1),
            max((rounded(y2) + 1) * SCALE - 0.5 - y0, 0.1),
        )
        for c in range(dim):
            label = c // (dim // classes)
            for i in range(size):
                for j in range(size):
                    w, h = (
                        torch.tensor(start, dtype=features.dtype)
                        for start in (x0 + j * roi_width / size, y0 + i * roi_height / size)
                    )
                    if trans is not None:
                        w = w + std * trans[n, 2 * label, i * part // size, j * part // size] * roi_width
                        h = h + std * trans[n, 2 * label + 1, i * part // size, j * part // size] * roi_height
                    plane = features[int(image), (c * group + i * group // size) * group + j * group // size]
                    total, count = features.new_zeros(()), 0
                    for v in range(samples):
                        for u in range(samples):
                            x, y = (
                                w + u * roi_width / size / samples,
                                h + v * roi_height / size / samples,
                            )
                            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                                continue
                            count += 1
                            x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
                            left, right, top, bottom = (
                                int(edge) for edge in (x.floor(), x.ceil(), y.floor(), y.ceil())
                            )
                            a, b = x - left, y - top
                            total = total + (
                                plane[top, left] * (1 - a) * (1 - b)
                                + plane[top, right] * a * (1 - b)
                                + plane[bottom, left] * (1 - a) * b
                                + plane[bottom, right] * a * b
                            )
                    out.append(total / max(count, 1))
    return torch.stack(out).view(len(rois), dim, size, size)


def example(classes=None, dim=2, group=3, part=3, batch=2, dtype=torch.float64, size=(6, 7)):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, dim * group * group, *size, generator=generator, dtype=torch.float64).to(
        dtype
    )
    boxes = torch.tensor(
        [
            [0, 0, 16 * size[1] - 1, 16 * size[0] - 1],
            [70, 60, 111, 95],
            [3.5, 9, 61, 40],
            [-90, -70, 20, 30],
            [8, 8, 8, 8],
            [900, 900, 950, 950],
            [60, 50, 30, 20],
        ]
    )
    rois = torch.cat(((torch.arange(len(boxes)) % batch)[:, None].float(), boxes), 1).to(dtype)
    shape = len(boxes), 2 * (classes or 1), part, part
    trans = (
        None if classes is None else torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    )
    return features, rois, trans


@pytest.mark.parametrize(
    ('classes', 'group', 'part', 'batch'),
    [(None, 3, 3, 2), (1, 3, 3, 1), (1, 1, 2, 2), (2, 3, 3, 1), (2, 2, 2, 2)],
)
def test_equals_the_formula(classes, group, part, batch):
    features, rois, trans = example(classes, group=group, part=part, batch=batch)
    inputs = [tensor.requires_grad_() for tensor in (features, trans) if tensor is not None]
    expected = loops(features, rois, trans, 3, 2, group, part)
    out = deform_ps_roi_pool(features, rois, trans, 3, SCALE, 2, group, part)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    grad_output = torch.randn(
        expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1)
    )
    reference = torch.autograd.grad(expected, inputs, grad_output)
    for mine, theirs in zip(torch.autograd.grad(out, inputs, grad_output), reference, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
    voted = deform_ps_roi_pool(features, rois, trans, 3, SCALE, 2, group, part, vote=True)
    torch.testing.assert_close(voted, expected.mean((2, 3)), atol=1e-10, rtol=0)
    single = [None if tensor is None else tensor.detach().float() for tensor in (features, rois, trans)]
    torch.testing.assert_close(
        deform_ps_roi_pool(*single, 3, SCALE, 2, group, part).double(), expected.detach(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize('classes', [1, 2])
def test_gradcheck(classes):
    features, rois, trans = example(classes, group=2, part=2, batch=1, size=(4, 5))
    inputs = features.requires_grad_(), trans[:3].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda maps, moves: deform_ps_roi_pool(maps, rois[:3], moves, 2, SCALE, 2, 2, 2, 2), inputs
    )


@pytest.mark.parametrize('classes', [None, 1, 2])
def test_odd_inputs(classes):
    features, rois, trans = example(classes, dtype=torch.float32)
    plain = deform_ps_roi_pool(features, rois, trans, 3, SCALE, 2, 3)
    layout = features.to(memory_format=torch.channels_last)
    moved = None if trans is None else torch.stack((trans, trans), -1)[..., 0]
    torch.testing.assert_close(deform_ps_roi_pool(layout, rois, moved, 3, SCALE, 2, 3), plain)
    part = None if trans is None else trans[:0]
    assert deform_ps_roi_pool(features, rois[:0], part, 3, SCALE, 2, 3).shape == (0, 2, 3, 3)
    assert deform_ps_roi_pool(features[:0], rois[:0], part, 3, SCALE, 2, 3, vote=True).shape == (0, 2)
    for size in ((1, 7), (7, 1), (1, 1)):
        features, rois, trans = example(classes, dtype=torch.float32, size=size)
        out = deform_ps_roi_pool(
            features.requires_grad_(), rois, None if trans is None else 30 * trans, 3, SCALE, 2, 3
        )
        assert out.isfinite().all() and torch.autograd.grad(out.sum(), features)[0].isfinite().all()
    lost = rois.clone()
    lost[:, 1:] = float('nan')
    assert deform_ps_roi_pool(features, lost, trans, 3, SCALE, 2, 3).shape == plain.shape


@pytest.mark.parametrize('classes', [1, 2])
def test_bfloat16(classes):
    features, rois, trans = example(classes, dtype=torch.float32)
    exact = deform_ps_roi_pool(features.bfloat16().float(), rois, trans, 3, SCALE, 2, 3)
    with torch.autocast('cpu', torch.bfloat16):
        out = deform_ps_roi_pool(features.bfloat16(), rois, trans, 3, SCALE, 2, 3)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=1e-2, rtol=1e-2)


@pytest.mark.compile
def test_compiles_whole_with_any_number_of_regions():
    features, rois, trans = example(2, dtype=torch.float32)
    compiled = torch.compile(
        lambda *arguments: deform_ps_roi_pool(*arguments, 3, SCALE, 2, 3),
        backend='aot_eager',
        fullgraph=True,
        dynamic=True,
    )
    inputs = features.requires_grad_(), trans.requires_grad_()
    for number in (7, 4):
        arguments = features, rois[:number], trans[:number]
        both = compiled(*arguments), deform_ps_roi_pool(*arguments, 3, SCALE, 2, 3)
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
        for gradients in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in both), strict=True):
            torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'trans': torch.zeros(7, 3, 3, 3)}, r'2 \* classes'),
        ({'trans': torch.zeros(7, 2, 4, 4)}, 'part_size=3'),
        ({'trans': torch.zeros(7, 6, 3, 3)}, 'output_dim=2 .* 3 classes'),
        ({'backend': 'torchvision'}, 'torchvision'),
        ({'output_dim': 5}, r'\(B, 45, H, W\)'),
    ],
)
def test_wrong_arguments_are_named(change, message):
    features, rois, trans = example(1, dtype=torch.float32)
    arguments = {
        'trans': trans,
        'output_size': 3,
        'spatial_scale': SCALE,
        'output_dim': 2,
        'group_size': 3,
        'part_size': 3,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        deform_ps_roi_pool(features, rois, **arguments)
