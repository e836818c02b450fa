"""Cases of tests/test_fast_is_plain.py for segmentation."""

import torch
from fast_case import Case

from mmssl.segmentation.global_conv import GlobalConvBlock


def block(kernel_size, size, bias=False, fused=True):
    """Arguments of the first convolutions of a block of 12 to 3 channels."""

    def make(dtype):
        module = GlobalConvBlock(12, 3, kernel_size, bias=bias, fused=fused).to(dtype)
        return module, torch.randn(2, 12, *size, dtype=dtype, requires_grad=True)

    return make


CASES = {
    'mmssl.ops.fast.global_conv:first_convolutions': [
        Case('kernel of 1', block(1, (6, 9))),
        Case('kernel of 7 with bias', block(7, (6, 9), bias=True)),
        Case('kernel larger than the map', block(15, (6, 9))),
        Case('a single pixel', block(3, (1, 1), bias=True)),
        Case('not worthwhile', block(3, (6, 9), fused=False), declined=True),
    ],
}
