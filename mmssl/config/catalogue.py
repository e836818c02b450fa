"""Catalogue of the shipped configs: names, systems, and what their metafiles say. No config is executed."""

import ast
import fnmatch
import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from mmssl.config.paths import mim_root
from mmssl.hints import nearest, nearest_path
from mmssl.weights import packaged_weights

SYSTEMS = ('selfsup', 'detection', 'segmentation', 'promptable')
_SYSTEM_OF_SCOPE = {'mmdet': 'detection', 'mmseg': 'segmentation'}
_MAX_BASES = 10


class Metadata(NamedTuple):
    """What a metafile says about one config; empty where it says nothing."""

    name: str = ''
    method: str = ''
    paper: str = ''
    parameters: int | None = None
    weights: str | None = None


class Entry(NamedTuple):
    """A config with its name, its file, the system of its model, and its published weights, if any.

    The weights are a URL, or the path of a file in the package: ``'mmssl/weights/NAME'``.
    """

    name: str
    path: Path
    system: str
    weights: str | None


def list_models(pattern: str | None = None, system: str | None = None) -> list[str]:
    """List the names that ``mmssl.apis.get_model`` and the inferencers take.

    A name is the one in the metafile; the config's file name without ``.py`` works as well. Smoke configs,
    which have no metafile, are named by their path: ``'smoke/mae'``.

    Args:
        pattern: Part of a name, or a pattern with ``*`` and ``?``, case-insensitive; None for all.
        system: 'selfsup', 'detection', 'segmentation' or 'promptable'; None for all.

    Returns:
        The names, sorted.

    Raises:
        ValueError: There is no such system.

    Examples:
        >>> from mmssl.apis import list_models
        >>> list_models('gcn_resnet50*', system='segmentation')
    """
    if system is not None and system not in SYSTEMS:
        raise ValueError(f'system {system!r} is none of {", ".join(SYSTEMS)}{nearest(str(system), SYSTEMS)}')
    return sorted(
        entry.name for entry in entries() if system in (None, entry.system) and matches(entry.name, pattern)
    )


def matches(name: str, pattern: str | None) -> bool:
    """Return True if the pattern is part of the name or, with ``*`` or ``?``, fits all of it."""
    name = name.lower()
    pattern = (pattern or '').lower()
    return fnmatch.fnmatchcase(name, pattern) if set(pattern) & set('*?[') else pattern in name


@functools.cache
def entries() -> list[Entry]:
    """Return the entries of all shipped configs.

    Raises:
        ValueError: A metafile is not valid YAML.
    """
    root = mim_root()
    metadata = read_metafiles(root)
    result = []
    for path in config_files(root):
        below = path.relative_to(root / 'configs')
        known = metadata.get(f'configs/{below.as_posix()}', Metadata())
        name = known.name or below.with_suffix('').as_posix()
        result.append(Entry(name, path, _system_of(path, below), known.weights))
    return result


def _system_of(path: Path, below: Path) -> str:
    if 'sam' in (below.parts[0], below.stem.split('_')[0]):
        return 'promptable'
    return _SYSTEM_OF_SCOPE.get(read_scope(path) or '', 'selfsup')


def config_files(root: Path) -> list[Path]:
    """Return the files under ``root / 'configs'`` except aliases and those in a ``_base_`` folder, sorted."""
    folder = root / 'configs'
    files = [path for path in sorted(folder.rglob('*.py')) if '_base_' not in path.relative_to(folder).parts]
    return [path for path in files if alias_target(path) is None]


def alias_target(path: Path) -> Path | None:
    """Return the config that a file is an alias of; None if the file does more than name it as ``_base_``."""
    match = re.fullmatch(r"_base_ = '\./([^/']+\.py)'\n", path.read_text(encoding='utf-8'))
    return path.with_name(match.group(1)) if match else None


def read_metafiles(root: Path) -> dict[str, Metadata]:
    """Read all metafiles under ``root / 'configs'``.

    Returns:
        Metadata by config path relative to ``root``; nothing if PyYAML is not installed.

    Raises:
        ValueError: A metafile is not valid YAML.
    """
    metadata: dict[str, Metadata] = {}
    for path in sorted((root / 'configs').rglob('metafile.yml')):
        metadata.update(_read_metafile(path))
    return metadata


def _read_metafile(path: Path) -> dict[str, Metadata]:
    try:
        import yaml
    except ImportError:
        return {}
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no valid YAML: {error}') from error
    papers = {}
    for collection in content.get('Collections') or []:
        paper = collection.get('Paper') or {}
        papers[collection.get('Name')] = paper.get('Title') or paper.get('URL') or ''
    return {
        model['Config']: Metadata(
            name=model.get('Name') or '',
            method=model.get('In Collection') or '',
            paper=papers.get(model.get('In Collection'), ''),
            parameters=(model.get('Metadata') or {}).get('Parameters'),
            weights=model.get('Weights'),
        )
        for model in content.get('Models') or []
        if model.get('Config')
    }


def read_scope(path: Path, depth: int = _MAX_BASES) -> str | None:
    """Read the ``default_scope`` of a config, or of the first of its bases that sets one, from the source.

    Args:
        path: A Python config.
        depth: Levels of ``_base_`` to follow.
    """
    if not path.is_file() or not depth:
        return None
    values = {}
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        if name in ('default_scope', '_base_'):
            try:
                values[name] = ast.literal_eval(node.value)
            except ValueError:  # an expression, which only running the config would evaluate
                continue
    if 'default_scope' in values:
        return values['default_scope']
    bases = values.get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        scope = None if '::' in base else read_scope(path.parent / base, depth - 1)
        if scope:
            return scope
    return None


def find_entry(name: str | os.PathLike) -> Entry:
    """Find a config by name or path.

    Args:
        name: Name in a metafile, name of weights in the package, name of a shipped config file with or
            without ``.py``, its path below ``configs``, or the path of any config.

    Raises:
        FileNotFoundError: A path that does not exist.
        ValueError: No config has the name (the message suggests the nearest), or several have it.
    """
    text = os.fspath(name)
    if Path(text).is_file():
        path = alias_target(Path(text)) or Path(text)
        shipped = [entry for entry in entries() if entry.path.resolve() == path.resolve()]
        return shipped[0] if shipped else Entry(path.stem, path, 'selfsup', None)
    plain = text.removeprefix('mmssl::').removeprefix('configs/').removesuffix('.py')
    known = entries()
    packaged = packaged_weights().get(plain)
    if packaged is not None:
        return find_entry(packaged.config)
    for candidates in (
        [entry for entry in known if entry.name == plain],
        [entry for entry in known if entry.path.with_suffix('').as_posix().endswith(f'/configs/{plain}')],
        [entry for entry in known if entry.path.stem == plain],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = ', '.join(entry.name for entry in candidates)
            raise ValueError(f'{plain!r} is the name of several configs; give one of {names}')
    folder, _, stem = plain.rpartition('/')
    for path in (mim_root() / 'configs').rglob(f'{stem}.py'):
        target = alias_target(path)
        if target and path.parent.as_posix().endswith(f'/configs/{folder}' if folder else ''):
            return find_entry(target)
    if text.endswith('.py') and os.sep in text and not text.startswith('configs/'):
        raise FileNotFoundError(f'config {text} does not exist{nearest_path(text)}')
    all_names = [*(entry.name for entry in known), *(entry.path.stem for entry in known)]
    hint = nearest(plain, all_names) or '; mmssl.apis.list_models() has all names'
    raise ValueError(f'no model {text!r}{hint}')
