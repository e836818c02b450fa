"""Models of configs with their weights, and the device to run them on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmssl.config import RANDOM

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config
    from torch import nn


def pick_device(name: Any = None) -> 'torch.device':
    """Return the device of a name; for None the GPU if there is one, else the CPU.

    Raises:
        ValueError: This machine has no such device.
    """
    import torch

    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise ValueError(f'unknown device {str(name)!r}; use cpu, cuda or cuda:N') from None
    count = torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        choices = f' or cuda:0 to cuda:{count - 1}' if count else ''
        raise ValueError(f'device {name}: this machine has {count} GPUs; use cpu{choices}')
    return device


def build_model(
    config: str, checkpoint: str, cfg_options: Sequence[str] = (), seed: int = 0, trust: bool = False
) -> 'tuple[nn.Module, dict]':
    """Build the model of a config and load its weights.

    Args:
        config: Path or shipped name.
        checkpoint: File with the weights of the model or of its backbone, or 'random'.
        cfg_options: ``KEY=VALUE`` overrides.
        seed: Seed of the initialization.
        trust: As for :func:`mmssl.checkpoint.load_file`.

    Returns:
        The model, on the CPU, and the settings that it was built from.

    Raises:
        ValueError: The config has no model, or the file leaves part of the backbone at its random
            initialization.
    """
    from mmengine.runner import set_random_seed

    from mmssl.config.load import load_config

    cfg = load_config(config, list(cfg_options))
    if not cfg.get('model'):
        raise ValueError(f'{config} has no model')
    set_random_seed(seed)
    model, settings = model_from_config(cfg)
    if checkpoint == RANDOM:
        init_weights(model)
    else:
        load_backbone(model, checkpoint, trust)
    return model, settings


def model_from_config(cfg: 'Config') -> 'tuple[nn.Module, dict]':
    """Construct the model of a config without reading any file of pre-trained weights.

    Returns:
        The model and the settings that it was built from.

    Raises:
        ValueError, TypeError, KeyError: A part cannot be built; the message names it.
    """
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    from mmssl.config.error_text import explained_error
    from mmssl.registry import MODELS, build

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    settings = _without_pretrained(cfg.model.to_dict())
    # like mmengine's Runner, which passes the top-level preprocessor to the model
    if cfg.get('data_preprocessor') and not settings.get('data_preprocessor'):
        settings['data_preprocessor'] = cfg.data_preprocessor.to_dict()
    try:
        return build(ConfigDict(settings), MODELS), settings  # segmentors read their settings by attribute
    except (TypeError, KeyError, ValueError) as error:
        raise explained_error(error) from error


def _without_pretrained(node: Any) -> Any:
    """Copy settings without ``init_cfg=dict(type='Pretrained', ...)``, whose file may be missing here."""
    if isinstance(node, list):
        return [_without_pretrained(value) for value in node]
    if not isinstance(node, dict):
        return node
    return type(node)(
        {
            key: _without_pretrained(value)
            for key, value in node.items()
            if not (key == 'init_cfg' and isinstance(value, dict) and value.get('type') == 'Pretrained')
        }
    )


def init_weights(model: 'nn.Module') -> None:
    """Run the model's own initialization, without mmengine's log of three lines for every parameter."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def load_backbone(model: 'nn.Module', checkpoint: str, trust: bool = False) -> None:
    """Load the weights of the whole model, or of its backbone alone, from a file.

    Raises:
        ValueError: The file leaves part of the backbone at its random initialization.
    """
    from mmssl.checkpoint import load_file, load_weights, weights_of
    from mmssl.checkpoint.packaged import in_float32

    weights = in_float32(weights_of(load_file(checkpoint, trust=trust), checkpoint), checkpoint)
    backbone = getattr(model, 'backbone', None)
    names = {name for name, _ in backbone.named_parameters()} if backbone is not None else set()
    if names and any(name in weights for name in names):
        report = load_weights(backbone, weights)
        prefix = ''
        # some methods evaluate the momentum encoder, which must then have these weights too
        for momentum_copy, encoder in getattr(model, 'momentum_pairs', list)():
            momentum_copy.copy_from(encoder)
    else:
        report = load_weights(model, weights)
        prefix = 'backbone.' if names else ''
    unset = [*report.missing, *(name for name, *_ in report.mismatched)]
    unset = [name for name in unset if name.startswith(prefix)]
    if unset:
        shown = ', '.join(unset[:4]) + (', ...' if len(unset) > 4 else '')
        raise ValueError(
            f'{checkpoint} leaves {len(unset)} weights of the backbone at their random initialisation '
            f'({shown}); '
            'is it the checkpoint of this config?'
        )


def load_all_weights(model: 'nn.Module', checkpoint: str, trust: bool = False) -> dict:
    """Load the weights of a whole model from a file.

    Returns:
        The content of the file.

    Raises:
        ValueError: The file lacks weights of the model.
    """
    from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of

    content = load_file(checkpoint, trust=trust)
    weights = dict(strip_module(weights_of(content, checkpoint)))
    report = load_weights(model, weights, logger='silent')
    if report.missing or report.mismatched:
        raise ValueError(f'{checkpoint} is not the checkpoint of this model:\n{report}')
    return content


def load_mae(config: str, checkpoint: str, options: Sequence[str] = (), trust: bool = False) -> 'nn.Module':
    """Build the masked autoencoder of a config with the weights of its pre-training.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: The config is not a masked autoencoder, or the file has no decoder.
    """
    from mmengine.registry import init_default_scope

    from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of
    from mmssl.checkpoint.packaged import in_float32
    from mmssl.config.load import load_config
    from mmssl.registry import MODELS, build

    cfg = load_config(config, options)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build({'data_preprocessor': cfg.get('data_preprocessor'), **cfg.model}, MODELS)
    if not hasattr(model, 'reconstruct'):
        raise ValueError(
            f'{config} builds a {type(model).__name__}, which does not reconstruct; give a config of '
            'configs/mae'
        )
    weights = strip_module(weights_of(load_file(checkpoint, trust=trust), checkpoint))
    weights = in_float32(weights, checkpoint)
    _check_decoder(weights, checkpoint)
    report = load_weights(model, weights)
    if report.missing or report.mismatched:
        raise ValueError(f'{checkpoint} does not fit {config}:\n{report}')
    return model.eval()


def _check_decoder(weights: Any, checkpoint: str) -> None:
    if any(key.startswith('neck.') for key in weights):
        return
    if any(key.startswith(('decoder_blocks.', 'model.decoder_blocks.')) for key in weights):
        raise ValueError(
            f"{checkpoint} has the official code's names; convert it first: "
            f'mmssl convert mae {checkpoint} OUT.pth'
        )
    raise ValueError(
        f'{checkpoint} holds an encoder without a decoder (no neck.* weights), which cannot draw pixels. '
        'Give the checkpoint of the pre-training itself'
    )
