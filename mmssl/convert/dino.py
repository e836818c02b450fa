"""Checkpoints of facebookresearch/dino: whole checkpoints, the student or the teacher, and backbones.

A whole checkpoint has three state dicts, ``student``, ``teacher`` and ``dino_loss``. The names of the student
begin with ``module.``, and so do the teacher's if there are batch norms. The last layer of the head is
``weight_g`` and ``weight_v``, or ``parametrizations.weight`` in newer releases of torch.
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
    """Rows of the projection head, with M hidden channels, D in the bottleneck and K outputs."""
    layers = (0, 3, 6) if with_bn else (0, 2, 4)
    shapes = ((f'M {width}', 'M'), ('M M', 'M'), ('D M', 'D'))
    rows = []
    for layer, (weight, bias) in zip(layers, shapes, strict=True):
        rows += weights_and_biases(f'head.mlp.{layer}', f'head.mlp.{layer}', weight, bias)
    if with_bn:
        for layer in (1, 4):
            rows += batch_norm_rows(f'head.mlp.{layer}', f'head.mlp.{layer}', 'M')
    return [
        *rows,
        Row('head.last_layer.weight_g', f'head.{LAST}0', 'K 1'),
        Row('head.last_layer.weight_v', f'head.{LAST}1', 'K D'),
    ]


def _network(backbone: list[Row], head: list[Row], part: str = '') -> list[Row]:
    rows = [*(row._replace(official=f'backbone.{row.official}') for row in backbone), *head]
    if part == 'teacher.':
        targets = {'backbone.': 'teacher.module.0.', 'head.': 'teacher.module.1.'}
        rows = [
            row._replace(ours=re.sub(r'^(backbone|head)\.', lambda match: targets[match[0]], row.ours))
            for row in rows
        ]
    return [row._replace(official=part + row.official) for row in rows]


def _layouts() -> dict[str, list[Row]]:
    whole, single, backbones = {}, {}, {}
    for name, (backbone, width) in BACKBONES.items():
        for text, with_bn in (('', False), (', batch norm in the head', True)):
            head = head_rows(width, with_bn)
            both = [*_network(backbone, head, 'student.'), *_network(backbone, head, 'teacher.')]
            whole[f'whole checkpoint, {name}{text}'] = [
                *both,
                Row('dino_loss.center', 'dino_loss.center', '1 K'),
            ]
            whole[f'student and teacher, {name}{text}'] = both
            single[f'one network, {name}{text}'] = _network(backbone, head)
        backbones[f'backbone, {name}'] = backbone
    return {**backbones, **single, **whole}


def adapt(state_dict: Mapping, to_official: bool) -> dict:
    """Remove or add ``module.``, and use the older spelling of the weight norm. See ``Family.adapt``."""
    if not to_official:
        return {_without_module(key): value for key, value in state_dict.items()}
    teacher_has_bn = any(key.startswith('teacher.') and key.endswith('running_mean') for key in state_dict)
    distributed = ('student.', 'teacher.') if teacher_has_bn else ('student.',)
    return {
        re.sub(r'^(student|teacher)\.', r'\1.module.', key) if key.startswith(distributed) else key: value
        for key, value in state_dict.items()
    }


def _without_module(key: str) -> str:
    key = re.sub(r'^((?:student\.|teacher\.)?)module\.', r'\1', key)
    return key.replace(f'{LAST}0', 'last_layer.weight_g').replace(f'{LAST}1', 'last_layer.weight_v')


FAMILY = Family(name='dino', parts=('student', 'teacher', 'dino_loss'), adapt=adapt, layouts=_layouts())
