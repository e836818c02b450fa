"""Pre-training files of facebookresearch/swav (``src/resnet50.py``), and its ResNets without projection head and prototypes.

The release keeps its queue in files of their own, one a process, which no other number of processes can use;
leave ours out on the way there (``--drop queue.``).
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import DEPTHS, batch_norm_rows, resnet_rows


def head_rows(depth: int) -> list[Row]:
    """Rows of projection head and prototypes: W channels of the stem, M hidden ones, D of a feature, K prototypes."""
    there, here = 'projection_head', 'neck.projection_neck'
    return [
        *weights_and_biases(f'{there}.0', f'{here}.0', f'M {32 if DEPTHS[depth][1] else 8}W', 'M'),
        *batch_norm_rows(f'{there}.1', f'{here}.1', 'M'),
        *weights_and_biases(f'{there}.3', f'{here}.3', 'D M', 'D'),
        Row('prototypes.weight', 'head.prototypes.weight', 'K D'),
    ]


FAMILY = Family(
    name='swav',
    file_prefix='module.',
    layouts={
        **{
            f'ResNet-{depth}': [*resnet_rows('', 'backbone.', depth), *head_rows(depth)]
            for depth in (50, 18, 34, 101)
        },
        **{f'ResNet-{depth}, backbone': resnet_rows('', 'backbone.', depth) for depth in (50, 18, 34, 101)},
    },
)
