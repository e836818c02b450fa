"""Segment Anything models with their weights, and generators of automatic masks."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmssl.config import RANDOM

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmssl.promptable import SamAutomaticMaskGenerator, TiledMaskGenerator


def load_sam(name: str, checkpoint: str, options: Sequence[str] = (), trust: bool = False) -> 'nn.Module':
    """Build a Segment Anything model and load its weights.

    Args:
        name: 'vit_b', 'vit_l', 'vit_h', 'vit_t', or a config whose model is or contains a :class:`mmssl.SAM`.
        checkpoint: File in the official names or written by a training run (low-rank updates included), or
            'random'.
        options: ``KEY=VALUE`` overrides of the config.
        trust: As for :func:`mmssl.checkpoint.load_file`.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no such model, or the file does not fit it.
    """
    import torch

    from mmssl.checkpoint import load_file, strip_module, strip_prefix, weights_of
    from mmssl.checkpoint.packaged import in_float32
    from mmssl.promptable.build import KINDS, build_sam

    check_checkpoint(checkpoint)
    torch.manual_seed(0)
    if name in KINDS:
        if options:
            raise ValueError(f'--cfg-options are of a config, and the model {name} is none')
        model = build_sam(name)
    else:
        model = _build_from_config(name, options)
    if checkpoint != RANDOM:
        weights = strip_module(weights_of(load_file(checkpoint, trust=trust), checkpoint))
        weights = in_float32(weights, checkpoint)
        if any(key.startswith('sam.image_encoder.') for key in weights):  # of a PromptedInstanceSegmentor
            weights = strip_prefix(weights, 'sam.')
        has_lora = any(key.endswith('.lora_a') for key in weights)
        if has_lora and not hasattr(model, 'to_sam'):
            raise ValueError(
                f'{checkpoint} contains low-rank updates; give the config that trained them as the model, '
                'or the sam.pth '
                'that the training wrote, in which they are merged'
            )
        model = model if has_lora else _bare_sam(model)
        _load_weights(model, weights, name, checkpoint)
    return _bare_sam(model).eval()


def check_checkpoint(checkpoint: str) -> None:
    """Check that a checkpoint exists before anything is loaded.

    Raises:
        FileNotFoundError: It is neither a file nor 'random'.
    """
    from mmssl.hints import nearest_path

    if checkpoint == RANDOM or os.path.isfile(checkpoint):
        return
    if os.path.isdir(checkpoint):
        raise FileNotFoundError(f'checkpoint {checkpoint} is a directory; name a file in it')
    raise FileNotFoundError(f'checkpoint {checkpoint} does not exist{nearest_path(checkpoint)}')


def _bare_sam(model: Any) -> 'nn.Module':
    """Return the SAM inside a training model, its low-rank updates merged."""
    from mmssl.layers.lora import merge_lora

    return merge_lora(model).to_sam() if hasattr(model, 'to_sam') else model


def _build_from_config(name: str, options: Sequence[str]) -> 'nn.Module':
    """Build the SAM of a config, or the training model that contains it."""
    from mmengine.registry import init_default_scope

    from mmssl.config.error_text import explained_error
    from mmssl.config.load import find_config, load_config
    from mmssl.hints import nearest
    from mmssl.promptable.build import KINDS
    from mmssl.registry import MODELS, build

    names = ', '.join(KINDS)
    try:
        find_config(name)
    except FileNotFoundError as error:
        if os.sep in name or name.endswith('.py'):
            raise
        raise ValueError(f'model {name!r} is none of {names}, and no config{nearest(name, KINDS)}') from error
    cfg = load_config(name, list(options))
    settings = cfg.model.to_dict() if cfg.get('model') else {}
    if 'sam' in settings:  # PromptedInstanceSegmentor
        settings = settings['sam']
    elif 'image_encoder' in settings.get('model', ()):  # InteractiveSAM
        settings = {
            key: value for key, value in settings.items() if key not in ('cache_dir', 'data_preprocessor')
        }
    elif 'image_encoder' not in settings:
        raise ValueError(
            f'{name}: its model is no mmssl.SAM and contains none; give a config of configs/sam, or {names}'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        return build(settings, MODELS)
    except (TypeError, KeyError, ValueError) as error:
        raise explained_error(error) from error


def _load_weights(model: 'nn.Module', weights: Mapping[str, 'Tensor'], name: str, checkpoint: str) -> None:
    from mmssl.checkpoint.matching import MismatchError, load_matching

    try:
        report = load_matching(model, weights, source=checkpoint, logger='silent')
    except MismatchError:
        report = None
    if report is not None and report.complete:
        return
    reason = 'none of its names is known' if report is None else _differences(report)
    raise ValueError(f'{checkpoint} does not fit the model {name}: {reason}{_hint(weights, name)}')


def _differences(report: Any) -> str:
    """Summarize a report of matched weights in one line."""
    shapes = [
        f'{key} {"x".join(map(str, saved))} for {"x".join(map(str, expected))}'
        for key, saved, expected in report.mismatched
    ]
    named = (('missing', report.missing), ('unknown', report.unexpected), ('of another shape', shapes))
    return ', '.join(
        f'{len(keys)} weights {what} ({keys[0]}{", ..." if len(keys) > 1 else ""})'
        for what, keys in named
        if keys
    )


def _hint(weights: Mapping[str, 'Tensor'], name: str) -> str:
    """Say which model the weights seem to belong to."""
    from mmssl.promptable.image_encoder import ARCHS

    if any(key.startswith('vision_encoder.') for key in weights):
        return "; it has Hugging Face's names: mmssl convert sam-hf FILE OUT.pth"
    positions = weights.get('image_encoder.pos_embed')
    width = positions.shape[-1] if positions is not None and positions.ndim == 4 else None
    candidates = [arch for arch, sizes in ARCHS.items() if sizes['embed_dim'] == width]
    if any(key.startswith('image_encoder.patch_embed.seq.') for key in weights):
        candidates.append('vit_t')
    if candidates and candidates != [name]:
        return f'; it looks like a checkpoint of the model {candidates[0]}'
    return '; give the model that it belongs to'


def make_generator(
    model: 'nn.Module', settings: Mapping, cache_dir: str | None = None
) -> 'SamAutomaticMaskGenerator | TiledMaskGenerator':
    """Create the generator of automatic masks.

    Args:
        model: A SAM.
        settings: Arguments of :class:`mmssl.promptable.SamAutomaticMaskGenerator`; with 'tile', larger images
            are segmented tile by tile.
        cache_dir: Folder for embeddings of images; None for no cache.
    """
    from mmssl.promptable import SamAutomaticMaskGenerator, TiledMaskGenerator

    settings = dict(settings)
    tile = settings.pop('tile', None)
    generator = SamAutomaticMaskGenerator(model, **settings, output_mode='coco_rle', cache_dir=cache_dir)
    return generator if tile is None else TiledMaskGenerator(generator, tile)
