"""Pre-trained backbones, with the settings that the fine-tuning recipes need."""

import os
from collections.abc import Mapping
from typing import Any

from mmssl.apis.finetune_architecture import Backbone
from mmssl.apis.finetune_images import image_settings
from mmssl.apis.finetune_transformers import BEITS, SWINS, VITS, beit, swin, vit
from mmssl.config.literals import literals
from mmssl.errors import CheckpointError, UserError

RESNETS = ('ResNet', 'ResNetV1c', 'ResNetV1d')
MOBILENETS = ('MobileNetV2', 'DilatedMobileNetV2')
_RESNET_KEYS = ('depth', 'stem_channels', 'base_channels', 'deep_stem', 'avg_down', 'style')
_MOBILENET_CHANNELS = (24, 32, 96, 320)
_TOOLBOX = {'classify': 'mmpretrain', 'detect': 'mmdet', 'instance': 'mmdet', 'semantic': 'mmseg'}


def pretraining_config(checkpoint: str, backbone_config: str | None, trust: bool = False) -> dict[str, Any]:
    """Return the config that a model was pre-trained with.

    Args:
        checkpoint: Its checkpoint, or 'random'.
        backbone_config: Name or path of its config; None takes the one in the checkpoint.
        trust: As for :func:`mmssl.checkpoint.load_file`.

    Raises:
        CheckpointError: The checkpoint has no config and none is given.
        FileNotFoundError: There is no such file.
    """
    from mmssl.apis.models import read_config
    from mmssl.checkpoint import load_file

    if backbone_config is not None:
        return read_config(backbone_config)[0].to_dict()
    if checkpoint == 'random':
        raise UserError(
            'random: no checkpoint says which backbone to train; give the config of one with '
            '--backbone-config'
        )
    content = load_file(checkpoint, trust=trust)
    text = (content.get('meta') or {}).get('cfg') if isinstance(content, Mapping) else None
    if not text:
        raise CheckpointError(
            f'{checkpoint} does not hold the config of its training, which names the backbone; give it with '
            '--backbone-config'
        )
    return literals(text) if isinstance(text, str) else dict(text)


def backbone_for(
    task: str,
    pretraining: Mapping[str, Any],
    checkpoint: str,
    freeze: bool,
    statistics: str | None = None,
) -> Backbone:
    """Return a pre-trained backbone for a task.

    Args:
        task: 'classify', 'detect', 'instance' or 'semantic'.
        pretraining: The config of pre-training.
        checkpoint: Its checkpoint, from which the weights are initialised; or 'random'.
        freeze: Freeze all of the backbone.
        statistics: As for :func:`mmssl.apis.finetune_images.image_settings`.

    Raises:
        UserError: There is no recipe for this backbone and task.
    """
    model = pretraining.get('model') or {}
    settings = model.get('backbone')
    if not isinstance(settings, Mapping):
        raise UserError(
            'the config of the pre-training has no model.backbone; give another --backbone-config'
        )
    name = str(settings.get('type')).rpartition('.')[2]
    if name not in _BUILDERS:
        raise UserError(
            f'no recipe takes the backbone {name} to the task {task}; those that it takes are '
            f'{", ".join(_BUILDERS)}. mmssl train takes any config'
        )
    backbone = _BUILDERS[name](task, name, settings)
    backbone.images = image_settings(pretraining, settings.get('in_channels', 3), statistics)
    if backbone.images and backbone.images.channels != 3:
        backbone.settings['in_channels'] = backbone.images.channels
    if freeze:
        backbone.settings['frozen_stages'] = backbone.num_stages
    if checkpoint != 'random':
        backbone.checkpoint = os.path.abspath(checkpoint)
        backbone.settings['init_cfg'] = dict(
            type='Pretrained', checkpoint=backbone.checkpoint, prefix='backbone.'
        )
    return backbone


def _resnet(task: str, name: str, settings: Mapping[str, Any]) -> Backbone:
    architecture = {key: settings[key] for key in _RESNET_KEYS if key in settings}
    chosen = dict(type=f'{_TOOLBOX[task]}.{name}', **architecture, norm_cfg=dict(type='BN'), norm_eval=False)
    width = settings.get('base_channels', 64) * (4 if settings['depth'] >= 50 else 1)
    channels = [width, 2 * width, 4 * width, 8 * width]
    if task == 'classify':
        return Backbone({**chosen, 'out_indices': (3,)}, channels[3:], [32])
    if task == 'detect':
        dilated = dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(2, 3))
        return Backbone({**chosen, **dilated}, channels[2:], [16, 16])
    return Backbone({**chosen, 'out_indices': (0, 1, 2, 3)}, channels)


def _mobilenet(task: str, name: str, settings: Mapping[str, Any]) -> Backbone:
    if settings.get('widen_factor', 1.0) != 1.0:
        raise UserError(f'no recipe takes a MobileNetV2 of width {settings["widen_factor"]}; only of 1.0')
    if task == 'classify':
        return Backbone(dict(type='mmpretrain.MobileNetV2', out_indices=(7,)), [1280], [32], num_stages=7)
    if task == 'detect':
        chosen = dict(type='mmssl.DilatedMobileNetV2', out_indices=(4, 6), norm_eval=True)
        return Backbone(chosen, [96, 320], [16, 16], num_stages=7)
    chosen = dict(type=f'{_TOOLBOX[task]}.MobileNetV2', out_indices=(1, 2, 4, 6), norm_cfg=dict(type='BN'))
    return Backbone(chosen, list(_MOBILENET_CHANNELS), num_stages=7)


_BUILDERS = {
    **dict.fromkeys(RESNETS, _resnet),
    **dict.fromkeys(MOBILENETS, _mobilenet),
    **dict.fromkeys(VITS, vit),
    **dict.fromkeys(BEITS, beit),
    **dict.fromkeys(SWINS, swin),
}
