"""From a config file and command-line arguments to a Runner, for ``mmssl train`` and ``mmssl test`` alike."""

import argparse
import contextlib
import difflib
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmssl.config.paths import config_root
from mmssl.errors import UserError
from mmssl.hints import explain, nearest, nearest_path

DEMO_DATA = 'data/demo'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# what a run of mmengine reads, and mmssl beside it; a config may have names of its own too
SETTINGS = (
    'model',
    *LOADERS,
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'auto_scale_lr',
    'optim_wrapper',
    'param_scheduler',
    'val_evaluator',
    'test_evaluator',
    'default_hooks',
    'custom_hooks',
    'data_preprocessor',
    'load_from',
    'resume',
    'launcher',
    'env_cfg',
    'log_processor',
    'log_level',
    'visualizer',
    'vis_backends',
    'default_scope',
    'randomness',
    'experiment_name',
    'runner_type',
    'work_dir',
    'strategy',
    'tta_model',
    'custom_imports',
    'sync_bn',
    'model_wrapper_cfg',
    'compile',
    'cfg',
)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument(
        '--data', metavar='DIR', help='use this folder (or archive) in place of the data of the config'
    )
    parser.add_argument(
        '--work-dir', metavar='DIR', help='where logs and checkpoints go; work_dirs/<config> by default'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings, e.g. train_dataloader.batch_size=8',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher'
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold pickled code; they can do anything on this machine',
    )


def find_config(name: str) -> Path:
    """A config by path, or by its name below the configs that mmssl ships (with or without ``mmssl::`` and ``.py``).

    Raises:
        FileNotFoundError: neither; names the nearest one.
    """
    name = name.removeprefix('mmssl::')
    below = name.removeprefix('configs/')
    for candidate in (Path(name), config_root() / below, config_root() / f'{below}.py'):
        if candidate.is_file():
            return candidate
    shipped = [path.relative_to(config_root()).as_posix() for path in config_root().rglob('*.py')]
    by_stem = [path for path in shipped if Path(path).stem == Path(name).stem]
    raise FileNotFoundError(
        f'config {name} does not exist'
        + (f'; did you mean {by_stem[0]!r}?' if by_stem else nearest(below, shipped) or nearest_path(name))
    )


def load_config(name: str, options: Sequence[str] = ()):
    """Read a config and merge ``key=value`` options into it.

    Raises:
        FileNotFoundError: no such config, or one that it inherits from.
        ValueError: the file cannot be read as a config, or inherits from itself; an option without '=', with
            brackets that do not match, or whose first key is nearly one of the config's.
    """
    from mmengine.config import Config, DictAction

    from mmssl.hosts import compat

    compat.patch()
    path = find_config(name)
    try:
        check_bases(path)
        cfg = Config.fromfile(path)
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # a config is a program, which may fail in any way
        raise ValueError(f'{path} cannot be read as a config: {explain(error)}') from error
    overrides = {}
    for option in options or ():
        key, equals, value = option.partition('=')
        if not equals:
            raise ValueError(f'--cfg-options takes KEY=VALUE, not {option!r}')
        top = key.split('.')[0]
        if top not in cfg and nearest(top, cfg):
            raise ValueError(f'--cfg-options {option}: the config has no {top!r}' + nearest(top, cfg))
        try:
            overrides[key] = DictAction._parse_iterable(value)
        except AssertionError as error:
            raise ValueError(f'--cfg-options {option}: {error}') from None
    try:
        cfg.merge_from_dict(overrides)
    except (TypeError, KeyError, AttributeError, IndexError, AssertionError) as error:
        raise ValueError(f'--cfg-options {" ".join(options)} do not fit {path}: {explain(error)}') from error
    return cfg


def check_bases(path: str | os.PathLike, below: tuple[Path, ...] = ()) -> None:
    """Follow ``_base_`` through all files: mmengine does so for ever where a config inherits from itself.

    Args:
        path: a config.
        below: the configs that led to it.

    Raises:
        FileNotFoundError: a base that does not exist; names the config that wants it.
        ValueError: a circle; names all its files.
    """
    from mmengine.config import Config

    here = Path(os.path.abspath(path))
    if here in below:
        raise ValueError(
            f'{here} inherits from itself: {" -> ".join(other.name for other in (*below[below.index(here) :], here))}'
        )
    if not here.is_file():
        raise FileNotFoundError(f'{below[-1]} inherits from {path}, which does not exist{nearest_path(path)}')
    for base in Config._get_base_files(str(here)):
        if isinstance(base, str):
            check_bases(Config._get_cfg_path(base, str(here))[0], (*below, here))


def datasets_of(cfg) -> list[dict]:
    """Every dataset dict of a config that has a ``data_root``, inside wrappers too."""
    todo = [cfg[name] for name in LOADERS if cfg.get(name)]
    found = []
    while todo:
        node = todo.pop()
        if 'data_root' in node:
            found.append(node)
        inner = node.get('datasets') or node.get('dataset') or []
        todo += inner if isinstance(inner, list) else [inner]
    return found


def use_data(cfg, data: str) -> None:
    """Point a config at another folder: every path below the ``data_root`` of one of its datasets moves along (annotation files of
    evaluators and data of hooks too).

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the config has no dataset with a ``data_root``.
    """
    if not os.path.exists(data):
        raise FileNotFoundError(f'--data {data} does not exist{nearest_path(data)}')
    datasets = datasets_of(cfg)
    if not datasets:
        raise ValueError(f'--data: {cfg.filename} has no dataset with a data_root')
    roots = sorted({str(dataset['data_root']).rstrip('/') for dataset in datasets}, key=len, reverse=True)
    new = str(data).rstrip('/')

    def move(node):
        if isinstance(node, str):
            for root in roots:
                if root and (node == root or node.startswith(f'{root}/')):
                    return new + node[len(root) :]
            return node
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = move(value)
            return node
        if isinstance(node, (list, tuple)):
            return type(node)(move(value) for value in node)
        return node

    for key in list(cfg):
        cfg[key] = move(cfg[key])
    for dataset in datasets_of(cfg):
        dataset['data_root'] = new


def check_settings(cfg) -> None:
    """Look at the outermost names of a config, of which mmengine leaves an unknown one unread.

    Raises:
        ValueError: a name that is nearly one of mmengine's, which is missing; or no model.
        TypeError: a setting that has to be a dict and is not.
    """
    for key in cfg:
        near = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.85)
        if key not in SETTINGS and near and near[0] not in cfg:
            raise ValueError(f'{cfg.filename}: nothing reads {key!r}; did you mean {near[0]!r}?')
    if 'model' not in cfg:
        raise ValueError(f"{cfg.filename} has no 'model'{nearest('model', cfg)}")
    for key in (
        'model',
        *LOADERS,
        'default_hooks',
        'env_cfg',
        'optim_wrapper',
        'auto_scale_lr',
        'randomness',
    ):
        value = cfg.get(key)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f'{cfg.filename}: {key} = {value!r} has to be a dict')
        inner = value.get('dataset', {}) if key in LOADERS and value else {}
        if not isinstance(inner, dict):
            raise TypeError(f'{cfg.filename}: {key}.dataset = {inner!r} has to be a dict')
    hooks = cfg.get('custom_hooks')
    if hooks and not (isinstance(hooks, (list, tuple)) and all(isinstance(hook, dict) for hook in hooks)):
        raise TypeError(f'{cfg.filename}: custom_hooks = {hooks!r} has to be a list of dicts')


def prepare(cfg, args, name: str) -> None:
    """Settings that every run shares: data, work directory, launcher, our checkpoint hook and guards; see also :func:`check_settings`."""
    import torch

    check_settings(cfg)
    if args.data:
        use_data(cfg, args.data)
    make_demo_data_if_asked(cfg)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = os.path.join('work_dirs', Path(name).stem)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not torch.cuda.is_available():
        for loader in filter(None, (cfg.get(name) for name in LOADERS)):
            loader['pin_memory'] = False
    env = cfg.setdefault('env_cfg', {})
    if not torch.cuda.is_available() and env.setdefault('dist_cfg', {}).get('backend', 'nccl') == 'nccl':
        env['dist_cfg']['backend'] = 'gloo'
    checkpoint = cfg.setdefault('default_hooks', {}).setdefault('checkpoint', {'type': 'CheckpointHook'})
    if checkpoint and checkpoint.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook'):
        checkpoint['type'] = 'mmssl.CheckpointHook'
    hooks = cfg.setdefault('custom_hooks', None) or []
    guards = ['mmssl.NonFiniteHook', 'mmssl.BadFilesHook', 'mmssl.SanityHook'] + [
        'mmssl.ProgressHook'
    ] * sys.stderr.isatty()
    cfg.custom_hooks = list(hooks) + [
        {'type': guard} for guard in guards if guard not in [hook.get('type') for hook in hooks]
    ]


def make_demo_data_if_asked(cfg) -> None:
    """Generate ``data/demo`` where a config reads it and it is not there yet (smoke configs, tutorials)."""
    wanted = [
        dataset['data_root']
        for dataset in datasets_of(cfg)
        if f'{dataset["data_root"]}/'.startswith(f'{DEMO_DATA}/')
    ]
    if all(os.path.exists(root) for root in wanted):
        return
    if int(os.environ.get('RANK', 0)) == 0:
        from mmssl.data.demo import make_demo_data

        make_demo_data(DEMO_DATA)
    deadline = time.monotonic() + 300
    while not all(os.path.exists(root) for root in wanted):  # the other ranks wait for the first one
        if time.monotonic() > deadline:
            raise FileNotFoundError(f'{wanted} is not part of the demo data; see `mmssl demo-data --help`')
        time.sleep(0.2)


@contextlib.contextmanager
def whole_work_dir(work_dir: str) -> Iterator[list]:
    """Leave no half-made work directory: what a run made is removed again when it fails before its first step is done.

    Yields:
        a list to put the runner into, as soon as there is one.
    """
    root = Path(work_dir).absolute()
    made = [path for path in (root, *root.parents) if not path.exists()]
    before = set(root.iterdir()) if root.is_dir() else set()
    runners: list = []
    try:
        yield runners
    except BaseException as error:
        runner = runners[0] if runners else None
        started = runner is not None and (
            getattr(runner, 'started', False) or runner.rank > 0 or getattr(error, 'keeps_work_dir', False)
        )
        if not started and int(os.environ.get('RANK', 0)) == 0:
            _close_logs_below(root)
            if made:
                shutil.rmtree(root, ignore_errors=True)
                with contextlib.suppress(OSError):
                    for parent in made[1:]:
                        parent.rmdir()
            else:
                for entry in set(root.iterdir()) - before:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise


def _close_logs_below(root: Path) -> None:
    """Take the log files of a run out of mmengine's loggers: they go, and the loggers may be used again."""
    from mmengine.logging import MMLogger

    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(root):
                with contextlib.suppress(OSError):  # a full disk
                    handler.close()
                logger.removeHandler(handler)


def leave_process_group() -> None:
    """End a distributed run in order: no rank goes while another still talks to it, and the connections are closed before Python ends.

    Threads of gloo take Python's lock to let go of the last tensors. A DistributedDataParallel that is
    collected afterwards holds that lock while it waits for these threads, for ever if they have not had it
    yet; so they get the time.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        time.sleep(0.05)
        torch.distributed.destroy_process_group()


def describe(error: Exception) -> Exception:
    """An error of a run that has not begun, in words for a person: the nearest right name, the part that was being built.

    Returns:
        the same kind of error; a ValueError for those that say nothing about the config by themselves
        (assertions, missing attributes).
    """
    if isinstance(error, UserError):
        return error
    kind = type(error) if type(error) in (TypeError, KeyError, ValueError) else ValueError
    text = explain(error)
    return error if text == str(error) and kind is type(error) else kind(text)


def keep_traceback(error: Exception, folder: str | os.PathLike) -> Path | None:
    """Write the traceback of a run that failed beside its log; returns the file, None where it cannot be written."""
    path = Path(folder) / f'error_rank{os.environ.get("RANK", 0)}.txt'
    try:
        path.write_text(''.join(traceback.format_exception(error)), encoding='utf-8')
    except OSError:
        return None
    return path
