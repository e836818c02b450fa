"""Checkpoints of facebookresearch/moco-v3 (``moco/builder.py``) with both encoders and the predictor."""

from mmssl.convert.keymap import Family, Row
from mmssl.convert.resnet import batch_norm_rows, resnet_rows
from mmssl.convert.timm_vit import ENCODER, NORM

# width of the features; M hidden channels of projector and predictor, D dimension of the keys
WIDTHS = {18: '8W', 34: '8W', 50: '32W', 101: '32W'}


def mlp_rows(official: str, ours: str, inputs: str, layers: int, last_bn: bool = True) -> list[Row]:
    """Rows of a projector or predictor.

    Its linear layers have no bias and are followed by batch norms, the last one without scale and shift.
    """
    rows = []
    for index in range(layers):
        last = index == layers - 1
        outputs = 'D' if last else 'M'
        # the release numbers linear layers, batch norms and ReLUs consecutively
        rows.append(Row(f'{official}.{3 * index}.weight', f'{ours}.fc{index}.weight', f'{outputs} {inputs}'))
        if last_bn or not last:
            rows += batch_norm_rows(
                f'{official}.{3 * index + 1}', f'{ours}.bn{index}', outputs, affine=not last
            )
        inputs = 'M'
    return rows


def vit_rows() -> list[Row]:
    """Rows of both encoders and the predictor of a ViT."""
    rows = []
    for encoder, backbone, neck in (
        ('base_encoder', 'backbone.', 'neck'),
        ('momentum_encoder', 'momentum_encoder.module.0.', 'momentum_encoder.module.1'),
    ):
        rows += [
            Row(f'{encoder}.{row.official}', row.ours.replace('backbone.', backbone, 1), row.shape)
            for row in [*ENCODER, *NORM]
        ]
        rows += mlp_rows(f'{encoder}.head', neck, 'C', 3)
    return rows + mlp_rows('predictor', 'head.predictor', 'D', 2)


def residual_rows(depth: int) -> list[Row]:
    """Rows of both encoders and the predictor of a ResNet."""
    rows = []
    for encoder, backbone, neck in (
        ('base_encoder', 'backbone.', 'neck'),
        ('momentum_encoder', 'momentum_encoder.module.0.', 'momentum_encoder.module.1'),
    ):
        rows += resnet_rows(f'{encoder}.', backbone, depth)
        rows += mlp_rows(f'{encoder}.fc', neck, WIDTHS[depth], 2)
    return rows + mlp_rows('predictor', 'head.predictor', 'D', 2, last_bn=False)


FAMILY = Family(
    name='mocov3',
    wrapper='state_dict',
    file_prefix='module.',
    layouts={'ViT': vit_rows(), **{f'ResNet-{depth}': residual_rows(depth) for depth in (50, 18)}},
)
