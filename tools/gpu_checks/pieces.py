"""Encoder and operators by themselves, in the forms between which the switch chooses."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from gpu_checks.check import Check
from gpu_checks.measuring import flops_of, matrix_rate, peak_memory, seconds_of
from mmssl.ops import switch


def measure_sam_encoder(check: Check) -> None:
    """Measure the image encoder of SAM-B in float32, bfloat16, and bfloat16 compiled."""
    from mmssl.promptable import build_sam

    size, settings = 1024, 'vit_b'
    if check.quick:
        size = 64
        settings = {'image_encoder': dict(img_size=64, embed_dim=32, depth=2, num_heads=2, window_size=3)}
        settings['image_encoder']['global_attn_indexes'] = (1,)
    encoder = build_sam(settings).image_encoder.to(check.device)
    image = torch.randn(1, 3, size, size, device=check.device)
    rate = matrix_rate(check.device)
    precisions = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
    if not check.quick:
        precisions['bfloat16, compiled'] = torch.bfloat16
    for name, dtype in precisions.items():
        module, data = encoder.to(dtype), image.to(dtype)
        flops = flops_of(partial(encode, module, data))
        call = partial(encode, torch.compile(module) if 'compiled' in name else module, data)
        seconds = seconds_of(call, check)
        values = {'ms': 1e3 * seconds, 'tflop': flops / 1e12}
        if rate and dtype == torch.bfloat16:
            values['share_of_matrix_rate'] = flops / seconds / rate
        check.add(f'SAM-B encoder, {name}', **values, peak_gib=peak_memory(call, check.device))


@torch.no_grad()
def encode(encoder: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return the embedding of an image."""
    return encoder(image)


def compare_forms(
    check: Check, name: str, forms: dict[str, Callable[[], Tensor]], leaves: Sequence[Tensor]
) -> None:
    """Time the forward pass, and forward with backward pass, of several forms.

    Args:
        check: The part.
        name: What is computed.
        forms: Name of the form -> call that computes it from the leaves.
        leaves: Tensors that get gradients.
    """
    for form, call in forms.items():

        def both(call=call) -> None:
            out = call()
            torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

        def forward(call=call) -> None:
            with torch.no_grad():
                call()

        try:
            values = {'forward_ms': 1e3 * seconds_of(forward, check)}
            values['forward_and_backward_ms'] = 1e3 * seconds_of(both, check)
            values['peak_gib'] = peak_memory(both, check.device)
        except torch.OutOfMemoryError:
            check.add(f'{name}, {form}', note='out of memory')
            continue
        check.add(f'{name}, {form}', **values)


def plainly(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Wrap a call so that all fast forms are off."""

    def run() -> Tensor:
        with switch.plain_forms():
            return call()

    return run


def rois_of(count: int, device: torch.device) -> Tensor:
    """Draw RoIs of a 600 x 1000 image whose sides are log-uniform from 25 to 500 pixels."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(count, 2, generator=generator) * torch.tensor([1000, 600])
    size = torch.exp(torch.rand(count, 2, generator=generator) * 3 + 3.2)
    boxes = torch.cat((center - size / 2, center + size / 2), 1)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([999.0, 599, 999, 599]))
    return torch.cat((torch.zeros(count, 1), boxes), 1).to(device)


def measure_pooling(check: Check) -> None:
    """Measure position-sensitive pooling with vote against torchvision's, 81 classes."""
    import torchvision

    from mmssl.ops import ps_roi_pool

    classes, counts = (3, (20,)) if check.quick else (81, (300, 1000))
    maps = torch.randn(1, classes * 49, 38, 63, device=check.device, requires_grad=True)
    for count in counts:
        rois = rois_of(count, check.device)
        forms = {'mmssl': lambda r=rois: ps_roi_pool(maps, r, 7, 1 / 16, classes, vote=True)}
        forms['plain'] = plainly(forms['mmssl'])
        forms['torchvision'] = lambda r=rois: torchvision.ops.ps_roi_pool(maps, r, 7, 1 / 16).mean((2, 3))
        compare_forms(check, f'PS-RoI pooling with vote, {classes} classes, {count} RoIs', forms, [maps])


def measure_deformable_pooling(check: Check) -> None:
    """Measure deformable pooling with an offset for each class."""
    from mmssl.ops import deform_ps_roi_pool

    classes, count = (3, 20) if check.quick else (81, 300)
    maps = torch.randn(1, classes * 49, 38, 63, device=check.device, requires_grad=True)
    rois = rois_of(count, check.device)
    offsets = torch.randn(count, 2 * classes, 7, 7, device=check.device, requires_grad=True)

    def pool() -> Tensor:
        return deform_ps_roi_pool(maps, rois, offsets, 7, 1 / 16, classes, 7, vote=True)

    forms = {'mmssl': pool, 'plain': plainly(pool)}
    compare_forms(check, f'deformable pooling, {classes} classes, {count} RoIs', forms, [maps, offsets])


def measure_global_attention(check: Check) -> None:
    """Measure the two forms of global attention of SAM-B: widened queries and keys, and FlexAttention."""
    from mmssl.ops.rel_attention import rel_attention

    grid = (22, 20) if check.quick else (64, 64)
    heads, dtype = (2, torch.float32) if check.quick else (12, torch.bfloat16)
    shapes = [(1, heads, grid[0] * grid[1], 64)] * 3 + [(2 * size - 1, 64) for size in grid]
    inputs = [torch.randn(shape, device=check.device, dtype=dtype) * 0.3 for shape in shapes]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def attend(flex: bool) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with flex_attention(flex):
                return rel_attention(*inputs, grid)

        return call

    forms = {'widened': attend(False)}
    if check.cuda:
        forms['FlexAttention'] = attend(True)
    compare_forms(check, f'global attention of SAM-B, {grid[0]} x {grid[1]}, {heads} heads', forms, inputs)


@contextlib.contextmanager
def flex_attention(enabled: bool) -> Iterator[None]:
    """Choose FlexAttention as MMSSL_FLEX_ATTENTION does."""
    before, switch._flex_attention = switch._flex_attention, enabled
    try:
        yield
    finally:
        switch._flex_attention = before


MEASUREMENTS = {
    'SAM-B encoder': measure_sam_encoder,
    'PS-RoI pooling with vote': measure_pooling,
    'global attention of SAM-B': measure_global_attention,
    'deformable pooling': measure_deformable_pooling,
}
