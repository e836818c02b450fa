"""MobileNetV2 (arXiv:1801.04381) of torchvision, and of releases that number the layers of a block flat."""

from mmssl.convert.keymap import Family, Row, weights_and_biases
from mmssl.convert.resnet import batch_norm_rows

# blocks and channels of the seven stages (table 2); the first has expansion 1, the others 6
STAGES = ((1, 16), (2, 24), (3, 32), (4, 64), (3, 96), (3, 160), (1, 320))
LAST = 1280


def _layer(weight: str, norm: str, ours: str, shape: str) -> list[Row]:
    return [
        Row(f'{weight}.weight', f'{ours}.conv.weight', shape),
        *batch_norm_rows(norm, f'{ours}.bn', shape.split()[0]),
    ]


def _names(block: str, count: int, index: int, nested: bool) -> tuple[str, str]:
    """Names of the convolution and the batch norm of layer ``index`` of ``count`` in a block.

    torchvision nests all layers except the last, which has no activation.
    """
    if not nested:
        return f'{block}.{3 * index}', f'{block}.{3 * index + 1}'
    if index == count - 1:
        return f'{block}.{index}', f'{block}.{index + 1}'
    return f'{block}.{index}.0', f'{block}.{index}.1'


def _rows(nested: bool) -> list[Row]:
    rows = _layer('features.0.0', 'features.0.1', 'backbone.conv1', '32 3 3 3')
    inputs, index = 32, 1
    for stage, (blocks, outputs) in enumerate(STAGES, start=1):
        for block in range(blocks):
            hidden = inputs * (1 if stage == 1 else 6)
            shapes = [f'{hidden} {inputs} 1 1'] if stage > 1 else []
            shapes += [f'{hidden} 1 3 3', f'{outputs} {hidden} 1 1']
            for layer, shape in enumerate(shapes):
                conv, norm = _names(f'features.{index}.conv', len(shapes), layer, nested)
                rows += _layer(conv, norm, f'backbone.layer{stage}.{block}.conv.{layer}', shape)
            inputs = outputs
            index += 1
    return rows + _layer(
        f'features.{index}.0', f'features.{index}.1', 'backbone.conv2', f'{LAST} {inputs} 1 1'
    )


_CLASSIFIER = weights_and_biases('classifier.1', 'head.fc', f'K {LAST}', 'K')
_LAYOUTS = {
    'torchvision': _rows(True),
    'torchvision with its classifier': _rows(True) + _CLASSIFIER,
    'flat': _rows(False),
    'flat with a classifier': _rows(False) + _CLASSIFIER,
}
FAMILY = Family('mobilenetv2', _LAYOUTS)
