"""Deformable convolution against loops over the formula, torchvision and mmcv."""

import math
import sys

import pytest
import torch

from mmssl.ops import deform_conv2d
from mmssl.ops.dispatch import mmcv_supports, pick, torchvision_supports


def bilinear(plane, y, x):
    height, width = plane.shape[-2:]
    total = plane[..., 0, 0] * 0
    y0, x0 = (math.floor(float(torch.as_tensor(position).detach())) for position in (y, x))
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[..., row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def loops(input, offset, weight, bias, stride, padding, dilation, mask):
    batch, channels, _, _ = input.shape
    out_channels, in_group, kernel_h, kernel_w = weight.shape
    groups, taps = channels // in_group, kernel_h * kernel_w
    moves = offset.shape[1] // (2 * taps)
    height, width = offset.shape[2:]
    out = input.new_zeros(batch, out_channels, height, width)
    for b in range(batch):
        for h in range(height):
            for w in range(width):
                for k in range(taps):
                    sample = []
                    for c in range(channels):
                        move = (c // (channels // moves)) * taps + k
                        y = h * stride - padding + k // kernel_w * dilation + offset[b, 2 * move, h, w]
                        x = w * stride - padding + k % kernel_w * dilation + offset[b, 2 * move + 1, h, w]
                        sample.append(
                            bilinear(input[b, c], y, x) * (1 if mask is None else mask[b, move, h, w])
                        )
                    sample = torch.stack(sample).view(groups, 1, in_group)
                    kernel = weight[:, :, k // kernel_w, k % kernel_w].view(groups, -1, in_group)
                    out[b, :, h, w] += (kernel * sample).sum(2).flatten()
    return out if bias is None else out + bias.view(1, -1, 1, 1)


CASES = {
    'v1': (1, 1, 1, 1, 1, False),
    'v2': (1, 1, 1, 1, 1, True),
    'strided': (2, 1, 2, 1, 1, True),
    'grouped': (4, 2, 1, 2, 2, True),
    'wide': (1, 2, 1, 2, 2, False),
}


def example(case, dtype=torch.float64, size=(5, 6), batch=2, spread=2.0):
    moves, groups, stride, padding, dilation, masked = CASES[case]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    out = [(length + 2 * padding - 2 * dilation - 1) // stride + 1 for length in size]
    tensors = [
        draw(batch, 4, *size),
        draw(batch, moves * 18, *out) * spread,
        draw(6, 4 // groups, 3, 3),
        draw(6),
    ]
    mask = draw(batch, moves * 9, *out).sigmoid() if masked else None
    return tensors, mask, (stride, padding, dilation)


def run(tensors, mask, geometry, **keywords):
    return deform_conv2d(*tensors, *geometry, mask, **keywords)


def with_gradients(function, tensors, mask):
    inputs = [
        tensor.detach().clone().requires_grad_() for tensor in (*tensors, *([] if mask is None else [mask]))
    ]
    out = function(inputs[:4], None if mask is None else inputs[4])
    grad_output = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        out.dtype
    )
    return [out, *torch.autograd.grad(out, inputs, grad_output)]


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    tensors, mask, geometry = example(case, size=(4, 5), batch=1)
    expected = with_gradients(lambda arguments, mask: loops(*arguments, *geometry, mask), tensors, mask)
    for mine, theirs in zip(
        with_gradients(lambda arguments, mask: run(arguments, mask, geometry), tensors, mask),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
    single = [tensor.float() for tensor in tensors], None if mask is None else mask.float()
    torch.testing.assert_close(run(*single, geometry).double(), expected[0].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('backend', ['torchvision', 'mmcv'])
@pytest.mark.parametrize('case', CASES)
def test_backends_agree(case, backend):
    if not (torchvision_supports if backend == 'torchvision' else mmcv_supports)('cpu'):
        pytest.skip(f'{backend} has no compiled operators here')
    tensors, mask, geometry = example(case, size=(11, 12))
    both = [
        with_gradients(
            lambda arguments, mask, name=name: run(arguments, mask, geometry, backend=name), tensors, mask
        )
        for name in ('torch', backend)
    ]
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def test_without_offsets_it_is_a_convolution():
    (input, offset, weight, bias), _, geometry = example('v1', torch.float32)
    out = deform_conv2d(input, torch.zeros_like(offset), weight, bias, *geometry)
    torch.testing.assert_close(
        out, torch.nn.functional.conv2d(input, weight, bias, *geometry), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize('case', ['v1', 'grouped'])
def test_gradcheck(case):
    tensors, mask, geometry = example(case, size=(3, 4), batch=1)
    inputs = [tensor.requires_grad_() for tensor in (*tensors, *([] if mask is None else [mask]))]
    assert torch.autograd.gradcheck(
        lambda *arguments: deform_conv2d(*arguments[:4], *geometry, *arguments[4:]), inputs, fast_mode=True
    )


def test_odd_inputs():
    tensors, mask, geometry = example('v2', torch.float32)
    plain = run(tensors, mask, geometry)
    layout = [
        tensors[0].to(memory_format=torch.channels_last),
        *(torch.stack((tensor, tensor), -1)[..., 0] for tensor in tensors[1:]),
    ]
    torch.testing.assert_close(run(layout, mask, geometry), plain)
    assert run([tensors[0][:0], tensors[1][:0], *tensors[2:]], mask[:0], geometry).shape == (
        0,
        *plain.shape[1:],
    )
    for size in ((1, 7), (7, 1), (1, 1)):
        tensors, mask, geometry = example('v2', torch.float32, size)
        for result in with_gradients(
            lambda arguments, mask, geometry=geometry: run(arguments, mask, geometry), tensors, mask
        ):
            assert result.isfinite().all()
    far = [tensors[0], tensors[1] * 1e20, *tensors[2:]]
    torch.testing.assert_close(run(far, mask, geometry), tensors[3].view(1, -1, 1, 1).expand(2, 6, 1, 1))
    lost = tensors[1].clone()
    lost[0] = float('nan')
    out = run([tensors[0], lost, *tensors[2:]], mask, geometry)
    assert out[0].isnan().all() and out[1].isfinite().all()


def test_bfloat16_under_autocast():
    tensors, mask, geometry = example('grouped', torch.float32)
    exact = run([tensors[0].bfloat16().float(), *tensors[1:]], mask, geometry)
    with torch.autocast('cpu', torch.bfloat16):
        out = run([tensors[0].bfloat16(), *tensors[1:]], mask, geometry)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=2e-2)


@pytest.mark.compile
@pytest.mark.parametrize(
    ('backend', 'dynamic', 'sizes'), [('auto', True, ((5, 6), (7, 4))), ('torch', False, ((5, 6),))]
)
def test_compiles_whole(backend, dynamic, sizes):
    if backend == 'auto' and not torchvision_supports('cpu'):
        pytest.skip('without torchvision ours is traced, for minutes where every size is unknown')

    def function(input, offset, weight, bias, mask):
        return deform_conv2d(input, offset, weight, bias, 1, 1, 1, mask, backend=backend)

    compiled = torch.compile(function, backend='aot_eager', fullgraph=True, dynamic=dynamic)
    for size in sizes:
        tensors, mask, _ = example('v2', torch.float32, size)
        both = [
            with_gradients(lambda arguments, mask, call=call: call(*arguments, mask), tensors, mask)
            for call in (compiled, function)
        ]
        for mine, theirs in zip(*both, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('position', 'value', 'message'),
    [
        (0, torch.zeros(2, 5, 5, 6), '5 input channels'),
        (1, torch.zeros(2, 17, 5, 6), r'\(2, 18 \* groups, 5, 6\)'),
        (1, torch.zeros(2, 18, 4, 6), 'offset of deform_conv2d'),
        (1, torch.zeros(2, 54, 5, 6), '3 groups of offset'),
        (3, torch.zeros(5), r'bias .* \(6,\)'),
        (4, torch.zeros(2, 8, 5, 6), r'mask .* \(2, 9, 5, 6\)'),
    ],
)
def test_wrong_shapes_are_named(position, value, message):
    tensors, mask, geometry = example('v2', torch.float32)
    arguments = [*tensors, mask]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        deform_conv2d(*arguments[:4], *geometry, arguments[4])


def test_a_backend_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules[pick.__module__], 'mmcv_supports', lambda device: False)
    with pytest.raises(RuntimeError, match="backend='mmcv' of deform_conv2d needs mmcv"):
        pick('deform_conv2d', 'mmcv', torch.zeros(1), ('mmcv',))
    assert pick('deform_conv2d', 'auto', torch.zeros(1), ('mmcv',), 'mmcv') == 'torch'
