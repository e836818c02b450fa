"""``mmssl train``: train any config of mmssl or of a host toolbox."""

import argparse
import errno
import logging

HELP = 'train a config: pre-training, fine-tuning, detection, segmentation'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from mmssl.engine.launch import add_common_arguments

    parser.add_argument('config', help='path of a config, or its name below configs/')
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from this checkpoint, or from the newest whole one in the work directory',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='mixed precision: bfloat16 (the default, CPU and GPU) or float16 (GPU)',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the model with torch.compile (transformers block by block)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the real batch size, linearly',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: something in the config or the data does not fit;
            nothing is left behind.
    """
    from mmssl.engine.signals import watched_signals

    logging.raiseExceptions = (
        False  # a full disk is told by the next save, not by a traceback for every line of the log
    )
    with watched_signals():
        _train(args)


def _train(args: argparse.Namespace) -> None:
    from mmssl.checkpoint import trusted
    from mmssl.config.check import check_kinds
    from mmssl.config.error_text import explain
    from mmssl.engine import launch
    from mmssl.engine.launch import describe, leave_process_group, whole_work_dir
    from mmssl.engine.signals import Stop, tell
    from mmssl.errors import TrainingError

    cfg = launch.load_config(args.config, args.cfg_options)
    check_kinds(cfg)
    launch.prepare(cfg, args, args.config)
    _apply(cfg, args)
    with trusted(args.trust_checkpoint), whole_work_dir(cfg.work_dir) as runners:
        from mmssl.engine.runner import runner_class

        try:
            runner = runner_class(cfg).from_cfg(cfg)
            runners.append(runner)
            if args.compile:
                _compile(runner)
            runner.train()
            leave_process_group()
        except Stop as stop:
            if not (runners and runners[0].started):
                tell(f'mmssl train: stopped by {stop.name} before its first step: nothing to save')
            raise
        except FileNotFoundError as error:
            roots = [str(dataset['data_root']) for dataset in launch.datasets_of(cfg)]
            if args.data or not any(root in str(error) for root in roots):
                raise
            raise FileNotFoundError(f'{error}; --data DIR points the config at your own folder') from error

        except OSError as error:
            if (
                error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
                and error.filename is None
                and cfg.work_dir not in str(error)
            ):
                raise OSError(
                    error.errno, f'{error.strerror}, while writing to the work directory {cfg.work_dir}'
                ) from error
            raise
        except ImportError:
            raise
        except Exception as error:
            if getattr(error, 'keeps_work_dir', False):
                raise
            if not (runners and runners[0].started):
                raise describe(error) from error
            kept = launch.keep_traceback(error, runners[0].log_dir)
            raise TrainingError(
                f'training failed at iteration {runners[0].iter}: {explain(error)}'
                + (f' (traceback in {kept})' if kept else '')
            ) from error


def _apply(cfg, args: argparse.Namespace) -> None:
    from mmssl.checkpoint import find_resume_checkpoint, seed_from_checkpoint

    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        wrapper = cfg.optim_wrapper
        if wrapper.get('type', 'OptimWrapper') not in (
            'OptimWrapper',
            'AmpOptimWrapper',
            'mmssl.AmpOptimWrapper',
        ):
            raise ValueError(
                f'--amp does not know the optim_wrapper {wrapper["type"]!r}; set its precision in the config'
            )
        cfg.optim_wrapper = {
            **{key: value for key, value in wrapper.items() if key != 'loss_scale'},
            'type': 'mmssl.AmpOptimWrapper',
            'dtype': args.amp,
        }
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                f'--auto-scale-lr: {args.config} does not say the batch size of its learning rate; '
                'add auto_scale_lr = dict(base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    resume_from = None
    if args.resume == 'auto' or (args.resume is None and cfg.get('resume') and not cfg.get('load_from')):
        cfg.resume, cfg.load_from = True, None
        resume_from = find_resume_checkpoint(cfg.work_dir, quiet=True)
    elif args.resume:
        cfg.resume, cfg.load_from = True, args.resume
        resume_from = args.resume
    if (
        resume_from
    ):  # samplers are built before the checkpoint is read, and need the seed of the run that goes on
        seed = seed_from_checkpoint(resume_from)
        if seed is not None:
            cfg.setdefault('randomness', {})['seed'] = seed


def _compile(runner) -> None:
    from mmssl.layers.transformer import TransformerBlock

    blocks = [module for module in runner.model.modules() if isinstance(module, TransformerBlock)]
    for block in blocks:
        block.compile()
    if not blocks:
        runner.cfg['compile'] = True  # mmengine's own, the whole training step
    runner.logger.info(
        f'torch.compile: {len(blocks)} transformer blocks' if blocks else 'torch.compile: the training step'
    )
