"""Pre-training checkpoints of facebookresearch/moco (``moco/builder.py``), v1 and v2.

Its linear probes and its files for detection have torchvision's names, which are also those of mmpretrain's
ResNet.
"""

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import DEPTHS, resnet_rows


def head_rows(official: str, ours: str, depth: int, version: int) -> list[Row]:
    """Rows of the head, with W channels of the stem, M hidden and D output channels."""
    width = f'{32 if DEPTHS[depth][1] else 8}W'
    if version == 1:
        return weights_and_biases(f'{official}fc', f'{ours}fc', f'D {width}', 'D')
    return [
        *weights_and_biases(f'{official}fc.0', f'{ours}mlp.0', f'M {width}', 'M'),
        *weights_and_biases(f'{official}fc.2', f'{ours}mlp.2', 'D M', 'D'),
    ]


def rows(depth: int, version: int) -> list[Row]:
    """Rows of a whole file, with a queue of length L."""
    return [
        Row('queue', 'queue.queue', 'D L'),
        Row('queue_ptr', 'queue.queue_ptr', '1'),
        *resnet_rows('encoder_q.', 'backbone.', depth),
        *head_rows('encoder_q.', 'neck.', depth, version),
        *resnet_rows('encoder_k.', 'encoder_k.module.0.', depth),
        *head_rows('encoder_k.', 'encoder_k.module.1.', depth, version),
    ]


FAMILY = Family(
    name='moco',
    wrapper='state_dict',
    file_prefix='module.',
    layouts={
        f'v{version}, ResNet-{depth}': rows(depth, version)
        for depth in (50, 18, 34, 101)
        for version in (2, 1)
    },
)
