"""Random mistakes in configs: a mistake may be harmless or be refused in one line, and nothing else.

    python tools/trials/mutate_configs.py --number 300 --seed 0 --output docs/trials/mutate_configs.md

Every trial takes a config, makes one mistake in it (a key deleted or misspelt, a value of another type, a
misspelt type), and runs ``mmssl train`` on it in a process of its own; every config is run once without a
mistake first. Smoke configs train and validate on the demo data. Of the others the model is built without
memory for its weights and the data set is a stand-in; everything is built, and the first step is left out.
"""

import argparse
import contextlib
import copy
import difflib
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)

from mmssl.config.check import SETTINGS  # noqa: E402

KINDS = ('deleted', 'misspelt', 'other type')
CONTROL = 'none (control)'
GOOD = ('runs', 'refused', 'stopped')
FAULTS = ('traceback', 'hang', 'killed', 'left over')


class Trial(NamedTuple):
    """One mutated config and what ``mmssl train`` made of it."""

    config: str
    kind: str
    what: str
    outcome: str
    message: str
    seconds: float


def places(node, path: tuple = ()):
    """(path, value) of everything below a config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from places(value, (*path, key))


def misspell(name: str, rng: random.Random) -> str:
    """The name with one letter left out, doubled or in the place of its neighbour."""
    at = rng.randrange(len(name))
    choices = (
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    )
    return next((wrong for wrong in rng.sample(choices, 3) if wrong and wrong != name), name + 'x')


def other_type(value, rng: random.Random):
    """A value that is of another type."""
    choices = [
        value_
        for value_ in (None, 'text', 7, 0.5, True, [1, 'a'], {'a': 1}, [], {}, '')
        if type(value_) is not type(value)
    ]
    return rng.choice(choices)


def mutate(config: dict, rng: random.Random) -> tuple[dict, str, str]:
    """A copy of a config with one mistake, the kind of mistake, and what it is in words."""
    config = copy.deepcopy(config)
    kind = rng.choice(KINDS)
    # names that other settings have been made of (train_pipeline, ...) are read by nothing any more
    read_later = {key: value for key, value in config.items() if key in SETTINGS}
    every = [
        (path, value) for path, value in places(read_later) if kind != 'misspelt' or isinstance(path[-1], str)
    ]
    path, value = rng.choice(every)
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    name, last = '.'.join(map(str, path)), path[-1]
    if kind == 'deleted':
        del holder[last]
        return config, kind, f'{name} deleted'
    if kind == 'other type':
        holder[last] = other_type(value, rng)
        return config, kind, f'{name} = {holder[last]!r}'
    if last == 'type' and isinstance(value, str):
        holder[last] = misspell(value, rng)
        return config, kind, f'{name} = {holder[last]!r}'
    wrong = misspell(last, rng)
    holder[wrong] = holder.pop(last)
    return config, kind, f'{name} is spelt {wrong}'


def plain(node):
    """A config as dicts, lists and plain values."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node


def read(name: str) -> dict:
    """A config; one of the smoke configs is shortened to two steps and a validation on two images."""
    from mmengine.config import Config

    from mmssl.hosts import patches

    patches.apply()
    config = plain(Config.fromfile(ROOT / name)._cfg_dict.to_dict())
    if name.startswith('configs/smoke/'):
        config['train_cfg'].update({'max_iters': 2, **({'val_interval': 2} if config.get('val_cfg') else {})})
        for loader in ('val_dataloader', 'test_dataloader'):
            if config.get(loader):
                config[loader]['dataset']['indices'] = 2
    return config


def stand_in() -> None:
    """In a child: no weights, no images and no steps; everything else is built and checked."""
    import torch
    from mmengine.dataset import BaseDataset
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
    from mmengine.runner import Runner as HostRunner

    host_build = HostRunner.build_model

    def build_model(self, model):
        try:
            with torch.device('meta'):
                return host_build(self, model)
        except RuntimeError as error:
            if 'meta tensors' not in str(error):
                raise
        return host_build(self, model)

    def full_init(self):
        self.serialize_data = False
        self.data_list = [dict(img_path=f'{number}.jpg') for number in range(8192)]
        self._fully_initialized = True

    def run(self):
        self.runner.call_hook('before_train')
        return self.runner.model

    with contextlib.suppress(ImportError):
        from mmdet.datasets import BaseDetDataset
        from mmseg.datasets import voc

        BaseDetDataset.full_init = full_init
        voc.fileio = SimpleNamespace(exists=lambda *args, **kwargs: True)
        voc.osp = SimpleNamespace(isfile=lambda path: True)
    HostRunner.build_model = build_model
    HostRunner._init_model_weights = lambda self: None
    torch.nn.Module.to = lambda self, *args, **kwargs: self
    BaseDataset.full_init = full_init
    EpochBasedTrainLoop.run = IterBasedTrainLoop.run = run


def child(folder: Path, full: bool) -> int:
    """Run ``mmssl train`` on the config in ``folder`` and return its exit status."""
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    # what prints goes there too, also where something stands in for the streams, as a test runner's capture
    # does
    sys.stdout, sys.stderr = (
        open(number, 'w', encoding='utf-8', buffering=1, closefd=False) for number in (1, 2)
    )
    os.chdir(folder)
    from mmssl.cli import main

    if full:
        stand_in()
    return main(['train', 'config.py', '--work-dir', 'runs/one'])


def attempt(config: dict, folder: Path, full: bool, limit: float) -> tuple[str, str]:
    """(outcome, message) of one config, in a forked process that is ended after ``limit`` seconds of CPU time, or ten times that in all."""
    (folder / 'config.py').write_text(
        ''.join(f'{key} = {value!r}\n' for key, value in config.items()), encoding='utf-8'
    )
    pid = os.fork()
    if pid == 0:
        os.setsid()
        status = 70
        try:
            status = child(folder, full)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline, done = time.monotonic() + 10 * limit, (0, 0)
    while not done[0] and time.monotonic() < deadline and cpu_seconds(pid) < limit:
        time.sleep(0.01)
        done = os.waitpid(pid, os.WNOHANG)
    text = (
        (folder / 'stderr').read_text(encoding='utf-8', errors='replace')
        if (folder / 'stderr').exists()
        else ''
    )
    if not done[0]:
        os.killpg(pid, 9)
        os.waitpid(pid, 0)
        return 'hang', text[-300:]
    return judge(os.waitstatus_to_exitcode(done[1]), text, (folder / 'runs').exists())


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far: what it takes on a busy machine is no sign of a hang. 0 where /proc is not there."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf(
        'SC_CLK_TCK'
    )  # utime and stime, fields 14 and 15 of proc(5)


def judge(status: int, text: str, left: bool) -> tuple[str, str]:
    """(outcome, message) from the exit status, the error output and whether there is a work directory."""
    lines = [line for line in text.splitlines() if line.startswith('mmssl train: error: ')]
    message = (
        lines[0].removeprefix('mmssl train: error: ') if lines else (text.strip().splitlines() or [''])[-1]
    )
    if status == 0:
        return 'runs', ''
    if status < 0:
        return 'killed', f'signal {-status}'
    if status != 1 or 'Traceback' in text or len(lines) != 1:
        return 'traceback', message
    if left:
        return (
            'stopped' if re.match('training failed at iteration|iteration ', message) else 'left over'
        ), message
    return 'refused', message


@contextlib.contextmanager
def demo_folder():
    """A folder with the demo data in ``data/demo``."""
    from mmssl.data.demo import make_demo_data

    with tempfile.TemporaryDirectory() as folder:
        make_demo_data(Path(folder) / 'data/demo')
        yield Path(folder)


def trials(
    number: int,
    seed: int,
    data: Path,
    names: list[str],
    limit: float = 60.0,
    tell=None,
    control: bool = False,
) -> list[Trial]:
    """Mutate configs at random and run them.

    Args:
        number: of trials.
        seed: of configs and mistakes.
        data: folder of the demo data.
        names: configs, relative to the checkout, drawn from uniformly.
        limit: seconds of CPU time after which a trial hangs; ten times that by the clock.
        tell: called with every trial.
        control: run every config without a mistake too.
    """
    import mmengine.registry as root

    from mmssl import registry

    for kind in (registry.MODELS, registry.DATASETS):  # once, not in every child
        kind.import_from_location()
        kind.import_pending()
    assert root.MODELS.get('mmssl.MAE')
    rng, found, configs = random.Random(seed), [], {}
    for _ in range(number):
        name = rng.choice(names)
        todo = []
        if name not in configs:
            configs[name] = read(name)
            if control:
                todo.append((configs[name], CONTROL, 'nothing changed'))
        for config, kind, what in (*todo, mutate(configs[name], rng)):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                (folder / 'data').mkdir()
                (folder / 'data/demo').symlink_to(data)
                start = time.monotonic()
                outcome, message = attempt(config, folder, not name.startswith('configs/smoke/'), limit)
            found.append(
                Trial(name, kind, what, outcome, message.replace(place, '.'), time.monotonic() - start)
            )
            if tell:
                tell(found[-1])
    return found


def all_configs() -> list[str]:
    """Every config, relative to the checkout."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'configs').rglob('*.py')
        if '_base_' not in path.parts
    )


def table(found: list[Trial], command: str) -> str:
    """The counts as Markdown, and every message once."""
    counts = Counter((trial.kind, trial.outcome) for trial in found)
    outcomes = (*GOOD, *FAULTS)
    mistakes = [trial for trial in found if trial.kind != CONTROL]
    lines = [
        '# Mistakes in configs',
        '',
        f'{len(mistakes)} trials over {len({trial.config for trial in mistakes})} configs: `{command}`.',
        '',
        '`runs`: nothing needed has changed. `refused`: one line of error, status 1, no work directory. `stopped`: one '
        'line of error after the first step; the log stays. The rest would be faults.',
        '',
        '| mistake | ' + ' | '.join(outcomes) + ' |',
        '|---' * (len(outcomes) + 1) + '|',
    ]
    for kind in (*KINDS, *[CONTROL] * (len(mistakes) < len(found))):
        lines.append(f'| {kind} | ' + ' | '.join(str(counts[kind, outcome]) for outcome in outcomes) + ' |')
    refused = {trial.config for trial in found if trial.kind == CONTROL and trial.outcome != 'runs'}
    if refused:
        counts = Counter(trial.outcome for trial in mistakes if trial.config in refused)
        lines += [
            '',
            f'{len(refused)} configs do not begin with the stand-ins even without a mistake (they read validation data at the '
            'start, or need several processes), so that a refusal of theirs may have another reason; they have '
            f'{counts.total()} of the trials, {counts["refused"]} of them refused.',
        ]
    lines += ['', 'What was said, one line of each kind:', '']
    said: list[str] = []
    for trial in found:
        message = trial.message[:200].replace('|', '/')
        if message and not difflib.get_close_matches(message, said, n=1, cutoff=0.7):
            said.append(message)
            lines.append(f'* {trial.what}: {message}')
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Run the trials, print the table, and fail where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--number', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--limit', type=float, default=60.0, help='seconds of CPU time after which a trial hangs'
    )
    parser.add_argument('--configs', default='', help='only configs whose name holds this')
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    names = [name for name in all_configs() if args.configs in name]

    def tell(trial):
        print(
            f'{trial.outcome:9} {trial.seconds:5.1f} s  {trial.config}: {trial.what}: {trial.message[:240]}',
            flush=True,
        )

    with demo_folder() as folder:
        found = trials(args.number, args.seed, folder / 'data/demo', names, args.limit, tell, control=True)
    text = table(found, f'python tools/trials/mutate_configs.py --number {args.number} --seed {args.seed}')
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding='utf-8')
    return int(any(trial.outcome in FAULTS for trial in found))


if __name__ == '__main__':
    sys.exit(main())
