"""Kills, signals and full disks: mmengine's Runner and ours, in real processes.

    python tools/trials/processes.py --kills 50 --output docs/trials/processes.md

Both train the same small network on the same images from the same config; only the runner and the hook that
saves checkpoints differ.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)

import mmengine  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import DATASETS, HOOKS, MODELS  # noqa: E402
from mmengine.runner import Runner as MMEngineRunner  # noqa: E402
from mmengine.structures import BaseDataElement  # noqa: E402
from torch import nn  # noqa: E402

RUNNERS = ('mmengine', 'mmssl')


@DATASETS.register_module(force=True)
class NoiseImages(torch.utils.data.Dataset):
    """Noise with a random factor per sample, as an augmentation would draw it."""

    def __init__(self, root: str):
        self.root = root
        self.metainfo = dict(classes=('a', 'b'))

    def get_data_info(self, index: int) -> dict:
        """Return the name of a sample's file."""
        return dict(img_path=f'{self.root}/{index:03d}.png')

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id == 1 and os.path.exists(f'{self.root}/kill'):
            os.kill(os.getpid(), signal.SIGKILL)
        noise = np.random.default_rng(index).random((3, 16, 16), dtype=np.float32)
        image = torch.from_numpy(noise) * (0.5 + torch.rand(1))
        return dict(inputs=image, data_samples=BaseDataElement(metainfo=self.get_data_info(index)))


@MODELS.register_module(force=True)
class Net(BaseModel):
    """A network that is large enough for its checkpoint to take a while to write."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(768, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 4)
        )

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """Return a meaningless loss."""
        return dict(loss=(self.net(torch.stack(list(inputs))) - 1).square().mean())


@HOOKS.register_module(force=True)
class Trial(Hook):
    """Write the losses to a file and call ``action(runner)`` after every step."""

    priority = 'LOWEST'
    action: Callable | None = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Write the exact loss."""
        with open(f'{runner.work_dir}.losses', 'a') as file:
            file.write(f'{runner.iter + 1} {float(outputs["loss"].detach()).hex()}\n')
        if Trial.action is not None:
            Trial.action(runner)


def config(
    name: str, work_dir: Path, steps: int = 20, workers: int = 0, interval: int = 10, keep: int = 1
) -> Config:
    """Return the config of a run; those of the two runners differ in one type."""
    hook = 'CheckpointHook' if name == 'mmengine' else 'mmssl.CheckpointHook'
    return Config(
        dict(
            model=dict(type='Net'),
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=False, max_iters=steps),
            train_dataloader=dict(
                dataset=dict(type='NoiseImages', root=str(work_dir.parent)),
                batch_size=4,
                num_workers=workers,
                sampler=dict(type='InfiniteSampler', shuffle=True),
            ),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            randomness=dict(seed=0),
            default_scope='mmengine',
            default_hooks=dict(
                checkpoint=dict(type=hook, by_epoch=False, interval=interval, max_keep_ckpts=keep)
            ),
            custom_hooks=[dict(type='Trial')],
            log_level='ERROR',
            experiment_name=f'{time.monotonic_ns()}',
        )
    )


def fork(function: Callable, output: Path) -> int:
    """Run ``function`` in a forked process whose messages go to a file, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (
            os.fdopen(descriptor, 'w', buffering=1, closefd=False) for descriptor in (1, 2)
        )
        function()
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        print(f'{type(error).__name__}: {error}')
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def status_of(pid: int, limit: float = 90) -> int | str:
    """Return the exit status of a process, negative for a signal; kill it after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 'still running'


def train(
    name: str, work_dir: Path, resume: bool = False, action: Callable | None = None, **settings
) -> None:
    """Train in this process; with our runner, signals are handled as in ``mmssl train``."""
    Trial.action = action
    cfg = config(name, work_dir, **settings)
    cfg.resume = resume
    if name == 'mmengine':
        MMEngineRunner.from_cfg(cfg).train()
        return
    from mmssl.engine.runner import Runner
    from mmssl.engine.signals import watched_signals

    with watched_signals():
        Runner.from_cfg(cfg).train()


def can_resume(name: str, work_dir: Path) -> tuple[bool, str]:
    """Return whether ``resume=True`` finds and loads a checkpoint, and the message if it does not."""
    output = work_dir.with_suffix('.resume')
    pid = fork(lambda: train(name, work_dir, resume=True, steps=0), output)
    if status_of(pid) == 0:
        return True, ''
    lines = output.read_text().strip().splitlines()
    return False, lines[-1][:150] if lines else ''


def losses(work_dir: Path) -> dict[int, str]:
    """Return the last loss of each iteration."""
    path = Path(f'{work_dir}.losses')
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(step): loss for step, loss in map(str.split, lines)}


def kills(name: str, folder: Path, count: int) -> str:
    """Kill a process that writes one checkpoint after the other and keeps the last."""
    from mmssl.checkpoint import load_file
    from mmssl.engine.runner import Runner

    generator = random.Random(0)
    bad = without_checkpoint = 0
    runner = (MMEngineRunner if name == 'mmengine' else Runner).from_cfg(
        config(name, folder / 'start', steps=1, interval=1)
    )
    runner.train()
    hook = next(hook for hook in runner.hooks if 'CheckpointHook' in type(hook).__name__)
    for trial in range(count):
        work_dir = folder / f'kill{trial}'
        work_dir.mkdir()
        runner._work_dir = hook.out_dir = str(work_dir)

        def save(hook=hook):
            hook.keep_ckpt_ids = deque()
            for step in range(1, 10000):
                hook._save_checkpoint_with_step(runner, step, dict(epoch=0, iter=step))

        pid = fork(save, folder / 'kill.txt')
        while not (work_dir / 'last_checkpoint').exists():  # until the first is complete
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        checkpoint = (work_dir / 'last_checkpoint').read_text()
        try:
            if name == 'mmssl':
                from mmssl.checkpoint import find_resume_checkpoint

                checkpoint = find_resume_checkpoint(work_dir)
            load_file(work_dir / os.path.basename(checkpoint), trust=True)
        except (OSError, ValueError, TypeError):
            bad += 1
            without_checkpoint += not any(is_complete(path) for path in work_dir.glob('*.pth'))
        shutil.rmtree(work_dir)
    return (
        f'{bad} of {count} cannot be resumed, {without_checkpoint} of them have no complete checkpoint left'
    )


def is_complete(path: Path) -> bool:
    """Return True if a checkpoint can be read."""
    from mmssl.checkpoint import load_file

    try:
        load_file(path, trust=True)
    except (OSError, ValueError):
        return False
    return True


def full_disk(name: str, folder: Path) -> str:
    """Limit the size of files from the second save on, as a full disk does."""

    def full(runner):
        if runner.iter + 1 == 10:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    status = status_of(fork(lambda: train(name, folder / 'run', action=full), folder / 'full.txt'))
    message = (folder / 'full.txt').read_text().strip().splitlines()[-1:]
    resumed, reason = can_resume(name, folder / 'run')
    result = 'resumed' if resumed else f'cannot be resumed: {reason}'
    return f'exit status {status}; "{message[0][:110] if message else ""}..."; {result}'


def exact(name: str, folder: Path) -> str:
    """Compare twenty steps in one run with ten and ten more after resuming."""
    status_of(fork(lambda: train(name, folder / 'whole'), folder / 'whole.txt'))
    status_of(fork(lambda: train(name, folder / 'parts', steps=10), folder / 'parts.txt'))
    status_of(fork(lambda: train(name, folder / 'parts', resume=True), folder / 'parts.txt'))
    expected, parts = losses(folder / 'whole'), losses(folder / 'parts')
    equal = sum(expected[step] == parts.get(step) for step in range(11, 21))
    largest = max(abs(float.fromhex(expected[step]) - float.fromhex(parts[step])) for step in range(11, 21))
    return f'{equal} of the 10 losses after it are equal' + (
        '' if equal == 10 else f', they differ by up to {largest:.2g}'
    )


def sigterm(name: str, folder: Path) -> str:
    """Send SIGTERM seven steps after the only save."""

    def action(runner):
        if runner.iter + 1 == 17:
            os.kill(os.getpid(), signal.SIGTERM)

    started = time.monotonic()
    status = status_of(
        fork(lambda: train(name, folder / 'run', action=action, steps=100), folder / 'term.txt')
    )
    saved = sorted(int(re.search(r'\d+', path.name).group()) for path in (folder / 'run').glob('iter_*.pth'))
    lost = max(losses(folder / 'run')) - saved[-1]
    return f'exit status {status} within {time.monotonic() - started:.1f} s of the start; {lost} steps lost'


def worker(name: str, folder: Path) -> str:
    """Kill one of two workers."""

    def action(runner):
        if runner.iter + 1 == 12:
            (folder / 'kill').touch()

    pid = fork(
        lambda: train(name, folder / 'run', action=action, workers=2, steps=100000, interval=10),
        folder / 'worker.txt',
    )
    while not (folder / 'kill').exists():
        time.sleep(0.005)
    start = time.monotonic()
    status = status_of(pid)
    lines = (folder / 'worker.txt').read_text().strip().splitlines()
    message = next((line for line in reversed(lines) if 'worker' in line.lower()), lines[-1] if lines else '')
    named = ', '.join(
        f'{what} {"named" if re.search(pattern, message) else "not named"}'
        for what, pattern in (('number', r'worker 1\b'), ('file', r'\.png'))
    )
    return f'exit status {status} after {time.monotonic() - start:.1f} s; {named}'


def truncated(name: str, folder: Path) -> str:
    """Cut the newest of two checkpoints in half."""
    status_of(fork(lambda: train(name, folder / 'run', keep=2), folder / 'cut.txt'))
    newest = folder / 'run/iter_20.pth'
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    resumed, reason = can_resume(name, folder / 'run')
    return 'resumed from the previous one' if resumed else f'cannot be resumed: {reason}'


TRIALS = {
    '`kill -9` while saving, `max_keep_ckpts=1`': kills,
    'disk full at the second save, `max_keep_ckpts=1`': full_disk,
    '20 steps, or 10 and 10 more after `resume=True`': exact,
    'SIGTERM in step 17, saved at 10': sigterm,
    'one of two workers killed': worker,
    'newest of two checkpoints cut in half': truncated,
}


def result_of(trial: Callable, name: str, *extra) -> str:
    """Run a trial in a forked process, so that nothing it registers or opens outlives it."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        result, log = folder / 'result', folder / 'log'
        (folder / 'trial').mkdir()
        pid = fork(lambda: result.write_text(trial(name, folder / 'trial', *extra)), log)
        status_of(pid, 600)
        text = result.read_text() if result.exists() else f'the trial failed: {log.read_text()[-300:]}'
        return text.replace(directory, '').replace('|', '/')


def main() -> None:
    """Run all trials and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--kills', type=int, default=50, help='processes of each runner that are killed while saving'
    )
    parser.add_argument('--output', type=Path, help='page to write; printed otherwise')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for description, trial in TRIALS.items():
        extra = (args.kills,) if trial is kills else ()
        theirs, ours = (result_of(trial, runner, *extra) for runner in RUNNERS)
        rows.append(f'| {description} | {theirs} | {ours} |')
        print(rows[-1], flush=True)
    page = '\n'.join(
        [
            '# Kills, full disks and signals: mmengine and mmssl',
            '',
            "The same small network, data and config, with mmengine's Runner and CheckpointHook and "
            'with ours. Written by',
            '',
            '```',
            f'python tools/trials/processes.py --kills {args.kills} --output docs/trials/processes.md',
            '```',
            '',
            f'with mmengine {mmengine.__version__}, PyTorch {torch.__version__}, Python '
            f'{sys.version.split()[0]}, on the CPU.',
            '',
            '| trial | mmengine | mmssl |',
            '|---|---|---|',
            *rows,
            '',
            'The full disk is a limit of 1 MB on the size of a file. A run "cannot be resumed" if the '
            'checkpoint that `last_checkpoint` names is missing or incomplete; ours then loads the newest '
            'complete one.',
            '',
        ]
    )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page)
    else:
        print(page)


if __name__ == '__main__':
    main()
