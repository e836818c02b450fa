"""Parts d and f: whole runs of ``mmssl train``, distributed, killed, resumed, and resumed exactly."""

import importlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from gpu_checks.check import Check, OutOfTimeError
from mmssl.checkpoint import load_file

CONFIG = 'smoke/mae.py'
FSDP = ('runner_type=FlexibleRunner', 'strategy.type=mmssl.FSDPStrategy')
INTERVAL = 5


def check_distributed(check: Check) -> None:
    """Part d: train with DDP and with FSDP, kill the run after its first checkpoint, and resume it."""
    ranks = 2 if check.cuda and torch.cuda.device_count() > 1 else 1
    backend = 'NCCL' if check.cuda else 'gloo'
    devices = f'{ranks} rank{"s" if ranks > 1 else ""}'
    if not check.quick:
        check.run(f'DDP, {backend}, {devices}', _kill_and_resume, f'DDP, {backend}, {devices}', ranks, ())
    check.run(f'FSDP, {backend}, {devices}', _kill_and_resume, f'FSDP, {backend}, {devices}', ranks, FSDP)


def _kill_and_resume(check: Check, name: str, ranks: int, options: tuple[str, ...]) -> None:
    work_dir = Path('runs', name.split(',')[0])
    shutil.rmtree(work_dir, ignore_errors=True)

    def has_checkpoint() -> bool:
        return (work_dir / 'last_checkpoint').exists()

    start = time.monotonic()
    train(check, work_dir, ranks, [*options, *steps(10**6)], kill_when=has_checkpoint)
    saved = last_iteration(work_dir)
    train(check, work_dir, ranks, [*options, *steps(saved + INTERVAL)], resume=True)
    reached = last_iteration(work_dir)
    state = load_file(work_dir / f'iter_{reached}.pth')
    finite = all(bool(value.float().isfinite().all()) for value in state['state_dict'].values())
    check.add(
        name,
        finite and reached == saved + INTERVAL and state['meta']['iter'] == reached,
        killed_after=saved,
        resumed_to=reached,
        seconds=time.monotonic() - start,
    )


def check_exact_resume(check: Check) -> None:
    """Part f: a run that is resumed in the middle ends with the bits of an uninterrupted one."""
    for config in (CONFIG,) if check.quick else (CONFIG, 'smoke/moco.py', 'smoke/dino.py', 'smoke/sam.py'):
        check.run(config, _resume_exactly, config)


def _resume_exactly(check: Check, config: str) -> None:
    name = Path(config).stem
    whole, resumed = Path('runs', f'{name}-whole'), Path('runs', f'{name}-resumed')
    for folder in (whole, resumed):
        shutil.rmtree(folder, ignore_errors=True)
    options = [*steps(2 * INTERVAL), 'randomness.deterministic=True', 'randomness.seed=0']
    train(check, whole, 0, options, config=config)
    resumed.mkdir(parents=True)
    shutil.copy(whole / f'iter_{INTERVAL}.pth', resumed)
    (resumed / 'last_checkpoint').write_text(str((resumed / f'iter_{INTERVAL}.pth').resolve()))
    train(check, resumed, 0, options, config=config, resume=True)
    states = [load_file(folder / f'iter_{2 * INTERVAL}.pth')['state_dict'] for folder in (whole, resumed)]
    different = [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    check.add(config, not different, tensors=len(states[0]), different=len(different))


def steps(count: int) -> list[str]:
    """Return the options of a run of so many iterations, with a checkpoint every ``INTERVAL``."""
    return [
        f'train_cfg.max_iters={count}',
        'default_hooks.checkpoint.by_epoch=False',
        f'default_hooks.checkpoint.interval={INTERVAL}',
        'default_hooks.checkpoint.max_keep_ckpts=3',
    ]


def last_iteration(work_dir: Path) -> int:
    """Return the iteration of the newest checkpoint."""
    return int(Path((work_dir / 'last_checkpoint').read_text().strip()).stem.rpartition('_')[2])


def train(
    check: Check,
    work_dir: Path,
    ranks: int,
    options: list[str],
    config: str = CONFIG,
    resume: bool = False,
    kill_when: Callable[[], bool] | None = None,
) -> None:
    """Run ``mmssl train`` in processes of its own.

    Args:
        check: The part.
        work_dir: Work directory.
        ranks: Number of processes of a distributed run; 0 for a run that is not distributed.
        options: Values of ``--cfg-options``.
        config: The config.
        resume: Resume the run in the work directory.
        kill_when: Kill all processes as soon as this returns True.

    Raises:
        OutOfTimeError: The time of the part is used up.
        RuntimeError: A process failed.
    """
    command = ['train', config, '--work-dir', str(work_dir), '--no-validate', *['--resume'] * resume]
    command += ['--launcher', 'pytorch'] if ranks else []
    command += ['--cfg-options', *options]
    check.require_time(1)
    context = start_method(check)
    port = free_port()
    processes = [
        context.Process(target=_train_rank, args=(command, rank, ranks, port, f'{work_dir}.log'))
        for rank in range(max(ranks, 1))
    ]
    Path(work_dir).parent.mkdir(parents=True, exist_ok=True)
    for process in processes:
        process.start()
    try:
        _wait(check, processes, kill_when)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if kill_when is None and any(process.exitcode for process in processes):
        lines = Path(f'{work_dir}.log').read_text(errors='replace').strip().splitlines()
        raise RuntimeError(next((line for line in reversed(lines) if 'error' in line), 'a process failed'))


def start_method(check: Check) -> Any:
    """Return how processes start: as forks with all imports done, which CUDA would not survive."""
    if check.cuda:
        return multiprocessing.get_context('spawn')
    from mmssl.registry import MODELS

    importlib.import_module('mmssl.engine.runner')
    MODELS.import_from_location()
    return multiprocessing.get_context('fork')


def _wait(check: Check, processes: list, kill_when: Callable[[], bool] | None) -> None:
    """Wait until all processes have ended, one has failed, or it is time to kill them."""
    while any(process.is_alive() for process in processes):
        if kill_when is not None and kill_when():
            return
        if any(process.exitcode for process in processes):
            return
        if check.seconds_left < 0:
            raise OutOfTimeError
        time.sleep(0.02)
    if kill_when is not None:
        raise RuntimeError('the run ended before its first checkpoint')


def _train_rank(command: list[str], rank: int, ranks: int, port: int, log: str) -> None:
    """Run one rank of a command, with its output in a file."""
    with open(log, 'a') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    if '--launcher' in command:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    from mmssl.cli import main

    status = main(command)
    os._exit(status)


def free_port() -> int:
    """Return a port of this machine that nothing uses."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]
