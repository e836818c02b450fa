"""Pre-trained vision transformers, plain and in stages, with the settings that fine-tuning needs."""

from collections.abc import Mapping
from typing import Any

from mmssl.apis.finetune_architecture import Backbone
from mmssl.errors import UserError

VITS = ('ViT', 'MAEViT', 'DINOViT', 'DINOv2ViT', 'MoCoV3ViT', 'IJEPAViT', 'VisionTransformer')
BEITS = ('BEiTViT',)
SWINS = ('SwinTransformer',)
_VIT_KEYS = (
    'arch',
    'img_size',
    'patch_size',
    'qkv_bias',
    'norm_cfg',
    'with_cls_token',
    'layer_cfgs',
    'layer_scale_init_value',
    'num_registers',
    'use_abs_pos_emb',
    'rope_cfg',
)
_BEIT_KEYS = ('arch', 'img_size', 'patch_size', 'norm_cfg', 'layer_scale_init_value')
_SWIN_KEYS = ('arch', 'img_size', 'patch_size', 'window_size', 'use_abs_pos_embed')
# side of the windows of attention in detectors, in patches (arXiv:2203.16527)
WINDOW_SIZE = 14
GLOBAL_LAYERS = 4
# 'small' is another network there
_MMPRETRAIN_SMALL = dict(embed_dims=768, num_layers=8, num_heads=8, feedforward_channels=2304)
_SWIN_ARCHS = {
    **dict.fromkeys(('t', 'tiny'), (96, 4)),
    **dict.fromkeys(('s', 'small'), (96, 4)),
    **dict.fromkeys(('b', 'base'), (128, 4)),
    **dict.fromkeys(('l', 'large'), (192, 4)),
}


def vit(task: str, name: str, settings: Mapping[str, Any]) -> Backbone:
    """Return a plain ViT for a task; detectors of masks get attention in windows where its parts allow it.

    Raises:
        UserError: Its patches are not square, or it has too few layers.
    """
    chosen = {key: settings[key] for key in _VIT_KEYS if key in settings}
    if name == 'IJEPAViT':
        chosen['with_cls_token'] = False
    if str(chosen.get('arch')).lower() in ('s', 'small'):
        if name == 'VisionTransformer':
            chosen['arch'] = dict(_MMPRETRAIN_SMALL)
        elif name == 'MoCoV3ViT':
            from mmssl.selfsup.mocov3 import VIT_SMALL

            chosen['arch'] = dict(VIT_SMALL)
    chosen = dict(type='mmssl.ViT', **chosen, final_norm=False, drop_path_rate=0.1)
    plain = not any(chosen.get(key) for key in ('num_registers', 'rope_cfg', 'layer_cfgs'))
    if task == 'instance' and plain and chosen.get('qkv_bias') != 'qv_bias':
        chosen.pop('with_cls_token', None)
        depth = _sizes(chosen)[0]
        chosen.update(
            type='mmssl.ViTDet',
            window_size=WINDOW_SIZE,
            global_indices=_evenly(depth, min(depth, GLOBAL_LAYERS)),
            use_rel_pos=False,
        )
    return _with_outputs(task, chosen)


def beit(task: str, name: str, settings: Mapping[str, Any]) -> Backbone:
    """Return BEiT's ViT for a task, with relative positions in each layer.

    Raises:
        UserError: Its patches are not square, or it has too few layers.
    """
    chosen = {key: settings[key] for key in _BEIT_KEYS if key in settings}
    biases = dict(use_shared_rel_pos_bias=False, use_rel_pos_bias=True, with_mask_token=False)
    return _with_outputs(
        task, dict(type='mmssl.BEiTViT', **chosen, **biases, final_norm=False, drop_path_rate=0.1)
    )


def _sizes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return depth and width."""
    from mmssl.layers.vit import resolve_arch

    sizes = resolve_arch(settings.get('arch', 'base'))
    return sizes['num_layers'], sizes['embed_dims']


def _evenly(depth: int, count: int) -> tuple[int, ...]:
    """Return the last layers of ``count`` equal groups of layers."""
    return tuple(depth * part // count - 1 for part in range(1, count + 1))


def _with_outputs(task: str, chosen: dict[str, Any]) -> Backbone:
    """Add the layers that the head of a task reads."""
    depth, width = _sizes(chosen)
    patch = chosen.get('patch_size', 16)
    if not isinstance(patch, int):
        raise UserError(f'no recipe takes a ViT with patches of {patch}; only square ones')
    size = chosen.get('img_size', 224)
    facts: dict[str, Any] = dict(
        image_size=size if isinstance(size, int) else max(size), kind='vit', num_stages=depth
    )
    if task == 'classify':
        chosen['out_type'] = 'avg_featmap'
        return Backbone(chosen, [width], [patch], **facts)
    if task == 'instance':
        chosen['out_indices'] = (depth - 1,)
        return Backbone(chosen, [width], [patch], **facts)
    if task == 'detect':
        indices: tuple[int, ...] = (max(0, min(2 * depth // 3, depth - 2)), depth - 1)
    elif depth < 4:
        raise UserError(f'no recipe takes a ViT of {depth} layers to the task {task}; of at least 4')
    else:
        indices = _evenly(depth, 4)
    chosen['out_indices'] = indices
    return Backbone(chosen, [width] * len(indices), [patch] * len(indices), **facts)


def swin(task: str, name: str, settings: Mapping[str, Any]) -> Backbone:
    """Return a Swin Transformer (arXiv:2103.14030) for a task; it is mmpretrain's.

    Raises:
        UserError: It has too few stages.
    """
    chosen = {key: settings[key] for key in _SWIN_KEYS if key in settings}
    arch = chosen.get('arch', 'tiny')
    if isinstance(arch, str):
        if arch not in _SWIN_ARCHS:
            raise UserError(f'no recipe takes a Swin Transformer of arch {arch!r}; {", ".join(_SWIN_ARCHS)}')
        width, stages = _SWIN_ARCHS[arch]
    else:
        width, stages = arch['embed_dims'], len(arch['depths'])
    patch = chosen.get('patch_size', 4)
    channels = [width * 2**index for index in range(stages)]
    strides = [patch * 2**index for index in range(stages)]
    indices = tuple(range(stages))
    if task == 'classify':
        indices = indices[-1:]
    elif task == 'detect':
        indices = indices[-2:]
    elif task == 'semantic' and stages != 4:
        raise UserError(f'no recipe takes a Swin Transformer of {stages} stages to the task {task}; of 4')
    # the last maps of small images may be smaller than a window
    own = dict(out_indices=indices, drop_path_rate=0.1, pad_small_map=True)
    chosen = dict(type='mmpretrain.SwinTransformer', **chosen, **own)
    return Backbone(
        chosen,
        [channels[index] for index in indices],
        [strides[index] for index in indices],
        image_size=chosen.get('img_size', 224),
        kind='swin',
        num_stages=stages,
    )
