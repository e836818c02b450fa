"""DCNv3's core against grid_sample at InternImage's normalised places."""

import pytest
import torch
import torch.nn.functional as F

from mmssl.ops import dcnv3


def by_grid_sample(
    input, offset, mask, kernel, stride, padding, dilation, groups, scale, remove_center=False
):
    batch = input.shape[0]
    _, out_h, out_w, _ = offset.shape
    padded = F.pad(input, (0, 0, padding, padding, padding, padding)).permute(0, 3, 1, 2)
    padded_height, padded_width = padded.shape[2:]
    reach = dilation * (kernel - 1) // 2
    taps = [(a, b) for a in range(kernel) for b in range(kernel)]  # x slowest
    if remove_center:
        taps.remove((kernel // 2, kernel // 2))
    moves = offset.view(batch, out_h, out_w, groups, len(taps), 2)
    masks = mask.view(batch, out_h, out_w, groups, len(taps))
    out = []
    for g, maps in enumerate(padded.chunk(groups, 1)):
        total = 0
        for k, (a, b) in enumerate(taps):
            x = (
                torch.arange(out_w) * stride
                + reach
                + 0.5
                + (a * dilation - reach + moves[..., g, k, 0]) * scale
            )
            y = (torch.arange(out_h) * stride + reach + 0.5)[:, None] + (
                b * dilation - reach + moves[..., g, k, 1]
            ) * scale
            grid = torch.stack((2 * x / padded_width - 1, 2 * y / padded_height - 1), -1)
            total = total + F.grid_sample(maps, grid, align_corners=False) * masks[..., g, k][:, None]
        out.append(total)
    return torch.cat(out, 1).permute(0, 2, 3, 1)


def example(
    dtype=torch.float64, kernel=3, stride=1, padding=1, dilation=1, groups=2, size=(5, 6), remove_center=False
):
    generator = torch.Generator().manual_seed(0)
    out = [(length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for length in size]
    taps = groups * (kernel * kernel - remove_center)
    shapes = (2, *size, 4), (2, *out, taps * 2), (2, *out, taps)
    return [(torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype) for shape in shapes]


@pytest.mark.parametrize(
    'settings',
    [{}, {'stride': 2}, {'kernel': 5, 'padding': 4, 'dilation': 2, 'groups': 4}, {'remove_center': True}],
)
@pytest.mark.parametrize('scale', [1.0, 0.7])
def test_equals_the_definition(settings, scale):
    inputs = [tensor.requires_grad_() for tensor in example(**settings)]
    both = {
        'kernel': 3,
        'stride': 1,
        'padding': 1,
        'dilation': 1,
        'groups': 2,
        'remove_center': False,
        **settings,
    }
    expected = by_grid_sample(*inputs, scale=scale, **both)
    arguments = {'kernel_size' if key == 'kernel' else key: value for key, value in both.items()}
    out = dcnv3(*inputs, offset_scale=scale, **arguments)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    grad_output = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(out, inputs, grad_output),
        torch.autograd.grad(expected, inputs, grad_output),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
    single = [tensor.detach().float() for tensor in inputs]
    torch.testing.assert_close(
        dcnv3(*single, offset_scale=scale, **arguments).double(), expected.detach(), atol=1e-5, rtol=1e-5
    )


def test_gradcheck():
    inputs = [tensor.requires_grad_() for tensor in example(size=(2, 3))]
    assert torch.autograd.gradcheck(lambda *arguments: dcnv3(*arguments, groups=2), inputs, fast_mode=True)


def test_odd_inputs_and_types():
    inputs = example(torch.float32)
    plain = dcnv3(*inputs, groups=2)
    torch.testing.assert_close(
        dcnv3(*(torch.stack((tensor, tensor), -1)[..., 0] for tensor in inputs), groups=2), plain
    )
    assert dcnv3(*(tensor[:0] for tensor in inputs), groups=2).shape == (0, *plain.shape[1:])
    assert dcnv3(*example(torch.float32, size=(1, 1)), groups=2).isfinite().all()
    with torch.autocast('cpu', torch.bfloat16):
        half = dcnv3(inputs[0].bfloat16(), *inputs[1:], groups=2)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), dcnv3(inputs[0].bfloat16().float(), *inputs[1:], groups=2), atol=2e-2, rtol=2e-2
    )


@pytest.mark.compile
def test_compiles_whole():
    compiled = torch.compile(
        lambda *arguments: dcnv3(*arguments, groups=2), backend='aot_eager', fullgraph=True, dynamic=False
    )
    for size in ((5, 6),):
        inputs = [tensor.requires_grad_() for tensor in example(torch.float32, size=size)]
        both = compiled(*inputs), dcnv3(*inputs, groups=2)
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
        for tensor in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in both), strict=True):
            torch.testing.assert_close(*tensor, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ('index', 'shape', 'keywords', 'message'),
    [
        (0, (2, 5, 6, 5), {}, 'groups=2'),
        (1, (2, 5, 6, 35), {}, r'offset of dcnv3 must be \(2, 5, 6, 36\)'),
        (2, (2, 5, 5, 18), {}, r'mask of dcnv3 must be \(2, 5, 6, 18\)'),
        (0, (2, 5, 6, 4), {'backend': 'mmcv'}, 'mmcv'),
        (0, (2, 5, 6, 4), {'kernel_size': 2, 'remove_center': True}, 'odd square kernel'),
    ],
)
def test_wrong_arguments_are_named(index, shape, keywords, message):
    inputs = example(torch.float32)
    inputs[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        dcnv3(*inputs, groups=2, **keywords)
