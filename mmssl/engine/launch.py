"""Adapt a loaded config to a run: its data, its work directory, this machine, and the hooks that guard it."""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from mmssl.config import check
from mmssl.config.check import LOADERS
from mmssl.engine.rank_watch import DEFAULT_TIMEOUT, LOCAL_RANK_VARIABLES, RANK_VARIABLES

DEMO_DATA = 'data/demo'
# names that have moved since 0.1: old name -> new module
_MOVED = {
    'load_config': 'mmssl.config.load',
    'find_config': 'mmssl.config.load',
    'check_settings': 'mmssl.config.check',
}
# toolbox -> the system whose import patches it
_SYSTEMS = {'mmdet': 'mmssl.detection', 'mmseg': 'mmssl.segmentation'}
GUARDS = ('mmssl.NonFiniteHook', 'mmssl.BadFilesHook', 'mmssl.SanityHook')


def prepare(cfg: Any, args: argparse.Namespace, name: str) -> list[str]:
    """Apply what every run shares: data, work directory, launcher, checkpoint hook and guards.

    Args:
        cfg: The config, which is changed.
        args: Arguments of :func:`mmssl.commands.arguments.add_common_arguments`.
        name: Path or name of the config; the default work directory is named after it.

    Returns:
        What was added to the config without being asked for, in a few words each.

    Raises:
        FileNotFoundError, ValueError, TypeError: See :func:`use_data` and
            :func:`mmssl.config.check.check_settings`.
    """
    _name_rank(args.launcher)
    check.check_settings(cfg)
    apply_toolbox_patches(cfg)
    if args.data:
        use_data(cfg, args.data)
    make_missing_demo_data(cfg)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = os.path.join('work_dirs', Path(name).stem)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return _run_without_gpu(cfg) + _set_timeout(cfg) + _use_whole_checkpoints(cfg) + _add_guards(cfg)


def _name_rank(launcher: str) -> None:
    """Set RANK, which torchrun sets, where Slurm or MPI has another variable; mmengine does so too late."""
    variable = RANK_VARIABLES.get(launcher, '')
    if variable in os.environ:
        os.environ.setdefault('RANK', os.environ[variable])


def device_settings(launcher: str, backend: str) -> dict[str, Any]:
    """Return the arguments that bind a process group to the GPU of this rank.

    NCCL then makes its connections at once and for the right device, also before the first tensor is sent.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        backend: Backend of the process group.

    Returns:
        ``device_id`` for ``torch.distributed.init_process_group``, nothing without NCCL or a GPU.
    """
    import torch

    local_rank = os.environ.get(LOCAL_RANK_VARIABLES.get(launcher, ''))
    if backend != 'nccl' or local_rank is None or not torch.cuda.is_available():
        return {}
    return {'device_id': torch.device('cuda', int(local_rank))}


def apply_toolbox_patches(cfg: Any) -> None:
    """Import the system for the config's toolbox, which patches it, also if the config uses none of it."""
    from mmssl.registry import installed

    toolbox = cfg.get('default_scope')
    if toolbox in _SYSTEMS and installed(toolbox):
        importlib.import_module(_SYSTEMS[toolbox])


def _run_without_gpu(cfg: Any) -> list[str]:
    """Turn off what needs a GPU where there is none."""
    import torch

    if torch.cuda.is_available():
        return []
    for loader in filter(None, (cfg.get(name) for name in LOADERS)):
        loader['pin_memory'] = False
    added = ['pin_memory=False']
    distributed = cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})
    if distributed.get('backend', 'nccl') == 'nccl':
        distributed['backend'] = 'gloo'
        added.append("backend='gloo'")
    return [f'{setting} (no GPU)' for setting in added]


def _set_timeout(cfg: Any) -> list[str]:
    """Limit the time that ranks wait for each other; torch waits for up to half an hour without a GPU."""
    if cfg.launcher == 'none':
        return []
    distributed = cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})
    timeout = distributed.get('timeout')
    if timeout is None:
        distributed['timeout'] = DEFAULT_TIMEOUT
        return [f'env_cfg.dist_cfg.timeout={DEFAULT_TIMEOUT}']
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ValueError(
            f'env_cfg.dist_cfg.timeout={timeout!r} must be a number of seconds above 0, such as 600'
        )
    return []


def _use_whole_checkpoints(cfg: Any) -> list[str]:
    """Replace mmengine's CheckpointHook by the one that writes complete files and exact resume points."""
    checkpoint = cfg.setdefault('default_hooks', {}).setdefault('checkpoint', {'type': 'CheckpointHook'})
    if not checkpoint or checkpoint.get('type') not in ('CheckpointHook', 'mmengine.CheckpointHook'):
        return []
    checkpoint['type'] = 'mmssl.CheckpointHook'
    return ['mmssl.CheckpointHook']


def _add_guards(cfg: Any) -> list[str]:
    """Append the hooks that watch a run, except those that the config has already."""
    hooks = list(cfg.setdefault('custom_hooks', None) or [])
    present = [hook.get('type') for hook in hooks]
    guards = (*GUARDS, 'mmssl.ProgressHook') if sys.stderr.isatty() else GUARDS
    added = [guard for guard in guards if guard not in present]
    cfg.custom_hooks = hooks + [{'type': guard} for guard in added]
    return added


def datasets_of(cfg: Any) -> list[dict]:
    """Return every dataset dict of a config that has a ``data_root``, also those inside wrappers."""
    pending = [cfg[name] for name in LOADERS if cfg.get(name)]
    datasets = []
    while pending:
        node = pending.pop()
        if 'data_root' in node:
            datasets.append(node)
        inner = node.get('datasets') or node.get('dataset') or []
        pending += inner if isinstance(inner, list) else [inner]
    return datasets


def use_data(cfg: Any, data: str) -> None:
    """Point a config at another folder.

    Every path below the ``data_root`` of a dataset moves along, so that annotation files of evaluators and
    data of hooks follow.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The config has no dataset with a ``data_root``.
    """
    from mmssl.data.listed import check_sources

    check_sources(data)
    datasets = datasets_of(cfg)
    if not datasets:
        raise ValueError(f'--data: {cfg.filename} has no dataset with a data_root')
    roots = sorted({str(dataset['data_root']).rstrip('/') for dataset in datasets}, key=len, reverse=True)
    new_root = str(data).rstrip('/')
    for key in list(cfg):
        cfg[key] = _move_paths(cfg[key], roots, new_root)
    for dataset in datasets_of(cfg):
        dataset['data_root'] = new_root


def _move_paths(node: Any, roots: list[str], new_root: str) -> Any:
    """Replace the first of ``roots`` that a string begins with, in nested dicts and lists."""
    if isinstance(node, str):
        for root in roots:
            if root and (node == root or node.startswith(f'{root}/')):
                return new_root + node[len(root) :]
        return node
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _move_paths(value, roots, new_root)
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_move_paths(value, roots, new_root) for value in node)
    return node


def make_missing_demo_data(cfg: Any) -> None:
    """Generate ``data/demo`` if a config reads it and it does not exist yet (smoke configs, tutorials)."""
    roots = [
        dataset['data_root']
        for dataset in datasets_of(cfg)
        if f'{dataset["data_root"]}/'.startswith(f'{DEMO_DATA}/')
    ]
    if all(os.path.exists(root) for root in roots):
        return
    if int(os.environ.get('RANK', 0)) == 0:
        from mmssl.data.demo import make_demo_data

        make_demo_data(DEMO_DATA)
    deadline = time.monotonic() + 300
    while not all(os.path.exists(root) for root in roots):  # the other ranks wait for the first one
        if time.monotonic() > deadline:
            raise FileNotFoundError(f'{roots} is not part of the demo data; see `mmssl demo-data --help`')
        time.sleep(0.2)


def leave_process_group() -> None:
    """Wait for all ranks, then close the connections of a distributed run before Python ends.

    A DistributedDataParallel that is collected holds Python's lock while it waits for gloo's threads, which
    need that lock to release the last tensors: a deadlock, unless the threads have released them before. The
    short sleep lets them.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        time.sleep(0.05)
        torch.distributed.destroy_process_group()


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmssl.errors import warn_renamed

    warn_renamed(f'{__name__}.{name}', f'{_MOVED[name]}.{name}')
    return getattr(importlib.import_module(_MOVED[name]), name)
