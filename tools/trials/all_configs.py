"""Two steps and a validation of every config as it stands, model and pipeline in full size.

    python tools/trials/all_configs.py --output docs/trials/all_configs.md

Every config is trained by ``mmssl train`` in a process of its own on four images in the layout of its data
set (:mod:`layouts`). Changed are the batch (two images), the length (two steps, then a validation on two
images), the workers (none) and what cannot be had here: a checkpoint that a config begins with is one of
random weights of the same model, written first and read by the config's own code. Configs that shard a model
over GPUs run on two processes.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent)] * (str(Path(__file__).resolve().parent) not in sys.path)

import layouts  # noqa: E402
import mutate_configs  # noqa: E402

ROOT = mutate_configs.ROOT
STEPS, BATCH = 2, 2


class Run(NamedTuple):
    """What came of one config."""

    config: str
    validates: bool
    outcome: str
    message: str
    losses: list[float]
    scores: dict[str, float]
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong, or nothing."""
        if self.outcome != 'runs':
            return f'{self.outcome}: {self.message}'
        if len(self.losses) != STEPS or not all(map(math.isfinite, self.losses)):
            return f'losses {self.losses}, not {STEPS} finite ones'
        if self.validates and not self.scores:
            return 'no score from the validation'
        return ''


def sharded(config: dict) -> bool:
    """Whether the model is shared out over two processes."""
    return (config.get('strategy') or {}).get('type') == 'mmssl.FSDPStrategy'


def shorten(config: dict) -> dict:
    """The config with a small batch, two steps and, where it has validation, one at the end."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if config.get(name):
            config[name].update(batch_size=BATCH, num_workers=0, persistent_workers=False)
            config[name].pop('prefetch_factor', None)
            if (
                config[name]['dataset'].get('type') == 'mmssl.ImageFolder'
            ):  # one image a class: more than two steps
                config[name]['dataset']['indices'] = (
                    BATCH * (1 + sharded(config)) * (STEPS if name == 'train_dataloader' else 1)
                )
    loop = config['train_cfg']
    epochs = 'max_epochs' in loop
    loop.update({'max_epochs': 1} if epochs else {'max_iters': STEPS})
    if config.get('val_dataloader'):
        loop.update(val_interval=1 if epochs else STEPS)
    if (
        'warmup_teacher_temp_epochs' in config['model']
    ):  # DINO's; refused where it is longer than the training
        config['model']['warmup_teacher_temp_epochs'] = min(config['model']['warmup_teacher_temp_epochs'], 1)
    config['default_hooks']['logger']['interval'] = 1
    config['default_hooks']['checkpoint']['save_optimizer'] = False
    return config


def starts(node):
    """(part of a model, dict in it that names a file of weights) of every file that a model begins with."""
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict):
        start = node.get('init_cfg')
        if isinstance(start, dict) and start.get('type') == 'Pretrained':
            yield node, start
        if node.get('checkpoint', 'random') != 'random':
            yield node, node
    for item in items:
        if not (isinstance(item, dict) and item.get('type') == 'Pretrained'):
            yield from starts(item)


def write_weights(part: dict, scope: str, path: Path) -> None:
    """A file with random weights of what ``part`` describes, as its own code reads them: the names that ``init_cfg`` asks for, or a
    tokenizer."""
    import torch
    from mmengine.registry import MODELS, DefaultScope

    logging.disable(logging.CRITICAL)  # every layer's initialisation
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(
            {key: value for key, value in part.items() if key != 'init_cfg'}
            | ({'checkpoint': 'random'} if 'checkpoint' in part else {})
        )
    model.init_weights()
    content = model.state_dict()
    if 'centroids' in content:
        content = dict(kind='mmssl.KMeansTokenizer', patch_size=model.patch_size, eps=model.eps, **content)
    elif 'init_cfg' in part:
        prefix = part['init_cfg'].get('prefix', '')
        prefix += '.' if prefix and not prefix.endswith('.') else ''
        content = dict(state_dict={prefix + key: value for key, value in content.items()})
    torch.save(content, path)


def apart(function, *arguments) -> None:
    """Call a function in a forked process: what it leaves in memory goes with it.

    Raises:
        RuntimeError: it failed.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f'{function.__name__} failed')


def train(name: str, data: Path, limit: float) -> Run:
    """Train one config for two steps.

    Args:
        name: relative to the checkout.
        data: of :func:`layouts.write_layouts`.
        limit: seconds of CPU time.
    """
    config = shorten(mutate_configs.read(name))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / 'data').symlink_to(data)
        for number, (part, holder) in enumerate(list(starts(config['model']))):
            path = folder / f'weights_{number}.pth'
            apart(write_weights, part, config['default_scope'], path)
            holder['checkpoint'] = str(path)
        start = time.monotonic()
        if sharded(config):
            outcome, message = two_processes(config, folder, limit)
        else:
            outcome, message = mutate_configs.attempt(config, folder, False, limit)
        seconds = time.monotonic() - start
        losses, scores = read_log(folder / 'runs')
    return Run(
        name,
        bool(config.get('val_dataloader')),
        outcome,
        message.replace(place, '.'),
        losses,
        scores,
        seconds,
    )


def two_processes(config: dict, folder: Path, limit: float) -> tuple[str, str]:
    """(outcome, message) of a config that needs several processes, through tools/dist_train.sh."""
    (folder / 'config.py').write_text(
        ''.join(f'{key} = {value!r}\n' for key, value in config.items()), encoding='utf-8'
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), 'config.py', '2', '--work-dir', 'runs/one']
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10 * limit,
            env={**os.environ, 'PYTHON': sys.executable, 'PORT': str(port), 'PYTHONPATH': str(ROOT)},
        )
    except subprocess.TimeoutExpired as error:
        return 'hang', str(error.stderr)[-300:]
    return mutate_configs.judge(done.returncode, done.stderr, (folder / 'runs').exists())


def read_log(folder: Path) -> tuple[list[float], dict[str, float]]:
    """Losses of the steps and the scores of the validation, from the scalars that a run writes."""
    losses, scores = [], {}
    for path in folder.rglob('scalars.json'):
        for line in path.read_text(encoding='utf-8').splitlines():
            values = json.loads(line)
            if 'loss' in values:
                losses.append(float(values['loss']))
            else:
                scores.update(
                    {key: value for key, value in values.items() if key not in ('step', 'time', 'data_time')}
                )
    return losses, scores


def table(runs: list[Run], command: str) -> str:
    """The runs as Markdown."""
    good = [run for run in runs if not run.fault]
    lines = [
        '# Every config, two steps',
        '',
        f'{len(good)} of {len(runs)} configs train for {STEPS} steps with finite losses and, where they have one, end a validation: '
        f'`{command}`, in {sum(run.seconds for run in runs) / 60:.0f} minutes.',
        '',
        f"Models and pipelines are the configs' own in full size; the batch is {BATCH} images, on a CPU, from a few "
        'images in the public layouts. Checkpoints that a config begins with are made of random weights and read by '
        'its own loading code; sharded models run on two processes. The losses say that the step is whole, nothing more.',
        '',
        '| config | loss, step 1 | step 2 | validation |',
        '|---|---|---|---|',
    ]
    for run in runs:
        if run.fault:
            lines.append(
                f'| {run.config.removeprefix("configs/")} | {run.fault[:200].replace("|", "/")} | | |'
            )
            continue
        scores = f'{len(run.scores)} scores' if run.scores else ''
        lines.append(
            f'| {run.config.removeprefix("configs/")} | '
            + ' | '.join(f'{loss:.4g}' for loss in run.losses)
            + f' | {scores} |'
        )
    return '\n'.join(lines) + '\n'


def load() -> None:
    """Import everything once: the processes of the configs are forks of this one."""
    from mmssl import registry

    for kind in (registry.MODELS, registry.DATASETS):
        kind.import_from_location()
        kind.import_pending()


@contextlib.contextmanager
def data_folder():
    """A folder with every layout."""
    with mutate_configs.demo_folder() as demo, tempfile.TemporaryDirectory() as folder:
        yield layouts.write_layouts(Path(folder), demo / 'data/demo')


def main() -> int:
    """Train the configs, print the table, and fail where one does not train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--configs', nargs='*', default=[''], help='only configs whose name holds one of these'
    )
    parser.add_argument(
        '--limit', type=float, default=1800.0, help='seconds of CPU time after which a run hangs'
    )
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    names = [name for name in mutate_configs.all_configs() if any(part in name for part in args.configs)]
    load()
    runs = []
    with data_folder() as data:
        for name in names:
            runs.append(train(name, data, args.limit))
            print(
                f'{runs[-1].seconds:6.1f} s  {name}: {runs[-1].fault[:400] or (runs[-1].losses, runs[-1].scores)}',
                flush=True,
            )
            if args.output:
                args.output.write_text(table(runs, 'python tools/trials/all_configs.py'), encoding='utf-8')
    return int(any(run.fault for run in runs))


if __name__ == '__main__':
    sys.exit(main())
