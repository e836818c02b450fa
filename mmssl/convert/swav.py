"""Pre-training checkpoints of facebookresearch/swav (``src/resnet50.py``), and their ResNets without head.

The release keeps its queue in separate files for each process, which another number of processes cannot use.
Leave out the queue of mmssl in that direction (``--drop queue.``).
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import DEPTHS, batch_norm_rows, resnet_rows


def head_rows(depth: int) -> list[Row]:
    """Rows of projection head and prototypes.

    W channels of the stem, M hidden channels, D dimensions of a feature, K prototypes.
    """
    official, ours = 'projection_head', 'neck.projection_neck'
    return [
        *weights_and_biases(f'{official}.0', f'{ours}.0', f'M {32 if DEPTHS[depth][1] else 8}W', 'M'),
        *batch_norm_rows(f'{official}.1', f'{ours}.1', 'M'),
        *weights_and_biases(f'{official}.3', f'{ours}.3', 'D M', 'D'),
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
