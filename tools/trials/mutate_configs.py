"""Random mistakes in configs: each must either be harmless or be rejected in one line.

    python tools/trials/mutate_configs.py --number 300 --seed 0 --output docs/trials/mutate_configs.md
    python tools/trials/mutate_configs.py --kinds values --number 300 --output docs/trials/mutate_values.md

Every trial makes one mistake in a config (a key deleted or misspelled, a value of another type, a misspelled
type; with ``--kinds values`` a number that is negative, huge or text, another unit, a list of another length,
exchanged keys or values, a dict for a list) and runs ``mmssl train`` on it in a separate process; every
config is first run once without a mistake. Smoke configs train and validate on the demo data. Models of the
others are built without memory for their weights, with placeholder data sets; everything is built, and no
step is run.
"""

import argparse
import contextlib
import copy
import difflib
import gc
import os
import random
import re
import resource
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

MISTAKES = ('deleted', 'misspelled', 'other type')
VALUES = (
    'negative',
    'huge',
    'zero',
    'fraction',
    'number as text',
    'None',
    'switch as text',
    'other unit',
    'other length',
    'exchanged keys',
    'exchanged values',
    'dict for list',
    'list for dict',
    'list for value',
)
KINDS = {'structure': MISTAKES, 'values': VALUES}
CONTROL = 'none (control)'
MEMORY = 16 << 30  # bytes of address space, so that a huge number does not take the machine's memory
GOOD = ('runs', 'refused', 'stopped')
FAULTS = ('traceback', 'hang', 'killed', 'left over')


class Trial(NamedTuple):
    """One mutated config and the outcome of ``mmssl train``."""

    config: str
    mistake: str
    description: str
    outcome: str
    message: str
    seconds: float


def nested_values(node, path: tuple = ()):
    """Yield (path, value) of everything inside a config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from nested_values(value, (*path, key))


def misspell(name: str, rng: random.Random) -> str:
    """Return the name with one letter omitted, doubled or swapped with the next."""
    at = rng.randrange(len(name))
    choices = (
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    )
    return next((wrong for wrong in rng.sample(choices, 3) if wrong and wrong != name), name + 'x')


def other_type(value, rng: random.Random):
    """Return a value of another type."""
    values = (None, 'text', 7, 0.5, True, [1, 'a'], {'a': 1}, [], {}, '')
    return rng.choice([other for other in values if type(other) is not type(value)])


def is_number(value) -> bool:
    """Return True for a number that is no switch."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fits(mistake: str, key, value) -> bool:
    """Return True if a value can have this mistake."""
    if mistake in ('huge', 'other unit') and key in ('max_iters', 'max_epochs'):
        return False  # a long run is no mistake
    if mistake in ('negative', 'huge', 'zero', 'fraction', 'number as text', 'other unit'):
        return is_number(value) and value != 0
    if mistake == 'switch as text':
        return isinstance(value, bool)
    if mistake == 'other length':
        return isinstance(value, (list, tuple)) and len(value) > 0
    if mistake == 'dict for list':
        return isinstance(value, (list, tuple))
    if mistake in ('exchanged keys', 'exchanged values', 'list for dict'):
        return isinstance(value, dict) and (mistake == 'list for dict' or len(value) > 1)
    if mistake == 'misspelled':
        return isinstance(key, str)
    return True


def changed_value(mistake: str, value, rng: random.Random):
    """Return a value with a mistake of the kind 'values'."""
    if mistake == 'exchanged keys':
        first, second = rng.sample(sorted(value, key=str), 2)
        return {{first: second, second: first}.get(key, key): item for key, item in value.items()}
    if mistake == 'exchanged values':
        first, second = rng.sample(sorted(value, key=str), 2)
        return {**value, first: value[second], second: value[first]}
    if mistake == 'other length':
        kind = type(value)
        return rng.choice((kind(value[:-1]), kind([*value, value[-1]]), kind([*value, *value])))
    changes = {
        'negative': lambda: -abs(value),
        'huge': lambda: rng.choice((10**9, 10**30, 1e300, float('inf'))),
        'zero': lambda: 0,
        'fraction': lambda: value / 3 + 0.25,
        'number as text': lambda: rng.choice((str(value), f'{value} epochs', f'{value},0', '1e')),
        'None': lambda: None,
        'switch as text': lambda: rng.choice((str(value), str(value).lower(), 'yes', 'off')),
        'other unit': lambda: value * rng.choice((1000, 60, 255, 0.001)),
        'dict for list': lambda: {str(index): item for index, item in enumerate(value)},
        'list for dict': lambda: rng.choice(([value], list(value.items()), list(value.values()))),
        'list for value': lambda: rng.choice(([value], [value, value], [[value]])),
    }
    return changes[mistake]()


def mutate(config: dict, rng: random.Random, kinds: tuple[str, ...] = MISTAKES) -> tuple[dict, str, str]:
    """Return a copy of a config with one mistake, the type of mistake, and its description."""
    config = copy.deepcopy(config)
    mistake = rng.choice(kinds)
    # other names (train_pipeline, ...) have been used in building the settings and are not read any more
    settings = {key: value for key, value in config.items() if key in SETTINGS}
    candidates = [(path, value) for path, value in nested_values(settings) if fits(mistake, path[-1], value)]
    if not candidates:
        return mutate(config, rng, kinds)
    path, value = rng.choice(candidates)
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    name, last = '.'.join(map(str, path)), path[-1]
    if mistake in VALUES:
        holder[last] = changed_value(mistake, value, rng)
        return config, mistake, f'{name} = {holder[last]!r:.80}'
    if mistake == 'deleted':
        del holder[last]
        return config, mistake, f'{name} deleted'
    if mistake == 'other type':
        holder[last] = other_type(value, rng)
        return config, mistake, f'{name} = {holder[last]!r}'
    if last == 'type' and isinstance(value, str):
        holder[last] = misspell(value, rng)
        return config, mistake, f'{name} = {holder[last]!r}'
    wrong = misspell(last, rng)
    holder[wrong] = holder.pop(last)
    return config, mistake, f'{name} is spelled {wrong}'


def plain(node):
    """Return a config as dicts, lists and plain values."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node


def read(name: str) -> dict:
    """Read a config; smoke configs are shortened to two steps and a validation on two images."""
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


def use_placeholders() -> None:
    """Replace weights, images and steps in this process, so that everything else is built and checked."""
    import torch
    from mmengine.dataset import BaseDataset
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

    original_build = Runner.build_model

    def build_model(self, model):
        try:
            with torch.device('meta'):
                return original_build(self, model)
        except RuntimeError as error:
            if 'meta tensors' not in str(error):
                raise
        return original_build(self, model)

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
    Runner.build_model = build_model
    Runner._init_model_weights = lambda self: None
    torch.nn.Module.to = lambda self, *args, **kwargs: self
    BaseDataset.full_init = full_init
    EpochBasedTrainLoop.run = IterBasedTrainLoop.run = run


def child(folder: Path, full: bool) -> int:
    """Run ``mmssl train`` on the config in ``folder`` and return its exit status.

    Args:
        folder: Folder with config.py.
        full: Whether the config is of full size and needs placeholders.
    """
    for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    # print writes there too, even if a test runner has replaced the streams
    sys.stdout, sys.stderr = (
        open(descriptor, 'w', encoding='utf-8', buffering=1, closefd=False)  # noqa: SIM115
        for descriptor in (1, 2)
    )
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from mmssl.cli import main

    if full:
        use_placeholders()
    return main(['train', 'config.py', '--work-dir', 'runs/trial'])


def attempt(config: dict, folder: Path, full: bool, limit: float) -> tuple[str, str]:
    """Run one config in a forked process.

    Args:
        config: The config.
        folder: Empty work folder.
        full: As in :func:`child`.
        limit: Seconds of CPU time, and tenths of the elapsed seconds, after which the process is killed.

    Returns:
        Outcome and message.
    """
    (folder / 'config.py').write_text(
        "inf = float('inf')\n" + ''.join(f'{key} = {value!r}\n' for key, value in config.items()),
        encoding='utf-8',
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
    """Return the CPU time of a process, which a busy machine does not change; 0 where there is no /proc."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf(
        'SC_CLK_TCK'
    )  # utime and stime, fields 14 and 15 of proc(5)


def judge(status: int, text: str, has_work_dir: bool) -> tuple[str, str]:
    """Return outcome and message.

    Args:
        status: Exit status.
        text: Error output.
        has_work_dir: Whether a work directory exists after the run.
    """
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
    if has_work_dir:
        return (
            'stopped' if re.match('training failed at iteration|iteration ', message) else 'left over'
        ), message
    return 'refused', message


@contextlib.contextmanager
def demo_folder():
    """Yield a folder with the demo data in ``data/demo``."""
    from mmssl.data.demo import make_demo_data

    with tempfile.TemporaryDirectory() as folder:
        make_demo_data(Path(folder) / 'data/demo')
        yield Path(folder)


def trials(  # noqa: PLR0913
    count: int,
    seed: int,
    data: Path,
    names: list[str],
    limit: float = 60.0,
    on_trial=None,
    control: bool = False,
    kinds: tuple[str, ...] = MISTAKES,
) -> list[Trial]:
    """Mutate configs at random and run them.

    Args:
        count: Number of trials.
        seed: Seed of the choice of configs and mistakes.
        data: Folder of the demo data.
        names: Configs, relative to the checkout, one of which is drawn for each trial.
        limit: As in :func:`attempt`.
        on_trial: Function that is called with every trial.
        control: Run every config without a mistake too.
        kinds: Kinds of mistakes.
    """
    import mmengine.registry as root

    from mmssl import registry
    from mmssl.hosts import patches

    patches.apply()
    for parts in (registry.MODELS, registry.DATASETS):  # once, not in every child
        parts.import_from_location()
        parts.import_pending()
    assert root.MODELS.get('mmssl.MAE')
    gc.freeze()  # mmengine collects garbage, which takes seconds with all toolboxes in memory
    rng, results, configs = random.Random(seed), [], {}
    for _ in range(count):
        name = rng.choice(names)
        todo = []
        if name not in configs:
            configs[name] = read(name)
            if control:
                todo.append((configs[name], CONTROL, 'nothing changed'))
        for config, mistake, description in (*todo, mutate(configs[name], rng, kinds)):
            with tempfile.TemporaryDirectory() as directory:
                folder = Path(directory)
                (folder / 'data').mkdir()
                (folder / 'data/demo').symlink_to(data)
                start = time.monotonic()
                outcome, message = attempt(config, folder, not name.startswith('configs/smoke/'), limit)
            seconds = time.monotonic() - start
            message = message.replace(directory, '.')
            results.append(Trial(name, mistake, description, outcome, message, seconds))
            if on_trial:
                on_trial(results[-1])
    return results


def all_configs() -> list[str]:
    """Return the path of every config, relative to the checkout."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'configs').rglob('*.py')
        if '_base_' not in path.parts
    )


def table(results: list[Trial], command: str) -> str:
    """Return the counts as Markdown, and every distinct message once."""
    counts = Counter((trial.mistake, trial.outcome) for trial in results)
    outcomes = (*GOOD, *FAULTS)
    mistakes = [trial for trial in results if trial.mistake != CONTROL]
    lines = [
        '# Mistakes in configs',
        '',
        f'{len(mistakes)} trials over {len({trial.config for trial in mistakes})} configs: `{command}`.',
        '',
        '`runs`: the mistake was harmless, or is a value that could be meant. `refused`: one line of error, '
        'status 1, no work directory. `stopped`: one line of error after the first step; the log is kept. '
        'Anything else would be a fault.',
        '',
        '| mistake | ' + ' | '.join(outcomes) + ' |',
        '|---' * (len(outcomes) + 1) + '|',
    ]
    kinds = [mistake for group in KINDS.values() for mistake in group]
    kinds = [mistake for mistake in kinds if any(trial.mistake == mistake for trial in mistakes)]
    for mistake in (*kinds, *[CONTROL] * (len(mistakes) < len(results))):
        row = ' | '.join(str(counts[mistake, outcome]) for outcome in outcomes)
        lines.append(f'| {mistake} | {row} |')
    refused = {trial.config for trial in results if trial.mistake == CONTROL and trial.outcome != 'runs'}
    if refused:
        counts = Counter(trial.outcome for trial in mistakes if trial.config in refused)
        lines += [
            '',
            f'{len(refused)} configs do not start with the placeholders even without a mistake (they read '
            'validation data at the start, or need several processes), so that their refusals may have '
            f'another reason; they have {counts.total()} of the trials, {counts["refused"]} of them refused.',
        ]
    lines += ['', 'The messages, similar ones once:', '']
    messages: list[str] = []
    for trial in results:
        message = trial.message[:200].replace('|', '/')
        if message and not difflib.get_close_matches(message, messages, n=1, cutoff=0.7):
            messages.append(message)
            lines.append(f'* {trial.description}: {message}')
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Run the trials, print the table, and return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--number', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--limit', type=float, default=60.0, help='seconds of CPU time after which a trial hangs'
    )
    parser.add_argument('--kinds', choices=sorted(KINDS), default='structure', help='kinds of mistakes')
    parser.add_argument('--configs', default='', help='only configs whose name contains this')
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    names = [name for name in all_configs() if args.configs in name]

    def print_trial(trial):
        where = f'{trial.config}: {trial.description}'
        print(f'{trial.outcome:9} {trial.seconds:5.1f} s  {where}: {trial.message[:240]}', flush=True)

    with demo_folder() as folder:
        data = folder / 'data/demo'
        results = trials(
            args.number, args.seed, data, names, args.limit, print_trial, True, KINDS[args.kinds]
        )
    kinds = f' --kinds {args.kinds}' * (args.kinds != 'structure')
    command = f'python tools/trials/mutate_configs.py{kinds} --number {args.number} --seed {args.seed}'
    text = table(results, command)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding='utf-8')
    return int(any(trial.outcome in FAULTS for trial in results))


if __name__ == '__main__':
    sys.exit(main())
