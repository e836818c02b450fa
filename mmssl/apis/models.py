"""Models by name: those of the configs that come with the package."""

import contextlib
import fnmatch
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmssl.hints import nearest, nearest_path

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

SYSTEMS = ('selfsup', 'detection', 'segmentation', 'promptable')
_SCOPES = {'mmdet': 'detection', 'mmseg': 'segmentation'}


class Entry(NamedTuple):
    """A config of the package: its name, its file, the system that its model belongs to, and where its weights are, if anywhere."""

    name: str
    path: Path
    system: str
    weights: str | None


def list_models(pattern: str | None = None, system: str | None = None) -> list[str]:
    """Names that :func:`get_model` and the inferencers take.

    A name is that of the metafile; that of the config's file, without ``.py``, serves as well. Smoke configs,
    which metafiles leave out, are named by their path: ``'smoke/mae'``.

    Args:
        pattern: part of a name, or a pattern with * and ?, in any case; everything when None.
        system: 'selfsup', 'detection', 'segmentation' or 'promptable'; all when None.

    Returns:
        names, sorted.

    Raises:
        ValueError: no such system.

    Examples:
        >>> from mmssl.apis import list_models
        >>> list_models('gcn_resnet50*', system='segmentation')
    """
    if system is not None and system not in SYSTEMS:
        raise ValueError(f'system {system!r} is none of {", ".join(SYSTEMS)}{nearest(str(system), SYSTEMS)}')
    return sorted(
        entry.name for entry in entries() if system in (None, entry.system) and _matches(entry.name, pattern)
    )


def _matches(name: str, pattern: str | None) -> bool:
    name, pattern = name.lower(), (pattern or '').lower()
    return fnmatch.fnmatchcase(name, pattern) if set(pattern) & set('*?[') else pattern in name


@functools.cache
def entries() -> list[Entry]:
    """All configs of the package but ``_base_``; ValueError where a metafile is broken."""
    from mmssl.commands.list import read_scope
    from mmssl.config.paths import mim_root

    root = mim_root()
    known = {
        path: entry
        for metafile in sorted((root / 'configs').rglob('metafile.yml'))
        for path, entry in _models_of(metafile).items()
    }
    found = []
    for path in sorted((root / 'configs').rglob('*.py')):
        below = path.relative_to(root / 'configs')
        if '_base_' in below.parts:
            continue
        entry = known.get(f'configs/{below.as_posix()}', {})
        system = (
            'promptable'
            if 'sam' in (below.parts[0], below.stem.split('_')[0])
            else _SCOPES.get(read_scope(path) or '', 'selfsup')
        )
        found.append(
            Entry(entry.get('Name') or below.with_suffix('').as_posix(), path, system, entry.get('Weights'))
        )
    return found


def _models_of(metafile: Path) -> dict[str, dict]:
    """Config -> entry of a metafile; without PyYAML there are none, and configs go by their paths."""
    try:
        import yaml
    except ImportError:
        return {}
    try:
        loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
        models = (yaml.load(metafile.read_text(encoding='utf-8'), loader) or {}).get('Models') or []
    except yaml.YAMLError as error:
        raise ValueError(f'{metafile} is no valid YAML: {error}') from error
    return {model['Config']: model for model in models if model.get('Config')}


def find_entry(name: str | os.PathLike) -> Entry:
    """The config of a name, or of a path.

    Args:
        name: of a metafile, of a config's file with or without ``.py``, of its path below ``configs``, or the
            path of any config.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a name that no config has, with the nearest; one that several have, with theirs.
    """
    text = os.fspath(name)
    if Path(text).is_file():
        path = Path(text)
        shipped = [entry for entry in entries() if entry.path.resolve() == path.resolve()]
        return shipped[0] if shipped else Entry(path.stem, path, 'selfsup', None)
    plain = text.removeprefix('mmssl::').removeprefix('configs/').removesuffix('.py')
    known = entries()
    for candidates in (
        [entry for entry in known if entry.name == plain],
        [entry for entry in known if entry.path.with_suffix('').as_posix().endswith(f'/configs/{plain}')],
        [entry for entry in known if entry.path.stem == plain],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            several = ', '.join(entry.name for entry in candidates)
            raise ValueError(f'{plain!r} is the name of several configs; give one of {several}')
    if text.endswith('.py') and os.sep in text and not text.startswith('configs/'):
        raise FileNotFoundError(f'config {text} does not exist{nearest_path(text)}')
    names = [*(entry.name for entry in known), *(entry.path.stem for entry in known)]
    raise ValueError(
        f'no model {text!r}' + (nearest(plain, names) or '; mmssl.apis.list_models() has all names')
    )


def read_config(source: 'str | os.PathLike | Config') -> 'tuple[Config, Entry]':
    """A config by name or path, or a copy of one that is read already, and what is known of it.

    Raises:
        TypeError: neither.
        ValueError, FileNotFoundError: see :func:`find_entry`; a config without a model.
    """
    import copy

    from mmengine.config import Config

    from mmssl.engine.launch import load_config

    if isinstance(source, Config):
        cfg, entry = (
            copy.deepcopy(source),
            Entry(Path(source.filename or 'the config').stem, Path(source.filename or '.'), 'selfsup', None),
        )
    elif isinstance(source, (str, os.PathLike)):
        entry = find_entry(source)
        cfg = load_config(str(entry.path))
    else:
        raise TypeError(
            f'a config of type {type(source).__name__}; give a name of mmssl.apis.list_models(), a path, or a mmengine Config'
        )
    if not cfg.get('model'):
        raise ValueError(f'{entry.name} has no model')
    return cfg, entry


@contextlib.contextmanager
def scope_of(cfg: 'Config') -> Iterator[None]:
    """The config's default scope inside, and what was before it afterwards."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        yield


def get_model(
    name_or_config: 'str | os.PathLike | Config',
    pretrained: bool | str | os.PathLike | None = None,
    device: Any = None,
    **overrides,
) -> 'nn.Module':
    """A model by the name of its config.

    Args:
        name_or_config: a name of :func:`list_models`, the stem or the path of a config, or a
            ``mmengine.Config``.
        pretrained: a checkpoint file (.pth, .safetensors) of the model or of its backbone alone; True for the
            weights that the metafile names; None or False for the model's own random initialisation.
        device: where to put it; the CPU when None.
        **overrides: settings of the model, merged into the config: ``backbone=dict(drop_path_rate=0.1)``.

    Returns:
        the model in evaluation mode, with its config as ``model.cfg``. ``model.data_preprocessor``
        normalises, ``model.backbone`` is the plain encoder.

    Raises:
        ValueError: no such name (the nearest is told); ``pretrained=True`` where no weights are published; a
            file that leaves the backbone at its random initialisation; settings that do not fit.
        FileNotFoundError: no such file.

    Examples:
        >>> from mmssl.apis import get_model
        >>> model = get_model('mae_vit-b_8xb512', pretrained='epoch_300.pth')
        >>> model.backbone(images)  # (B, 3, 224, 224), normalised
    """
    from mmssl.commands.features import init_weights, load_backbone, model_of

    cfg, entry = read_config(name_or_config)
    checkpoint = find_weights(pretrained, entry)
    if overrides:
        cfg.merge_from_dict({'model': overrides})
    with scope_of(cfg):
        model, _ = model_of(cfg)
        if checkpoint is None:
            init_weights(model)
        else:
            load_backbone(model, checkpoint)
    model.cfg = cfg
    return (model if device is None else model.to(device)).eval()


def find_weights(pretrained: bool | str | os.PathLike | None, entry: Entry) -> str | None:
    """The checkpoint that is asked for, None for a random initialisation; errors as of :func:`get_model`."""
    if pretrained is None or pretrained is False:
        return None
    if pretrained is True:
        if not entry.weights:
            raise ValueError(
                f'no weights are published for {entry.name}: train it (mmssl train) or convert a release (mmssl convert), and '
                "give the file: pretrained='epoch_300.pth'"
            )
        return _download(entry.weights)
    path = os.path.expanduser(os.fspath(pretrained))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'checkpoint {path} '
            + (
                'is a directory; name a file in it'
                if os.path.isdir(path)
                else f'does not exist{nearest_path(path)}'
            )
        )
    return path


def _download(url: str) -> str:
    """A published file, kept where torch keeps its downloads."""
    import torch

    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / url.rsplit('/', 1)[-1]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    return str(path)
