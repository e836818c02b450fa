"""Models by the names of the shipped configs."""

import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.config.catalogue import SYSTEMS, Entry, find_entry, list_models
from mmssl.hints import nearest_path
from mmssl.weights import find_packaged

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

__all__ = [
    'SYSTEMS',
    'Entry',
    'find_entry',
    'find_weights',
    'get_model',
    'list_models',
    'read_config',
    'scope_of',
]


def read_config(source: 'str | os.PathLike | Config') -> 'tuple[Config, Entry]':
    """Load a config by name or path, or copy one that is loaded already.

    Returns:
        The config and its catalogue entry.

    Raises:
        TypeError: The source is neither.
        ValueError, FileNotFoundError: See :func:`mmssl.config.catalogue.find_entry`; also a config without a
            model.
    """
    from mmengine.config import Config

    from mmssl.config.load import load_config

    if isinstance(source, Config):
        cfg = copy.deepcopy(source)
        path = Path(source.filename) if source.filename else None
        entry = Entry(path.stem if path else 'the config', path or Path('.'), 'selfsup', None)
    elif isinstance(source, (str, os.PathLike)):
        entry = find_entry(source)
        cfg = load_config(str(entry.path))
    else:
        raise TypeError(
            f'a config of type {type(source).__name__}; give a name of mmssl.apis.list_models(), a path, or '
            'a '
            'mmengine Config'
        )
    if not cfg.get('model'):
        raise ValueError(f'{entry.name} has no model')
    return cfg, entry


@contextlib.contextmanager
def scope_of(cfg: 'Config') -> Iterator[None]:
    """Set the config's default scope inside this context."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        yield


def get_model(
    name_or_config: 'str | os.PathLike | Config',
    pretrained: bool | str | os.PathLike | None = None,
    device: Any = None,
    **overrides: Any,
) -> 'nn.Module':
    """Build a model by the name of its config.

    Args:
        name_or_config: A name of :func:`list_models`, the stem or path of a config, or a ``mmengine.Config``.
        pretrained: Checkpoint file (.pth, .safetensors) of the model or of its backbone alone; True for the
            weights that the metafile names; None or False for the model's own random initialization.
        device: Device of the model; the CPU if None.
        **overrides: Settings merged into those of the model, such as ``backbone=dict(drop_path_rate=0.1)``.

    Returns:
        The model in evaluation mode, with its config as ``model.cfg``. ``model.data_preprocessor``
        normalizes, ``model.backbone`` is the plain encoder.

    Raises:
        ValueError: There is no such name (the message suggests the nearest); ``pretrained=True`` without
            published weights; a file that leaves the backbone at its random initialization; settings that do
            not fit.
        FileNotFoundError: There is no such file.

    Examples:
        >>> from mmssl.apis import get_model
        >>> model = get_model('mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', pretrained='epoch_300.pth')
        >>> model.backbone(images)  # (B, 3, 224, 224), normalized
    """
    from mmssl.apis.loading import init_weights, load_backbone, model_from_config

    cfg, entry = read_config(name_or_config)
    checkpoint = find_weights(pretrained, entry)
    if overrides:
        cfg.merge_from_dict({'model': overrides})
    with scope_of(cfg):
        model, _ = model_from_config(cfg)
        if checkpoint is None:
            init_weights(model)
        else:
            load_backbone(model, checkpoint)
    model.cfg = cfg
    return (model if device is None else model.to(device)).eval()


def find_weights(pretrained: bool | str | os.PathLike | None, entry: Entry) -> str | None:
    """Find the checkpoint file that ``pretrained`` of :func:`get_model` asks for.

    Returns:
        The file; None for a random initialization.

    Raises:
        ValueError: ``pretrained=True`` without published weights.
        FileNotFoundError: There is no such file.
    """
    from mmssl.checkpoint.packaged import packaged_file

    if pretrained is None or pretrained is False:
        return None
    if pretrained is True:
        if not entry.weights:
            raise ValueError(
                f'no weights are published for {entry.name}: train it (mmssl train) or convert a release '
                "(mmssl convert), and give the file: pretrained='epoch_300.pth'"
            )
        packaged = find_packaged(entry.name)
        return packaged_file(packaged) if packaged else _download(entry.weights)
    path = os.path.expanduser(os.fspath(pretrained))
    if os.path.isdir(path):
        raise FileNotFoundError(f'checkpoint {path} is a directory; name a file in it')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path} does not exist{nearest_path(path)}')
    return path


def _download(url: str) -> str:
    """Download a published file to torch's folder for checkpoints, unless it is there already."""
    from mmssl.checkpoint.download import cache_path, download

    return download(
        url, cache_path(url), alternative='pretrained=None, or pretrained="FILE" for another file'
    )
