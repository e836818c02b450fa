"""Pre-training checkpoints of MoBY (SwinTransformer/Transformer-SSL), with a Swin or DeiT encoder.

Its linear probes belong to the families 'swin' and 'timm-vit'. The released code has a single pointer for its
two queues; in mmssl each queue has its own.
"""

from collections.abc import Mapping

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.swin import adapt_swin, swin_rows
from mmssl.convert.timm_vit import ENCODER, NORM

SECOND_POINTER = 'queue_ptr of queue2'


def mlp_rows(official: str, ours: str, width: str) -> list[Row]:
    """Rows of a projector or predictor of two layers, with M hidden and D output channels."""
    return [
        *weights_and_biases(f'{official}.linear_hidden.1', f'{ours}.fc0', f'M {width}', 'M'),
        *weights_and_biases(f'{official}.linear_hidden.2', f'{ours}.bn0', 'M', 'M'),
        Row(f'{official}.linear_hidden.2.running_mean', f'{ours}.bn0.running_mean', 'M'),
        Row(f'{official}.linear_hidden.2.running_var', f'{ours}.bn0.running_var', 'M'),
        Row(f'{official}.linear_hidden.2.num_batches_tracked', f'{ours}.bn0.num_batches_tracked', ''),
        *weights_and_biases(f'{official}.linear_out', f'{ours}.fc1', 'D M', 'D'),
    ]


def vit_rows(official: str, ours: str) -> list[Row]:
    """Rows of a vision transformer whose names have these prefixes."""
    return [
        row._replace(official=official + row.official, ours=ours + row.ours.removeprefix('backbone.'))
        for row in (*ENCODER, *NORM)
    ]


def _method_rows(encoder: list[Row], target: list[Row], width: str) -> list[Row]:
    """Rows of a whole file, given those of the two encoders and the width of their features."""
    return [
        Row('queue1', 'queue1.queue', 'D L'),
        Row('queue2', 'queue2.queue', 'D L'),
        Row('queue_ptr', 'queue1.queue_ptr', '1'),
        Row(SECOND_POINTER, 'queue2.queue_ptr', '1'),
        *encoder,
        *target,
        *mlp_rows('projector', 'neck', width),
        *mlp_rows('projector_k', 'momentum_encoder.module.1', width),
        *mlp_rows('predictor', 'head', 'D'),
    ]


def adapt(state_dict: Mapping, to_official: bool) -> dict:
    """Adapt the Swin encoders, and duplicate or merge the pointer of the queues. See ``Family.adapt``."""
    adapted = adapt_swin(state_dict, to_official)
    if not to_official and 'queue_ptr' in adapted:
        adapted[SECOND_POINTER] = adapted['queue_ptr'].clone()
    elif to_official and int(adapted.pop(SECOND_POINTER)) != int(adapted['queue_ptr']):
        raise ValueError(
            'the two queues have different pointers, but a released file has a single one for both'
        )
    return adapted


FAMILY = Family(
    name='moby',
    wrapper='model',
    adapt=adapt,
    layouts={
        **{
            f'pre-training, Swin of {stages} stages': _method_rows(
                swin_rows('encoder.', 'backbone.', stages),
                swin_rows('encoder_k.', 'momentum_encoder.module.0.', stages),
                f'{2 ** (stages - 1)}C',
            )
            for stages in (4, 3, 2)
        },
        'pre-training, vision transformer': _method_rows(
            vit_rows('encoder.', 'backbone.'), vit_rows('encoder_k.', 'momentum_encoder.module.0.'), 'C'
        ),
    },
)
