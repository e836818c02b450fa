"""Calls of all operators, for the comparison of a GPU with the CPU: :mod:`mmssl.commands.gpu_operators`."""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mmssl.ops import switch

SCALE = 1 / 16


@dataclasses.dataclass
class Problem:
    """A call of an operator.

    Args:
        call: Function of the inputs, the fixed tensors and the modules to a tensor or a tuple of tensors.
        inputs: Float64 tensors on the CPU, for which gradients are compared.
        fixed: Further tensors; floating point ones, such as RoIs, stay in float32 at least.
        modules: Modules in float64; gradients of their parameters are compared.
        forward_only: Run without gradients.
        tolerance: Largest relative error in bfloat16.
    """

    call: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    fixed: tuple[Any, ...] = ()
    modules: tuple[nn.Module, ...] = ()
    forward_only: bool = False
    tolerance: float = 3e-2


def randn(*shape: int) -> Tensor:
    """Draw float64 values on the CPU."""
    return torch.randn(*shape, dtype=torch.float64)


def random_rois(count: int, height: int, width: int, batch: int = 2) -> Tensor:
    """Draw RoIs (N, 5) of a map (height, width) at ``SCALE``, one of them outside of it."""
    corner = torch.rand(count, 2) * torch.tensor([width, height]) * 12
    boxes = torch.cat((corner, corner + torch.rand(count, 2) * 150 + 20), 1)
    boxes[-1] = torch.tensor([5000.0, 5000, 5100, 5100])
    return torch.cat(((torch.arange(count) % batch)[:, None], boxes), 1)


def _pooling(name: str, **settings) -> Problem:
    from mmssl import ops

    operator = getattr(ops, name)
    features = randn(2, 5 * 16, 18, 22)
    return Problem(
        lambda maps, rois: operator(maps, rois, 4, SCALE, 5, **settings),
        (features,),
        (random_rois(24, 18, 22),),
    )


def _deformable_pooling(classes: int, vote: bool) -> Problem:
    from mmssl.ops import deform_ps_roi_pool

    inputs = (randn(2, 6 * 16, 18, 22), *((randn(24, 2 * classes, 4, 4),) if classes else ()))

    def call(maps, *rest):
        *offsets, rois = rest
        return deform_ps_roi_pool(maps, rois, offsets[0] if offsets else None, 4, SCALE, 6, 4, vote=vote)

    return Problem(call, inputs, (random_rois(24, 18, 22),))


def _deformable_convolution(backend: str) -> Problem:
    from mmssl.ops import deform_conv2d

    inputs = (randn(2, 16, 15, 20), randn(2, 36, 15, 20), randn(8, 8, 3, 3), randn(2, 18, 15, 20))
    return Problem(
        lambda maps, offset, weight, mask: deform_conv2d(
            maps, offset, weight, None, 1, 1, 1, mask, backend=backend
        ),
        inputs,
    )


def _dcnv3() -> Problem:
    from mmssl.ops import dcnv3

    inputs = (randn(2, 12, 13, 16), randn(2, 12, 13, 72), randn(2, 12, 13, 36).softmax(-1))
    return Problem(lambda maps, offset, mask: dcnv3(maps, offset, mask, groups=4), inputs)


def _attention(bias: bool) -> Problem:
    from mmssl.ops.attention import attention, biased_attention

    tokens = (randn(2, 3, 197, 32), randn(2, 3, 197, 32), randn(2, 3, 197, 32))
    if bias:
        return Problem(biased_attention, (*tokens, randn(3, 197, 197)))
    return Problem(attention, tokens)


def _relative_attention(grid: tuple[int, int], flex: bool = False) -> Problem:
    from mmssl.ops.rel_attention import rel_attention

    length = grid[0] * grid[1]
    inputs = (*(randn(1, 2, length, 32) for _ in range(3)), *(0.2 * randn(2 * size - 1, 32) for size in grid))

    def call(*tensors):
        with mock.patch.object(switch, '_flex_attention', flex):
            return rel_attention(*tensors, grid)

    return Problem(call, inputs)


def _window_attention() -> Problem:
    from mmssl.ops.rel_attention import window_attention

    inputs = (randn(2, 15, 17, 96), 0.2 * randn(13, 16), 0.2 * randn(13, 16))
    return Problem(lambda qkv, rel_h, rel_w: window_attention(qkv, 2, 7, rel_h, rel_w), inputs)


def _weighted_sum() -> Problem:
    from mmssl.ops.weighted_sum import weighted_sum

    index = torch.randint(0, 40, (60, 4))
    return Problem(
        lambda table, weight, rows: weighted_sum(table, rows, weight.to(table.dtype)),
        (randn(40, 24), randn(60, 4)),
        (index,),
    )


def _global_convolution() -> Problem:
    from mmssl.segmentation import GlobalConvBlock

    block = GlobalConvBlock(64, 5, 7, fused=True).double()
    return Problem(lambda x, module: module(x), (randn(2, 64, 12, 14),), modules=(block,))


def _dino_loss() -> Problem:
    from mmssl.losses.dino import cross_entropy_of_pairs

    inputs = randn(8 * 4, 50).log_softmax(-1), randn(2 * 4, 50).softmax(-1)
    return Problem(lambda log_probs, targets: cross_entropy_of_pairs(log_probs, targets, 8), inputs)


def _sinkhorn() -> Problem:
    from mmssl.losses.sinkhorn import sinkhorn

    return Problem(
        lambda scores: sinkhorn(scores.float() if scores.dtype.itemsize < 4 else scores),
        (0.3 * randn(40, 30),),
        forward_only=True,
    )


def _decoder_inputs(masks: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    from mmssl.promptable import SAMMaskDecoder

    decoder = SAMMaskDecoder(
        transformer_dim=32, transformer=dict(depth=2, num_heads=4, mlp_dim=48), iou_head_hidden_dim=24
    )
    dense = randn(5 if masks else 1, 32, 9, 10)
    return decoder.double().eval(), (randn(1, 32, 9, 10), randn(1, 32, 9, 10), randn(5, 3, 32), dense)


def _mask_decoder(masks: bool) -> Problem:
    decoder, inputs = _decoder_inputs(masks)
    # two layers of attention, and gradients through them
    return Problem(
        lambda *tensors: tensors[-1].predict_masks(*tensors[:-1]), inputs, modules=(decoder,), tolerance=0.15
    )


def _confident_masks() -> Problem:
    from mmssl.promptable.confident_masks import confident_masks

    decoder, inputs = _decoder_inputs(False)
    return Problem(
        lambda *tensors: confident_masks(tensors[-1], *tensors[:-1], None),
        inputs,
        modules=(decoder,),
        forward_only=True,
        tolerance=0.15,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    'ps_roi_pool': lambda: _pooling('ps_roi_pool'),
    'ps_roi_pool, vote': lambda: _pooling('ps_roi_pool', vote=True),
    "ps_roi_pool, convention='torchvision'": lambda: _pooling('ps_roi_pool', convention='torchvision'),
    'ps_roi_align': lambda: _pooling('ps_roi_align'),
    'ps_roi_align, vote': lambda: _pooling('ps_roi_align', vote=True),
    'deform_ps_roi_pool, offsets of each class': lambda: _deformable_pooling(6, True),
    'deform_ps_roi_pool, shared offsets': lambda: _deformable_pooling(1, False),
    'deform_ps_roi_pool, without offsets': lambda: _deformable_pooling(0, False),
    'deform_conv2d': lambda: _deformable_convolution('auto'),
    "deform_conv2d, backend='torch'": lambda: _deformable_convolution('torch'),
    'dcnv3': _dcnv3,
    'weighted_sum': _weighted_sum,
    'attention': lambda: _attention(False),
    'biased_attention': lambda: _attention(True),
    'rel_attention, 14x14': lambda: _relative_attention((14, 14)),
    'rel_attention, 24x20': lambda: _relative_attention((24, 20)),
    'rel_attention, 24x20, FlexAttention': lambda: _relative_attention((24, 20), flex=True),
    'window_attention': _window_attention,
    'GlobalConvBlock': _global_convolution,
    'DINO loss': _dino_loss,
    'Sinkhorn': _sinkhorn,
    'SAMMaskDecoder': lambda: _mask_decoder(False),
    'SAMMaskDecoder, masks': lambda: _mask_decoder(True),
    'SAM, confident masks': _confident_masks,
}
# what is compiled for CUDA only, and what needs a toolbox
ON_CUDA = ('rel_attention, 24x20, FlexAttention',)
NEEDS = {'GlobalConvBlock': 'mmseg'}
