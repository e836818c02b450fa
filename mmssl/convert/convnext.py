"""ConvNeXt (arXiv:2201.03545) in timm's names, in those of DINOv3 and in Hugging Face's, for mmpretrain."""

from collections.abc import Mapping
from typing import NamedTuple

from mmssl.convert.joined import rename
from mmssl.convert.keymap import Family, Row, weights_and_biases

WIDTHS = 'ABCD'


class Names(NamedTuple):
    """Names of a spelling: ``{stage}`` and ``{{i}}`` stand for the stage and the block."""

    stem: str
    down: str
    block: str
    layers: tuple[str, str, str, str]
    norm: str


# of mmpretrain's ConvNeXt
OURS = Names(
    stem='backbone.downsample_layers.0',
    down='backbone.downsample_layers.{stage}',
    block='backbone.stages.{stage}.{{i}}',
    layers=('depthwise_conv', 'norm', 'pointwise_conv1', 'pointwise_conv2'),
    norm='backbone.norm3',
)
TIMM = Names(
    stem='stem',
    down='stages.{stage}.downsample',
    block='stages.{stage}.blocks.{{i}}',
    layers=('conv_dw', 'norm', 'mlp.fc1', 'mlp.fc2'),
    norm='head.norm',
)
META = Names(
    stem='downsample_layers.0',
    down='downsample_layers.{stage}',
    block='stages.{stage}.{{i}}',
    layers=('dwconv', 'norm', 'pwconv1', 'pwconv2'),
    norm='norm',
)
HUGGING_FACE = Names(
    stem='stages.0.downsample_layers',
    down='stages.{stage}.downsample_layers',
    block='stages.{stage}.layers.{{i}}',
    layers=('depthwise_conv', 'layer_norm', 'pointwise_conv1', 'pointwise_conv2'),
    norm='layer_norm',
)


def _rows(names: Names, norm: bool = True) -> list[Row]:
    """Rows of a backbone in a spelling; I input channels, A to D the widths of the stages."""
    rows = weights_and_biases(f'{names.stem}.0', f'{OURS.stem}.0', 'A I 4 4', 'A')
    rows += weights_and_biases(f'{names.stem}.1', f'{OURS.stem}.1', 'A', 'A')
    for stage, width in enumerate(WIDTHS):
        if stage:
            down, ours = (each.down.format(stage=stage) for each in (names, OURS))
            before = WIDTHS[stage - 1]
            rows += weights_and_biases(f'{down}.0', f'{ours}.0', before, before)
            rows += weights_and_biases(f'{down}.1', f'{ours}.1', f'{width} {before} 2 2', width)
        block, ours = (each.block.format(stage=stage) for each in (names, OURS))
        shapes = (
            (f'{width} 1 7 7', width),
            (width, width),
            (f'4{width} {width}', f'4{width}'),
            (f'{width} 4{width}', width),
        )
        for layer, own, shape in zip(names.layers, OURS.layers, shapes, strict=True):
            rows += weights_and_biases(f'{block}.{layer}', f'{ours}.{own}', *shape)
        rows.append(Row(f'{block}.gamma', f'{ours}.gamma', width))
    return rows + (weights_and_biases(names.norm, OURS.norm, 'D', 'D') if norm else [])


def _adapt(weights: Mapping, to_official: bool) -> dict:
    """Leave out the second name of the last norm in Meta's files. See ``Family.adapt``."""
    if to_official:
        return dict(weights)
    renamed = rename(weights, (r'^model\.(stages\.)', r'\1'))
    return {
        key: value
        for key, value in renamed.items()
        if not (key.startswith('norms.') and key.replace('norms.3.', 'norm.') in renamed)
    }


FAMILY = Family(
    name='convnext',
    adapt=_adapt,
    layouts={
        'timm': _rows(TIMM),
        'Meta': _rows(META),
        'Hugging Face': _rows(HUGGING_FACE),
        'timm, features': _rows(TIMM, norm=False),
    },
)
