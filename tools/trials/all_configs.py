"""Two steps and a validation of every config, with model and pipeline in full size.

    python tools/trials/all_configs.py --output docs/trials/all_configs.md

Every config is trained by ``mmssl train`` in a separate process on four images in the layout of its data set
(:mod:`layouts`). Only the batch (two images), the length (two steps, then a validation on two images) and the
number of workers (none) are changed. A checkpoint that a config starts from is replaced by random weights of
the same model, which the config's own code reads. Configs that shard a model over GPUs run on two processes.
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
    """Outcome of one config."""

    config: str
    validates: bool
    outcome: str
    message: str
    losses: list[float]
    scores: dict[str, float]
    seconds: float

    @property
    def fault(self) -> str:
        """Description of the fault, '' if there is none."""
        if self.outcome != 'runs':
            return f'{self.outcome}: {self.message}'
        if len(self.losses) != STEPS or not all(map(math.isfinite, self.losses)):
            return f'losses {self.losses}, not {STEPS} finite ones'
        if self.validates and not self.scores:
            return 'no score from the validation'
        return ''


def is_sharded(config: dict) -> bool:
    """Return True if the model is sharded over two processes."""
    return (config.get('strategy') or {}).get('type') == 'mmssl.FSDPStrategy'


def shorten(config: dict) -> dict:
    """Change a config to a small batch, two steps and, if it has validation, one at the end."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if config.get(name):
            config[name].update(batch_size=BATCH, num_workers=0, persistent_workers=False)
            config[name].pop('prefetch_factor', None)
            # the folder has one image per class, which would be more than two steps
            if config[name]['dataset'].get('type') == 'mmssl.ImageFolder':
                steps = STEPS if name == 'train_dataloader' else 1
                config[name]['dataset']['indices'] = BATCH * (1 + is_sharded(config)) * steps
    loop = config['train_cfg']
    epochs = 'max_epochs' in loop
    loop.update({'max_epochs': 1} if epochs else {'max_iters': STEPS})
    if config.get('val_dataloader'):
        loop.update(val_interval=1 if epochs else STEPS)
    if 'warmup_teacher_temp_epochs' in config['model']:  # DINO rejects a warm-up longer than the run
        config['model']['warmup_teacher_temp_epochs'] = min(config['model']['warmup_teacher_temp_epochs'], 1)
    config['default_hooks']['logger']['interval'] = 1
    config['default_hooks']['checkpoint']['save_optimizer'] = False
    return config


def initial_weights(node):
    """Yield (part of a model, dict in it that names the file) for every file of weights of a model."""
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict):
        init_cfg = node.get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            yield node, init_cfg
        if node.get('checkpoint', 'random') != 'random':
            yield node, node
    for item in items:
        if not (isinstance(item, dict) and item.get('type') == 'Pretrained'):
            yield from initial_weights(item)


def write_weights(part: dict, scope: str, path: Path) -> None:
    """Write random weights of a part of a model in the form in which the config's own code reads them.

    Args:
        part: Settings of the part: a tokenizer, or a module with ``init_cfg``.
        scope: Default scope of the config.
        path: File to write.
    """
    import torch
    from mmengine.registry import MODELS, DefaultScope

    logging.disable(logging.CRITICAL)  # every layer's initialization
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


def call_in_fork(function, *arguments) -> None:
    """Call a function in a forked process, so that its memory is freed afterwards.

    Raises:
        RuntimeError: The function failed.
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
        name: Path of the config, relative to the checkout.
        data: Folder of :func:`layouts.write_layouts`.
        limit: Seconds of CPU time.
    """
    config = shorten(mutate_configs.read(name))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / 'data').symlink_to(data)
        for index, (part, holder) in enumerate(list(initial_weights(config['model']))):
            path = folder / f'weights_{index}.pth'
            call_in_fork(write_weights, part, config['default_scope'], path)
            holder['checkpoint'] = str(path)
        start = time.monotonic()
        if is_sharded(config):
            outcome, message = two_processes(config, folder, limit)
        else:
            outcome, message = mutate_configs.attempt(config, folder, False, limit)
        seconds = time.monotonic() - start
        losses, scores = read_log(folder / 'runs')
    return Run(
        name,
        bool(config.get('val_dataloader')),
        outcome,
        message.replace(directory, '.'),
        losses,
        scores,
        seconds,
    )


def two_processes(config: dict, folder: Path, limit: float) -> tuple[str, str]:
    """Return outcome and message of a config that needs several processes, through tools/dist_train.sh."""
    (folder / 'config.py').write_text(
        ''.join(f'{key} = {value!r}\n' for key, value in config.items()), encoding='utf-8'
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), 'config.py', '2', '--work-dir', 'runs/trial']
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
    """Return the losses of the steps and the scores of the validation from the scalars of a run."""
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
    """Return the runs as Markdown."""
    good = [run for run in runs if not run.fault]
    lines = [
        '# Every config, two steps',
        '',
        f'{len(good)} of {len(runs)} configs train for {STEPS} steps with finite losses and, if they have '
        f'one, complete a validation: `{command}`, in {sum(run.seconds for run in runs) / 60:.0f} minutes.',
        '',
        f'Models and pipelines have their full size; the batch is {BATCH} images, on a CPU, from a few '
        'images in the public layouts. Checkpoints that a config starts from are random weights, read by its '
        'own loading code; sharded models run on two processes. The losses only show that the step works.',
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
    """Import everything once; the processes of the configs are forks of this one."""
    from mmssl import registry

    for parts in (registry.MODELS, registry.DATASETS):
        parts.import_from_location()
        parts.import_pending()


@contextlib.contextmanager
def data_folder():
    """Yield a folder with every layout."""
    with mutate_configs.demo_folder() as demo, tempfile.TemporaryDirectory() as folder:
        yield layouts.write_layouts(Path(folder), demo / 'data/demo')


def main() -> int:
    """Train the configs, print the table, and return 1 if one does not train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--configs', nargs='*', default=[''], help='only configs whose name contains one of these'
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
            run = runs[-1]
            print(f'{run.seconds:6.1f} s  {name}: {run.fault[:400] or (run.losses, run.scores)}', flush=True)
            if args.output:
                args.output.write_text(table(runs, 'python tools/trials/all_configs.py'), encoding='utf-8')
    return int(any(run.fault for run in runs))


if __name__ == '__main__':
    sys.exit(main())
