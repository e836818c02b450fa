"""Files of facebookresearch/dino: whole checkpoints, with student, teacher and centre; one of the two networks; a backbone alone.

A whole checkpoint keeps ``student``, ``teacher`` and ``dino_loss`` as three state dicts; the student's names
begin with ``module.``, and so do the teacher's where there are batch norms. The last layer of the head is
``weight_g`` and ``weight_v``, or what newer torch makes of these.
"""

import re
from collections.abc import Mapping

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import batch_norm_rows, resnet_rows
from mmssl.convert.timm_vit import ENCODER, NORM

LAST = 'last_layer.parametrizations.weight.original'
BACKBONES = {
    'ViT': ([*ENCODER, *NORM], 'C'),
    **{
        f'ResNet-{depth}': (resnet_rows('', 'backbone.', depth), width)
        for depth, width in ((50, '32W'), (18, '8W'))
    },
}


def head_rows(width: str, with_bn: bool) -> list[Row]:
    """Rows of the projection head: M hidden values, D of the bottleneck, K outputs."""
    places = (0, 3, 6) if with_bn else (0, 2, 4)
    sizes = ((f'M {width}', 'M'), ('M M', 'M'), ('D M', 'D'))
    rows = [
        row
        for place, size in zip(places, sizes, strict=True)
        for row in weights_and_biases(f'head.mlp.{place}', f'head.mlp.{place}', *size)
    ]
    if with_bn:
        rows += [
            row for place in (1, 4) for row in batch_norm_rows(f'head.mlp.{place}', f'head.mlp.{place}', 'M')
        ]
    return [
        *rows,
        Row('head.last_layer.weight_g', f'head.{LAST}0', 'K 1'),
        Row('head.last_layer.weight_v', f'head.{LAST}1', 'K D'),
    ]


def _network(backbone: list[Row], head: list[Row], part: str = '') -> list[Row]:
    rows = [*(row._replace(official=f'backbone.{row.official}') for row in backbone), *head]
    if part == 'teacher.':
        places = {'backbone.': 'teacher.module.0.', 'head.': 'teacher.module.1.'}
        rows = [
            row._replace(ours=re.sub(r'^(backbone|head)\.', lambda found: places[found[0]], row.ours))
            for row in rows
        ]
    return [row._replace(official=part + row.official) for row in rows]


def _layouts() -> dict[str, list[Row]]:
    whole, one, alone = {}, {}, {}
    for name, (backbone, width) in BACKBONES.items():
        for text, with_bn in (('', False), (', batch norm in the head', True)):
            head = head_rows(width, with_bn)
            both = [*_network(backbone, head, 'student.'), *_network(backbone, head, 'teacher.')]
            whole[f'whole checkpoint, {name}{text}'] = [
                *both,
                Row('dino_loss.center', 'dino_loss.center', '1 K'),
            ]
            whole[f'student and teacher, {name}{text}'] = both
            one[f'one network, {name}{text}'] = _network(backbone, head)
        alone[f'backbone, {name}'] = backbone
    return {**alone, **one, **whole}


def adapt(state_dict: Mapping, to_official: bool) -> dict:
    """The words ``module.`` on and off, and one spelling of the weight norm. See ``Family.adapt``."""
    if not to_official:
        spelled = (
            (re.sub(r'^((?:student\.|teacher\.)?)module\.', r'\1', key), value)
            for key, value in state_dict.items()
        )
        return {
            key.replace(f'{LAST}0', 'last_layer.weight_g').replace(f'{LAST}1', 'last_layer.weight_v'): value
            for key, value in spelled
        }
    parts = ['student.'] + ['teacher.'] * any(
        key.startswith('teacher.') and key.endswith('running_mean') for key in state_dict
    )
    return {
        next((f'{part}module.{key[len(part) :]}' for part in parts if key.startswith(part)), key): value
        for key, value in state_dict.items()
    }


FAMILY = Family(name='dino', parts=('student', 'teacher', 'dino_loss'), adapt=adapt, layouts=_layouts())
