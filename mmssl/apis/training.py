"""Training of a config, as ``mmssl train`` and ``mmssl finetune`` do it."""

import argparse
import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmssl.engine.work_dir import WorkDirTransaction

OPTIM_WRAPPERS = ('OptimWrapper', 'AmpOptimWrapper', 'mmssl.AmpOptimWrapper')
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DEFAULTS = dict(
    data=None,
    work_dir=None,
    cfg_options=(),
    launcher='none',
    local_rank=0,
    trust_checkpoint=False,
    resume=None,
    amp=None,
    compile=False,
    auto_scale_lr=False,
    epochs=None,
    iters=None,
    no_validate=False,
    force=False,
)


def training_arguments(config: str, **options: Any) -> argparse.Namespace:
    """Return the arguments of ``mmssl train CONFIG`` with some of its options set."""
    return argparse.Namespace(**{'config': config, **_DEFAULTS, **options})


def train(args: argparse.Namespace) -> None:
    """Train a config as ``mmssl train`` does.

    Args:
        args: Its arguments; :func:`training_arguments` gives them their defaults.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: Config and data do not fit; no files are left
            behind.
        TrainingError: The run failed after its first step; checkpoints and logs are kept.
    """
    from mmssl.checkpoint import trusted
    from mmssl.config.check import check_nested_settings
    from mmssl.config.load import load_config
    from mmssl.engine.launch import prepare
    from mmssl.engine.signals import watched_signals
    from mmssl.engine.work_dir import silent_log_errors, work_dir_transaction
    from mmssl.engine.work_dir_lock import work_dir_lock

    with watched_signals(args.launcher != 'none'), silent_log_errors():
        cfg = load_config(args.config, args.cfg_options)
        check_nested_settings(cfg)
        _forget_visualizer(cfg)
        added = prepare(cfg, args, args.config)
        _apply_options(cfg, args)
        with trusted(args.trust_checkpoint), work_dir_transaction(cfg.work_dir) as transaction:
            try:
                with work_dir_lock(cfg.work_dir, args.launcher, args.force):
                    _train(cfg, args, added, transaction)
            except Exception as error:
                _raise_explained(error, cfg, args, transaction)


def _forget_visualizer(cfg: Any) -> None:
    """Forget the visualizer of an earlier run in this process.

    mmengine returns visualizers by their names, with the folder of the first run.
    """
    from mmengine.visualization import Visualizer

    name = (cfg.get('visualizer') or {}).get('name')
    pending: list[Any] = [Visualizer]
    while pending:
        visualizer = pending.pop()
        visualizer._instance_dict.pop(name, None)
        pending += visualizer.__subclasses__()


def _train(cfg: Any, args: argparse.Namespace, added: list[str], transaction: 'WorkDirTransaction') -> None:
    from mmssl.engine.compiling import compile_model
    from mmssl.engine.launch import leave_process_group
    from mmssl.engine.runner import runner_class
    from mmssl.engine.signals import StopSignal, write_stderr

    try:
        runner = runner_class(cfg).from_cfg(cfg)
        transaction.runner = runner
        if added:
            runner.logger.info(f'mmssl added: {", ".join(added)}')
        if args.compile:
            runner.logger.info(f'torch.compile: {compile_model(runner.model)}')
        runner.train()
        leave_process_group()
    except StopSignal as stop:
        if not transaction.started:
            write_stderr(f'mmssl train: stopped by {stop.name} before its first step: nothing to save')
        raise


def _raise_explained(
    error: Exception, cfg: Any, args: argparse.Namespace, transaction: 'WorkDirTransaction'
) -> None:
    """Raise an error of the run again, with what the user can do about it."""
    from mmssl.config.error_text import explain, explained_error
    from mmssl.engine.work_dir import write_traceback
    from mmssl.errors import TrainingError

    if isinstance(error, (OSError, ImportError)):
        hinted = _with_hint(error, cfg, args)
        if hinted is error:
            raise error
        raise hinted from error
    if getattr(error, 'keeps_work_dir', False):
        raise error
    if not transaction.started:
        raise explained_error(error) from error
    runner = transaction.runner
    path = write_traceback(error, runner.log_dir)
    hint = f' (traceback in {path})' if path else ''
    raise TrainingError(f'training failed at iteration {runner.iter}: {explain(error)}{hint}') from error


def _with_hint(error: OSError | ImportError, cfg: Any, args: argparse.Namespace) -> OSError | ImportError:
    """Return a missing file or a failed write with its likely reason; any other error as it is."""
    from mmssl.engine.launch import datasets_of

    if isinstance(error, FileNotFoundError):
        roots = [str(dataset['data_root']) for dataset in datasets_of(cfg)]
        if not args.data and any(root in str(error) for root in roots):
            return FileNotFoundError(f'{error}; --data DIR points the config at your own folder')
        return error
    if isinstance(error, ImportError) or error.errno not in DISK_ERRORS:
        return error
    if error.filename is not None or cfg.work_dir in str(error):
        return error
    reason = f'{error.strerror}, while writing to the work directory {cfg.work_dir}'
    return OSError(error.errno, reason)


def _apply_options(cfg: Any, args: argparse.Namespace) -> None:
    """Apply the options of the command to the config."""
    from mmssl.config.length import set_training_length

    set_training_length(cfg, args.epochs, args.iters)
    if args.no_validate:
        cfg.val_cfg = None
        cfg.val_dataloader = None
        cfg.val_evaluator = None
    if args.amp:
        cfg.optim_wrapper = _amp_wrapper(cfg.optim_wrapper, args.amp)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                f'--auto-scale-lr: {args.config} does not state the batch size of its learning rate; '
                'add auto_scale_lr = dict(base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    _apply_resume(cfg, args.resume)


def _amp_wrapper(wrapper: dict, dtype: str) -> dict:
    """Return the settings of an optimizer wrapper for mixed precision."""
    if wrapper.get('type', 'OptimWrapper') not in OPTIM_WRAPPERS:
        raise ValueError(
            f'--amp does not support the optim_wrapper {wrapper["type"]!r}; set its precision in the config'
        )
    settings = {key: value for key, value in wrapper.items() if key != 'loss_scale'}
    return {**settings, 'type': 'mmssl.AmpOptimWrapper', 'dtype': dtype}


def _begin_or_resume(cfg: Any, checkpoint: Any) -> None:
    """Resume from the newest checkpoint; a run that has none begins, with the weights of ``load_from``."""
    from mmengine.logging import print_log

    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, None
        return
    cfg.resume = False
    begin = f'from the weights of {cfg.load_from}' if cfg.get('load_from') else 'from its initial weights'
    if os.environ.get('RANK', '0') == '0':
        print_log(f'no checkpoint in {cfg.work_dir} to resume from: the run begins {begin}', logger=None)


def _apply_resume(cfg: Any, resume: str | None) -> None:
    """Set the checkpoint to resume from, and the seed of its run, which samplers need before it is loaded."""
    from mmssl.checkpoint import find_resume_checkpoint, seed_from_checkpoint

    checkpoint = None
    if resume == 'auto' or (resume is None and cfg.get('resume') and not cfg.get('load_from')):
        checkpoint = find_resume_checkpoint(cfg.work_dir, quiet=True)
        _begin_or_resume(cfg, checkpoint)
    elif resume:
        cfg.resume = True
        cfg.load_from = resume
        checkpoint = resume
    seed = seed_from_checkpoint(checkpoint) if checkpoint else None
    if seed is not None:
        cfg.setdefault('randomness', {})['seed'] = seed
