"""Killed, full, signalled: a run of mmengine's own Runner and CheckpointHook beside one of ours, with real processes.

    python tools/trials/processes.py --kills 50 --output docs/trials/processes.md

Both train the same small network on the same images from the same config; nothing differs but the runner and
the hook that saves.
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
from mmengine.runner import Runner as HostRunner  # noqa: E402
from mmengine.structures import BaseDataElement  # noqa: E402
from torch import nn  # noqa: E402

SIDES = ('mmengine', 'mmssl')


@DATASETS.register_module(force=True)
class Pictures(torch.utils.data.Dataset):
    """Noise that is drawn anew for every sample, as an augmentation would be."""

    def __init__(self, root: str):
        self.root = root
        self.metainfo = dict(classes=('a', 'b'))

    def get_data_info(self, index: int) -> dict:
        """Name of a sample's file."""
        return dict(img_path=f'{self.root}/{index:03d}.png')

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id == 1 and os.path.exists(f'{self.root}/kill'):
            os.kill(os.getpid(), signal.SIGKILL)
        image = torch.from_numpy(np.random.default_rng(index).random((3, 16, 16), dtype=np.float32)) * (
            0.5 + torch.rand(1)
        )
        return dict(inputs=image, data_samples=BaseDataElement(metainfo=self.get_data_info(index)))


@MODELS.register_module(force=True)
class Net(BaseModel):
    """Large enough that a checkpoint of it takes a while to write."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(768, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 4)
        )

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """A loss of no meaning."""
        return dict(loss=(self.net(torch.stack(list(inputs))) - 1).square().mean())


@HOOKS.register_module(force=True)
class Trial(Hook):
    """Notes the losses, and lets ``action(runner)`` happen after every step."""

    priority = 'LOWEST'
    action: Callable | None = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Write the loss, exactly."""
        with open(f'{runner.work_dir}.losses', 'a') as file:
            file.write(f'{runner.iter + 1} {float(outputs["loss"].detach()).hex()}\n')
        if Trial.action is not None:
            Trial.action(runner)


def config(
    side: str, work_dir: Path, steps: int = 20, workers: int = 0, interval: int = 10, keep: int = 1
) -> Config:
    """The config of a run; the two sides differ in one type."""
    hook = 'CheckpointHook' if side == 'mmengine' else 'mmssl.CheckpointHook'
    return Config(
        dict(
            model=dict(type='Net'),
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=False, max_iters=steps),
            train_dataloader=dict(
                dataset=dict(type='Pictures', root=str(work_dir.parent)),
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
    """Run ``function`` in a process of its own, as a program whose messages go to a file; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1, closefd=False) for number in (1, 2))
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
    """Exit status, negative for a signal; 'still there' after so many seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 'still there'


def train(
    side: str, work_dir: Path, resume: bool = False, action: Callable | None = None, **settings
) -> None:
    """Train in this process; ours with what ``mmssl train`` does about signals."""
    Trial.action = action
    cfg = config(side, work_dir, **settings)
    cfg.resume = resume
    if side == 'mmengine':
        HostRunner.from_cfg(cfg).train()
        return
    from mmssl.engine.runner import Runner
    from mmssl.engine.signals import watched_signals

    with watched_signals():
        Runner.from_cfg(cfg).train()


def can_resume(side: str, work_dir: Path) -> tuple[bool, str]:
    """Whether ``resume=True`` finds a checkpoint and loads it, and what is said otherwise."""
    output = work_dir.with_suffix('.resume')
    pid = fork(lambda: train(side, work_dir, resume=True, steps=0), output)
    done = status_of(pid) == 0
    return done, output.read_text().strip().splitlines()[-1][
        :150
    ] if not done and output.stat().st_size else ''


def losses(work_dir: Path) -> dict[int, str]:
    """Losses by iteration; those of the last time where there are several."""
    path = Path(f'{work_dir}.losses')
    return (
        dict((int(step), loss) for step, loss in map(str.split, path.read_text().splitlines()))
        if path.exists()
        else {}
    )


def kills(side: str, folder: Path, number: int) -> str:
    """SIGKILL while one checkpoint after the other is written, one being kept."""
    from mmssl.checkpoint import load_file
    from mmssl.engine.runner import Runner

    generator, bad, nothing = random.Random(0), 0, 0
    runner = (HostRunner if side == 'mmengine' else Runner).from_cfg(
        config(side, folder / 'start', steps=1, interval=1)
    )
    runner.train()
    hook = next(hook for hook in runner.hooks if 'CheckpointHook' in type(hook).__name__)
    for trial in range(number):
        work_dir = folder / f'kill{trial}'
        work_dir.mkdir()
        runner._work_dir = hook.out_dir = str(work_dir)

        def save(hook=hook):
            hook.keep_ckpt_ids = deque()
            for step in range(1, 10000):
                hook._save_checkpoint_with_step(runner, step, dict(epoch=0, iter=step))

        pid = fork(save, folder / 'kill.txt')
        while not (work_dir / 'last_checkpoint').exists():  # the first is whole
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        named = (work_dir / 'last_checkpoint').read_text()
        try:
            if side == 'mmssl':
                from mmssl.checkpoint import find_resume_checkpoint

                named = find_resume_checkpoint(work_dir)
            load_file(work_dir / os.path.basename(named), trust=True)
        except (OSError, ValueError, TypeError):
            bad += 1
            nothing += not any(whole(path) for path in work_dir.glob('*.pth'))
        shutil.rmtree(work_dir)
    return f'{bad} of {number} cannot be resumed, {nothing} of them have no whole checkpoint left'


def whole(path: Path) -> bool:
    """Whether a checkpoint can be read."""
    from mmssl.checkpoint import load_file

    try:
        load_file(path, trust=True)
    except (OSError, ValueError):
        return False
    return True


def full_disk(side: str, folder: Path) -> str:
    """A limit on the size of files, from the second save on, stands in for a disk that is full."""

    def full(runner):
        if runner.iter + 1 == 10:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    status = status_of(fork(lambda: train(side, folder / 'run', action=full), folder / 'full.txt'))
    said = (folder / 'full.txt').read_text().strip().splitlines()[-1:]
    resumed, why = can_resume(side, folder / 'run')
    return f'exit status {status}; "{said[0][:110] if said else ""}..."; ' + (
        'resumed' if resumed else f'cannot be resumed: {why}'
    )


def exact(side: str, folder: Path) -> str:
    """Twenty steps in one go, and ten, then ten more."""
    status_of(fork(lambda: train(side, folder / 'whole'), folder / 'whole.txt'))
    status_of(fork(lambda: train(side, folder / 'parts', steps=10), folder / 'parts.txt'))
    status_of(fork(lambda: train(side, folder / 'parts', resume=True), folder / 'parts.txt'))
    whole, parts = losses(folder / 'whole'), losses(folder / 'parts')
    equal = sum(whole[step] == parts.get(step) for step in range(11, 21))
    worst = max(abs(float.fromhex(whole[step]) - float.fromhex(parts[step])) for step in range(11, 21))
    return f'{equal} of the 10 losses after it are the same' + (
        '' if equal == 10 else f', they differ by up to {worst:.2g}'
    )


def sigterm(side: str, folder: Path) -> str:
    """SIGTERM seven steps after the only save."""

    def action(runner):
        if runner.iter + 1 == 17:
            os.kill(os.getpid(), signal.SIGTERM)

    started = time.monotonic()
    status = status_of(
        fork(lambda: train(side, folder / 'run', action=action, steps=100), folder / 'term.txt')
    )
    saved = sorted(int(re.search(r'\d+', path.name).group()) for path in (folder / 'run').glob('iter_*.pth'))
    lost = max(losses(folder / 'run')) - saved[-1]
    return f'exit status {status} within {time.monotonic() - started:.1f} s of the start; {lost} steps lost'


def worker(side: str, folder: Path) -> str:
    """One of two workers is killed."""
    at: list[float] = []

    def action(runner):
        if runner.iter + 1 == 12:
            (folder / 'kill').touch()

    pid = fork(
        lambda: train(side, folder / 'run', action=action, workers=2, steps=100000, interval=10),
        folder / 'worker.txt',
    )
    while not (folder / 'kill').exists():
        time.sleep(0.005)
    at.append(time.monotonic())
    status = status_of(pid)
    lines = (folder / 'worker.txt').read_text().strip().splitlines()
    said = next((line for line in reversed(lines) if 'worker' in line.lower()), lines[-1] if lines else '')
    named = ', '.join(
        f'{what} {"named" if re.search(pattern, said) else "not named"}'
        for what, pattern in (('number', r'worker 1\b'), ('file', r'\.png'))
    )
    return f'exit status {status} after {time.monotonic() - at[0]:.1f} s; {named}'


def truncated(side: str, folder: Path) -> str:
    """The newest of two checkpoints is cut in half."""
    status_of(fork(lambda: train(side, folder / 'run', keep=2), folder / 'cut.txt'))
    newest = folder / 'run/iter_20.pth'
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    resumed, why = can_resume(side, folder / 'run')
    return 'resumed from the one before' if resumed else f'cannot be resumed: {why}'


TRIALS = {
    '`kill -9` while saving, `max_keep_ckpts=1`': kills,
    'disk full at the second save, `max_keep_ckpts=1`': full_disk,
    '20 steps, or 10 and 10 more after `resume=True`': exact,
    'SIGTERM in step 17, saved at 10': sigterm,
    'one of two workers killed': worker,
    'newest of two checkpoints cut in half': truncated,
}


def main() -> None:
    """Run all trials and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=50, help='processes killed while saving, on each side')
    parser.add_argument('--output', type=Path, help='page to write; printed otherwise')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, trial in TRIALS.items():
        found = []
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                extra = (args.kills,) if trial is kills else ()
                # each in a process of its own: what a trial registers or opens does not outlive it
                answer = Path(folder) / 'answer'
                (Path(folder) / 'trial').mkdir()
                pid = fork(
                    lambda trial=trial, side=side, folder=folder, extra=extra, answer=answer: (
                        answer.write_text(trial(side, Path(folder) / 'trial', *extra))
                    ),
                    Path(folder) / 'log',
                )
                status_of(pid, 600)
                found.append(
                    (
                        answer.read_text()
                        if answer.exists()
                        else f'the trial failed: {(Path(folder) / "log").read_text()[-300:]}'
                    )
                    .replace(folder, '')
                    .replace('|', '/')
                )
        rows.append(f'| {name} | {found[0]} | {found[1]} |')
        print(rows[-1], flush=True)
    page = '\n'.join(
        [
            '# Killed, full, signalled: mmengine and mmssl',
            '',
            'The same small network, data and config; `mmengine` is its own Runner and CheckpointHook, `mmssl` is ours. Written by',
            '',
            '```',
            f'python tools/trials/processes.py --kills {args.kills} --output docs/trials/processes.md',
            '```',
            '',
            f'with mmengine {mmengine.__version__}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}, on the CPU.',
            '',
            '| trial | mmengine | mmssl |',
            '|---|---|---|',
            *rows,
            '',
            'The full disk is a limit of 1 MB on the size of a file. A checkpoint that "cannot be resumed" is one that `last_checkpoint` names '
            'and that is not there or',
            'not whole; ours looks for the newest whole one then.',
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
