"""Find a config by path or by name and load it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.config.error_text import explain
from mmssl.config.paths import config_root
from mmssl.hints import nearest, nearest_path
from mmssl.weights import find_packaged

if TYPE_CHECKING:
    from mmengine.config import Config


def find_config(name: str) -> Path:
    """Find a config by path, or by its name below the shipped configs (``mmssl::`` and ``.py`` are optional),
    or by the name of weights in the package.

    Raises:
        FileNotFoundError: There is neither; the message names the nearest one.
    """
    name = name.removeprefix('mmssl::')
    below = name.removeprefix('configs/')
    for candidate in (Path(name), config_root() / below, config_root() / f'{below}.py'):
        if candidate.is_file():
            return candidate
    packaged = find_packaged(name)
    if packaged is not None:
        return config_root() / f'{packaged.config}.py'
    shipped = [path.relative_to(config_root()).as_posix() for path in config_root().rglob('*.py')]
    same_stem = [path for path in shipped if Path(path).stem == Path(name).stem]
    hint = f'; did you mean {same_stem[0]!r}?' if same_stem else nearest(below, shipped) or nearest_path(name)
    raise FileNotFoundError(f'config {name} does not exist{hint}')


def load_config(name: str, options: Sequence[str] = ()) -> 'Config':
    """Load a config and merge ``KEY=VALUE`` options into it.

    Args:
        name: Path or shipped name, as for :func:`find_config`.
        options: Overrides such as ``'train_dataloader.batch_size=8'``.

    Raises:
        FileNotFoundError: The config, or one that it inherits from, does not exist.
        ValueError: The file is not a valid config or inherits from itself; an option lacks '=', has
            unbalanced brackets, or begins with a misspelt key of the config.
    """
    from mmengine.config import Config

    from mmssl.hosts import patches

    patches.apply()  # among others, configs inherit from 'mmssl::...'
    path = find_config(name)
    try:
        check_bases(path)
        cfg = Config.fromfile(path)
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # a config is a program and can fail in any way
        raise ValueError(f'{path} cannot be read as a config: {explain(error)}') from error
    overrides = _parse_options(cfg, options)
    try:
        cfg.merge_from_dict(overrides)
    except (TypeError, KeyError, AttributeError, IndexError, AssertionError) as error:
        raise ValueError(f'--cfg-options {" ".join(options)} do not fit {path}: {explain(error)}') from error
    return cfg


def _parse_options(cfg: 'Config', options: Sequence[str]) -> dict[str, Any]:
    from mmengine.config import DictAction

    overrides = {}
    for option in options or ():
        key, equals, value = option.partition('=')
        if not equals:
            raise ValueError(f'--cfg-options takes KEY=VALUE, not {option!r}')
        top = key.split('.')[0]
        if top not in cfg and nearest(top, cfg):
            raise ValueError(f'--cfg-options {option}: the config has no {top!r}{nearest(top, cfg)}')
        try:
            overrides[key] = DictAction._parse_iterable(value)
        except AssertionError as error:
            raise ValueError(f'--cfg-options {option}: {error}') from None
    return overrides


def check_bases(path: str | os.PathLike, inherited_by: tuple[Path, ...] = ()) -> None:
    """Check that every ``_base_`` exists and that no config inherits from itself, which mmengine never ends.

    Args:
        path: A config.
        inherited_by: The chain of configs that led to it.

    Raises:
        FileNotFoundError: A base does not exist; the message names the config that inherits from it.
        ValueError: The bases form a circle; the message names all files in it.
    """
    from mmengine.config import Config

    this = Path(os.path.abspath(path))
    if this in inherited_by:
        circle = (*inherited_by[inherited_by.index(this) :], this)
        raise ValueError(f'{this} inherits from itself: {" -> ".join(config.name for config in circle)}')
    if not this.is_file():
        raise FileNotFoundError(
            f'{inherited_by[-1]} inherits from {path}, which does not exist{nearest_path(path)}'
        )
    for base in Config._get_base_files(str(this)):
        if isinstance(base, str):
            check_bases(Config._get_cfg_path(base, str(this))[0], (*inherited_by, this))
