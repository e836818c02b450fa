"""Residual networks of torchvision (arXiv:1512.03385), whose names timm and mmpretrain use too."""

from mmssl.convert.keymap import Family, Row, weights_and_biases

# depth -> blocks of the four stages, and whether they are bottlenecks
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def batch_norm_rows(official: str, ours: str, width: str, affine: bool = True) -> list[Row]:
    """Rows of a batch norm, with or without scale and shift."""
    statistics = [
        Row(f'{official}.{name}', f'{ours}.{name}', shape)
        for name, shape in (('running_mean', width), ('running_var', width), ('num_batches_tracked', ''))
    ]
    return [*(weights_and_biases(official, ours, width, width) if affine else []), *statistics]


def resnet_rows(official: str, ours: str, depth: int = 50, width: str = 'W') -> list[Row]:
    """Rows of a ResNet without its classifier.

    Args:
        official: Prefix of its names in the release, such as 'module.encoder_q.' or ''.
        ours: Prefix of its names in mmssl, such as 'backbone.'.
        depth: 18, 34, 50, 101 or 152.
        width: Letter for the channels of the stem.
    """

    def layer(name: str, bn: str, outputs: str, inputs: str, kernel: int) -> list[Row]:
        weight = Row(
            f'{official}{name}.weight', f'{ours}{name}.weight', f'{outputs} {inputs} {kernel} {kernel}'
        )
        return [weight, *batch_norm_rows(official + bn, ours + bn, outputs)]

    blocks, bottleneck = DEPTHS[depth]
    rows = layer('conv1', 'bn1', width, '3', 7)
    inputs = 1
    for stage, count in enumerate(blocks):
        inner = 2**stage
        outputs = 4 * inner if bottleneck else inner
        for block in range(count):
            stem = f'layer{stage + 1}.{block}.'
            if bottleneck:
                sizes = [(inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1)]
            else:
                sizes = [(inner, inputs, 3), (inner, inner, 3)]
            for index, (out, into, kernel) in enumerate(sizes, start=1):
                rows += layer(
                    f'{stem}conv{index}', f'{stem}bn{index}', f'{out}{width}', f'{into}{width}', kernel
                )
            if block == 0 and inputs != outputs:
                rows += layer(
                    f'{stem}downsample.0', f'{stem}downsample.1', f'{outputs}{width}', f'{inputs}{width}', 1
                )
            inputs = outputs
    return rows


FAMILY = Family(
    name='torchvision-resnet',
    layouts={
        **{f'ResNet-{depth}': resnet_rows('', 'backbone.', depth) for depth in DEPTHS},
        **{
            f'ResNet-{depth} with its classifier': [
                *resnet_rows('', 'backbone.', depth),
                *weights_and_biases('fc', 'head.fc', f'K {32 if bottleneck else 8}W', 'K'),
            ]
            for depth, (_, bottleneck) in DEPTHS.items()
        },
    },
)
