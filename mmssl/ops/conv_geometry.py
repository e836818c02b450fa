"""Arguments that describe the geometry of a convolution, and their check for deformable convolution."""

from typing import NamedTuple

from torch import Tensor

Pair = int | tuple[int, int]


class Geometry(NamedTuple):
    """Stride, padding and dilation of a convolution, (y, x) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output_size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the output for a map and a kernel of the given sizes."""
        height, width = (
            (size[axis] + 2 * self.padding[axis] - self.dilation[axis] * (kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width


def pair(name: str, value: Pair) -> tuple[int, int]:
    """Return the (y, x) of an argument that is given as one number or two."""
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f'{name}={value!r} must be a number, or two numbers for (y, x)')
    return int(value[0]), int(value[1])


def check_shapes(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> None:
    """Raise ValueError if the shapes of the arguments of :func:`deform_conv2d` do not fit together."""
    if input.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            'deform_conv2d needs input (B, C, H, W) and weight (O, C / groups, kh, kw), '
            f'got {tuple(input.shape)} and {tuple(weight.shape)}'
        )
    batch, channels, height, width = input.shape
    out_channels, in_group, kernel_h, kernel_w = (int(size) for size in weight.shape)
    if channels % in_group or out_channels % (channels // in_group):
        raise ValueError(
            f'weight {tuple(weight.shape)} of deform_conv2d does not fit {channels} input channels: the '
            'channels of input and output must both be divisible by the number of groups'
        )
    size = geometry.output_size((height, width), (kernel_h, kernel_w))
    if min(size) < 1:
        raise ValueError(
            f'deform_conv2d of a {height}x{width} map with kernel {(kernel_h, kernel_w)}, stride '
            f'{geometry.stride}, padding {geometry.padding} and dilation {geometry.dilation} has no output'
        )
    num_taps = kernel_h * kernel_w
    groups = int(offset.shape[1]) // (2 * num_taps) if offset.dim() == 4 else 0
    if groups < 1 or tuple(offset.shape) != (batch, 2 * groups * num_taps, *size):
        raise ValueError(
            f'offset of deform_conv2d must be ({batch}, {2 * num_taps} * groups, {size[0]}, {size[1]}), '
            f'got {tuple(offset.shape)}'
        )
    if channels % groups:
        raise ValueError(
            f'{channels} input channels of deform_conv2d are not divisible by the {groups} groups of offset '
            f'{tuple(offset.shape)}'
        )
    if mask is not None and tuple(mask.shape) != (batch, groups * num_taps, *size):
        raise ValueError(
            f'mask of deform_conv2d must be ({batch}, {groups * num_taps}, {size[0]}, {size[1]}), '
            f'got {tuple(mask.shape)}'
        )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f'bias of deform_conv2d must be ({out_channels},), got {tuple(bias.shape)}')
