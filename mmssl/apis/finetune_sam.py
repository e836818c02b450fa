"""Segment Anything checkpoints as the start of fine-tuning by low-rank updates (arXiv:2106.09685)."""

import os
from collections.abc import Mapping
from typing import Any

from mmssl.apis.finetune_architecture import Backbone
from mmssl.apis.finetune_images import image_settings
from mmssl.config import RANDOM
from mmssl.errors import CheckpointError, UserError

PATCH_SIZE = 16
# encoders by the width of their patch embedding
_KINDS = {768: 'vit_b', 1024: 'vit_l', 1280: 'vit_h'}
# encoders whose attention gets low-rank updates; others stay frozen
_ATTENTION = ('SAMImageEncoder', 'SAMTinyViT')


def sam_start(
    checkpoint: str,
    backbone_config: str | None,
    size: int | None = None,
    trust: bool = False,
    statistics: str | None = None,
) -> Backbone:
    """Return the model of a Segment Anything checkpoint, with its config and the side of its images.

    The config is that of ``backbone_config``, or the one in the checkpoint, or it follows from the names and
    sizes of a released file.

    Args:
        checkpoint: The checkpoint, in the official names.
        backbone_config: Name or path of a config of :class:`mmssl.InteractiveSAM`, or None.
        size: Side of the images; None for that of the checkpoint.
        trust: As for :func:`mmssl.checkpoint.load_file`.
        statistics: As for :func:`mmssl.apis.finetune_images.image_settings`.

    Raises:
        CheckpointError: The file is of another model, or does not say of which.
        UserError: The size does not fit the encoder.
    """
    from mmssl.checkpoint import load_file, strip_module, weights_of

    if checkpoint == RANDOM:
        raise UserError(
            '--recipe sam-lora adapts a Segment Anything checkpoint by small updates; random weights need '
            '`mmssl train` with a config of configs/sam'
        )
    content = load_file(checkpoint, trust=trust)
    weights = strip_module(weights_of(content, checkpoint))
    _check_weights(weights, checkpoint)
    settings, pretraining = _settings(content, weights, checkpoint, backbone_config)
    encoder = dict(settings['image_encoder'])
    name = str(encoder.get('type', 'SAMImageEncoder')).rpartition('.')[2]
    native = encoder.get('img_size', 1024)
    if size is not None and size % PATCH_SIZE:
        raise UserError(f'--size {size} must be divisible by {PATCH_SIZE}, the side of a patch')
    if size is not None and size != native:
        encoder['img_size'] = size
    # in_channels of mmssl.SAMBackbone are those of the maps of its backbone
    if 'backbone' in encoder:
        encoder['backbone'] = dict(encoder['backbone'])
    reader = encoder.get('backbone', encoder)
    images = image_settings(pretraining, reader.get('in_channels', 3), statistics)
    if images is not None:
        reader['in_channels'] = images.channels
        settings = {**settings, 'pixel_mean': images.mean, 'pixel_std': images.std}
    return Backbone(
        {**settings, 'image_encoder': encoder},
        [],
        [PATCH_SIZE],
        image_size=size or native,
        kind='sam' if name in _ATTENTION else 'sam-frozen',
        checkpoint=os.path.abspath(checkpoint),
        images=images,
    )


def _check_weights(weights: Mapping[str, Any], checkpoint: str) -> None:
    from mmssl.promptable.build import FOREIGN_PARTS

    if not any(key.startswith('image_encoder.') for key in weights):
        raise CheckpointError(
            f'{checkpoint} is no checkpoint of Segment Anything: it has no image_encoder; leave out --recipe '
            'to fine-tune a backbone'
        )
    for key in weights:
        for part, model in FOREIGN_PARTS.items():
            if part in key:
                raise CheckpointError(
                    f'{checkpoint} is a checkpoint of {model}; give one of Segment Anything'
                )
        if key.endswith('.lora_a'):
            raise CheckpointError(
                f'{checkpoint} holds low-rank updates beside the weights; give the sam.pth that its run has '
                'written, in which they are merged'
            )


def _settings(
    content: Mapping[str, Any], weights: Mapping[str, Any], checkpoint: str, backbone_config: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of :class:`mmssl.SAM`, and the config, empty for a released file."""
    from mmssl.apis.finetune_backbones import pretraining_config

    has_config = bool((content.get('meta') or {}).get('cfg')) if isinstance(content, Mapping) else False
    if backbone_config is not None or has_config:
        config = pretraining_config(checkpoint, backbone_config)
        model = config.get('model') or {}
        model = model.get('model') or model
        if 'image_encoder' not in model:
            raise UserError(
                f'{backbone_config or checkpoint} is no config of Segment Anything: its model has no '
                'image_encoder; give another --backbone-config'
            )
        model = {key: value for key, value in model.items() if key != 'init_cfg'}
        return {'type': 'mmssl.SAM', **model}, config
    return {'type': 'mmssl.SAM', 'image_encoder': _released_encoder(weights, checkpoint)}, {}


def _released_encoder(weights: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    table = weights.get('image_encoder.pos_embed')
    if table is not None and table.ndim == 4 and table.shape[-1] in _KINDS:
        return dict(
            type='mmssl.SAMImageEncoder', arch=_KINDS[table.shape[-1]], img_size=PATCH_SIZE * table.shape[1]
        )
    if 'image_encoder.patch_embed.seq.0.c.weight' in weights:
        return dict(type='mmssl.SAMTinyViT')
    raise CheckpointError(
        f'{checkpoint} does not say which Segment Anything model it is of; give its config with '
        '--backbone-config'
    )
