"""Random mistakes in annotation files: the right numbers, or one line of error that names the file.

    python tools/trials/mutate_annotations.py --number 100 --seed 0 --output docs/trials/mutate_annotations.md

Every trial changes one COCO file, one XML file of PASCAL VOC or one label map of a few images
(:mod:`mutate_annotation_files`), as data of training or of validation, and runs ``mmssl train`` for one step
and a validation, and ``mmssl check-data``, in separate processes. The objects and pixels that training gets
are compared with an independent reading of the file (:mod:`mutate_annotation_reference`), and ``check-data``
has to report a problem exactly where training refuses the file. A third of the COCO files is read as masks
for prompting.
"""

import argparse
import copy
import difflib
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent)] * (str(Path(__file__).resolve().parent) not in sys.path)

import mutate_annotation_files as files  # noqa: E402
import mutate_annotation_reference as reference  # noqa: E402
import mutate_configs  # noqa: E402
import numpy as np  # noqa: E402

TRAIN, VAL = 4, 2
GOOD = ('right', 'refused', 'stopped')
FAULTS = ('wrong', 'traceback', 'hang', 'killed', 'left over', 'unnamed', 'check-data differs')
SMOKE = {'COCO': 'rfcn', 'masks': 'sam', 'VOC': 'rfcn', 'label maps': 'gcn'}


class Trial(NamedTuple):
    """One mutated file and the outcome of ``mmssl train`` and ``mmssl check-data``."""

    kind: str
    split: str
    description: str
    outcome: str
    message: str
    seconds: float


def write_data(root: Path, demo: Path) -> None:
    """Write COCO files, the layout of PASCAL VOC and label maps of a few images of the demo data."""
    import json

    scenes = demo.resolve() / 'scenes'
    for split, count, voc_split in (('train', TRAIN, 'train'), ('val', VAL, 'val')):
        content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
        content['images'] = content['images'][:count]
        ids = {image['id'] for image in content['images']}
        content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] in ids]
        (root / 'coco').mkdir(parents=True, exist_ok=True)
        (root / f'coco/{split}.json').write_text(json.dumps(content))
        stems = [Path(image['file_name']).stem for image in content['images']]
        (root / 'VOC2007/ImageSets/Main').mkdir(parents=True, exist_ok=True)
        (root / f'VOC2007/ImageSets/Main/{voc_split}.txt').write_text('\n'.join(stems) + '\n')
        for source, target, suffix in (
            (f'images/{split}', f'images/{split}', '.jpg'),
            (f'images/{split}', 'VOC2007/JPEGImages', '.jpg'),
            ('VOC2007/Annotations', 'VOC2007/Annotations', '.xml'),
            (f'labels/{split}', f'labels/{split}', '.png'),
        ):
            (root / target).mkdir(parents=True, exist_ok=True)
            for stem in stems:
                if suffix == '.jpg':
                    (root / target / f'{stem}{suffix}').symlink_to(scenes / source / f'{stem}{suffix}')
                else:
                    shutil.copy(scenes / source / f'{stem}{suffix}', root / target)


def read_config(kind: str) -> dict:
    """Return the config of a kind of files: one step on all images and a validation."""
    config = copy.deepcopy(mutate_configs.read(f'configs/smoke/{SMOKE[kind]}.py'))
    config['train_cfg'].update(max_iters=1, val_interval=1)
    for split, batch in (('train', TRAIN), ('val', VAL)):
        loader = config[f'{split}_dataloader']
        loader['batch_size'] = batch if kind != 'COCO' or split == 'train' else 1
        dataset = loader['dataset']
        dataset.pop('indices', None)
        dataset['data_root'] = 'data'
        if kind in ('COCO', 'masks'):
            dataset['ann_file'] = f'coco/{split}.json'
        elif kind == 'VOC':
            dataset.update(
                type='XMLDataset',
                ann_file=f'VOC2007/ImageSets/Main/{split}.txt',
                data_prefix=dict(sub_data_root='VOC2007'),
            )
    if kind == 'COCO':
        config['val_evaluator']['ann_file'] = 'data/coco/val.json'
    if kind == 'VOC':
        for split in ('train', 'val'):
            config[f'{split}_dataloader']['dataset']['type'] = 'VOCDataset'
        config['val_evaluator'] = dict(type='VOCMetric', metric='mAP', eval_mode='area')
    if kind == 'label maps':  # the whole of every map is trained on
        steps = config['train_dataloader']['dataset']['pipeline']
        steps[:] = [step for step in steps if step['type'] != 'RandomCrop']
        next(step for step in steps if step['type'] == 'Resize')['scale'] = (64, 64)
    config['test_cfg'] = config['test_dataloader'] = config['test_evaluator'] = None
    return config


def target(kind: str, split: str, rng: random.Random) -> str:
    """Return the file to change."""
    if kind in ('COCO', 'masks'):
        return f'coco/{split}.json'
    first, count = (1, TRAIN) if split == 'train' else (61, VAL)
    stem = f'scene_{first + rng.randrange(count):04d}'
    return f'VOC2007/Annotations/{stem}.xml' if kind == 'VOC' else f'labels/{split}/{stem}.png'


def dump_when_training(split: str) -> None:
    """Let the training of this process write what its data set of ``split`` contains to ``dump.npz``."""
    from mmengine.runner import IterBasedTrainLoop

    original = IterBasedTrainLoop.run

    def run(self):
        loop = self if split == 'train' else self.runner.val_loop
        dataset = loop.dataloader.dataset
        rows = {}
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            name = Path(info['img_path']).name
            if 'instances' in info:
                rows[f'{index} {name}'] = np.array(
                    [[item['bbox_label'], item['ignore_flag'], *item['bbox']] for item in info['instances']],
                    dtype=np.float64,
                )
            elif 'read_masks' in info:
                rows[f'{index} {name}'] = np.sort(info['read_masks'](info).sum((1, 2)))
            else:
                load = next(step for step in dataset.pipeline.transforms if 'LabelMap' in type(step).__name__)
                rows[f'{index} {name}'] = load({**info, 'seg_fields': []})['gt_seg_map']
        np.savez('dump.npz', **rows)
        return original(self)

    IterBasedTrainLoop.run = run


def compare(kind: str, split: str, folder: Path, file: Path, classes: list[str]) -> str:
    """Describe how the data of training differ from an independent reading; '' if they do not."""
    if not (folder / 'dump.npz').exists():
        return 'nothing was dumped'
    with np.load(folder / 'dump.npz') as dump:
        got = {name: dump[name] for name in dump}
    if kind == 'label maps':
        expected = reference.read_labels(file)
        if expected is None:
            return 'no reference: the file is damaged, or no label map'
        labels = next(rows for name, rows in got.items() if name.endswith(f'{file.stem}.jpg'))
        same = labels.shape == expected.shape and (labels == expected).all()
        return '' if same else f'labels {np.unique(labels)}, not {np.unique(expected)}'
    if kind == 'masks':
        expected = reference.read_masks(file)
        found = {name.split(' ', 1)[1]: rows.tolist() for name, rows in got.items()}
        if expected is None:
            return 'no reference'
        areas = [list(values.values())[:2] for values in (found, expected)]
        return '' if found == expected else f'areas {areas[0]}, not {areas[1]}'
    if kind == 'COCO':
        boxes = reference.read_coco(file, classes)
    else:
        boxes = reference.read_voc(folder / 'data/VOC2007', split, classes, keeps_flat=split == 'val')
    if boxes is None:
        return 'no reference'
    return reference.differences({name.split(' ', 1)[1]: rows.tolist() for name, rows in got.items()}, boxes)


def attempt(command: list[str], folder: Path, limit: float, prepare=None) -> tuple[int | None, str, str]:
    """Run a command of mmssl in a forked process.

    Args:
        command: Arguments of ``mmssl``.
        folder: Its working directory.
        limit: Seconds of CPU time, and tenths of the elapsed seconds, after which it is killed.
        prepare: Called first in the process.

    Returns:
        Exit status, None for a hang; standard output; error output.
    """
    names = [folder / f'{command[0]}.{stream}' for stream in ('out', 'err')]
    pid = os.fork()
    if pid == 0:
        os.setsid()
        status = 70
        try:
            status = _child(command, folder, names, prepare)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline, done = time.monotonic() + 10 * limit, (0, 0)
    while not done[0] and time.monotonic() < deadline and mutate_configs.cpu_seconds(pid) < limit:
        time.sleep(0.01)
        done = os.waitpid(pid, os.WNOHANG)
    if not done[0]:
        os.killpg(pid, 9)
        os.waitpid(pid, 0)
    out, err = (name.read_text(errors='replace') if name.exists() else '' for name in names)
    return (os.waitstatus_to_exitcode(done[1]) if done[0] else None), out, err


def _child(command: list[str], folder: Path, names: list[Path], prepare) -> int:
    for descriptor, name in ((1, names[0]), (2, names[1])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    sys.stdout, sys.stderr = (
        open(descriptor, 'w', encoding='utf-8', buffering=1, closefd=False)  # noqa: SIM115
        for descriptor in (1, 2)
    )
    os.chdir(folder)
    from mmssl.cli import main

    if prepare:
        prepare()
    return int(main(command) or 0)


def run_trial(kind: str, split: str, seed: int, base: Path, config: dict, limit: float) -> Trial:
    """Change one file of the data in ``base``, and train on it."""
    rng = random.Random(f'{kind} {seed}')
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        shutil.copytree(base, folder / 'data', symlinks=True)
        file = folder / 'data' / target(kind, split, rng)
        changes = files.MUTATIONS['COCO' if kind == 'masks' else kind]
        description = rng.choice(changes)(rng, file)
        (folder / 'config.py').write_text(
            ''.join(f'{key} = {value!r}\n' for key, value in config.items()), encoding='utf-8'
        )
        train = attempt(
            ['train', 'config.py', '--work-dir', 'runs/trial'],
            folder,
            limit,
            lambda: dump_when_training(split),
        )
        check = attempt(['check-data', 'config.py', '--split', split], folder, limit)
        classes = list(config['train_dataloader']['dataset'].get('metainfo', {}).get('classes', ()))
        outcome, message = judge(train, check, (folder / 'runs').exists(), (file, split))
        if outcome == 'right':
            message = compare(kind, split, folder, file, classes)
            outcome = 'wrong' if message else 'right'
        return Trial(
            kind, split, description, outcome, message.replace(directory, '.'), time.monotonic() - start
        )


def judge(train: tuple, check: tuple, has_work_dir: bool, where: tuple[Path, str]) -> tuple[str, str]:
    """Return outcome and message of a trial from exit status, output and errors of both commands."""
    status, logged, text = train
    file, split = where
    if status is None:
        return 'hang', text[-300:]
    outcome, message = mutate_configs.judge(status, text, has_work_dir)
    if outcome == 'left over' and split == 'val':  # the training was finished
        outcome = 'stopped'
    check_status, out, errors = check
    problems = [line for line in out.splitlines() if line.startswith('problem: ')]
    if check_status is None or check_status < 0 or check_status not in (0, 1) or 'Traceback' in errors:
        return ('hang' if check_status is None else 'traceback'), f'check-data: {(errors or out)[-300:]}'
    if outcome not in ('runs', 'refused', 'stopped'):
        return outcome, message
    if outcome == 'runs' and any('no pixel of' in line for line in problems) and 'no pixel of' in logged:
        return 'right', ''  # training warns of what looks like classes that are ignored by mistake
    if (outcome == 'runs') != (check_status == 0):
        said = problems[0] if problems else 'no problem'
        return 'check-data differs', f'training {outcome} {message[:200]!r}, check-data {said!r}'
    if outcome == 'runs':
        return 'right', ''
    if not any(name in message for name in (file.name, file.stem, f'{split}.txt')):
        return 'unnamed', message
    return outcome, message


def trials(
    number: int, seed: int, kinds: tuple[str, ...], data: Path, limit: float = 60.0, on_trial=None
) -> list[Trial]:
    """Run the trials.

    Args:
        number: Number of files of each kind.
        seed: Seed of the first trial.
        kinds: 'COCO', 'VOC' or 'label maps'.
        data: Folder of the demo data.
        limit: As in :func:`attempt`.
        on_trial: Function that is called with every trial.
    """
    import mmengine.registry as root

    from mmssl import registry
    from mmssl.hosts import patches

    patches.apply()
    for parts in (registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.METRICS):
        parts.import_from_location()
        parts.import_pending()
    assert root.MODELS.get('mmssl.RFCN')
    results = []
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory) / 'base'
        write_data(base, data)
        for kind in kinds:
            configs = {name: read_config(name) for name in ((kind, 'masks') if kind == 'COCO' else (kind,))}
            for index in range(seed, seed + number):
                name = 'masks' if kind == 'COCO' and index % 3 == 2 else kind
                split = 'val' if index % 4 == 3 else 'train'
                results.append(run_trial(name, split, index, base, configs[name], limit))
                if on_trial:
                    on_trial(results[-1])
    return results


def table(results: list[Trial], command: str) -> str:
    """Return the counts as Markdown, and similar messages once."""
    outcomes = (*GOOD, *FAULTS)
    counts = Counter((trial.kind, trial.outcome) for trial in results)
    lines = [
        '# Mistakes in annotation files',
        '',
        f'{len(results)} trials: `{command}`.',
        '',
        '`right`: training gets the objects or pixels that an independent reading gives. `refused`: one line '
        'of error that names the file, status 1, no work directory. `stopped`: the same in the validation '
        'after the step; the log is kept. Anything else would be a fault. `mmssl check-data` reports a '
        'problem in all that are refused or stopped, and in no other, except that classes without a pixel '
        'beside ignored pixels are a problem there and a warning in training.',
        '',
        '| file | ' + ' | '.join(outcomes) + ' |',
        '|---' * (len(outcomes) + 1) + '|',
    ]
    for kind in dict.fromkeys(trial.kind for trial in results):
        lines.append(f'| {kind} | ' + ' | '.join(str(counts[kind, outcome]) for outcome in outcomes) + ' |')
    lines += ['', 'The messages, similar ones once:', '']
    messages: list[str] = []
    for trial in results:
        message = trial.message[:240].replace('|', '/').replace('\n', ' ')
        if message and not difflib.get_close_matches(message, messages, n=1, cutoff=0.7):
            messages.append(message)
            lines.append(f'* {trial.kind}, {trial.description}: {message}')
    return '\n'.join(lines) + '\n'


def save_time() -> None:
    """Leave out what takes most of a trial and is the same in all: formatting, collecting garbage."""
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, **options: (text, True)
    gc.freeze()  # mmengine collects, which takes seconds with all toolboxes in memory


def main() -> int:
    """Run the trials, print the table, and return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--number', type=int, default=100, help='files of each kind')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', default=('COCO', 'VOC', 'label maps'))
    parser.add_argument('--limit', type=float, default=60.0, help='seconds of CPU time that are a hang')
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')

    def print_trial(trial):
        where = f'{trial.kind}, {trial.split}: {trial.description}'
        print(f'{trial.outcome:9} {trial.seconds:5.1f} s  {where}: {trial.message[:300]}', flush=True)

    with mutate_configs.demo_folder() as demo:
        save_time()
        results = trials(
            args.number, args.seed, tuple(args.kinds), demo / 'data/demo', args.limit, print_trial
        )
    command = f'python tools/trials/mutate_annotations.py --number {args.number} --seed {args.seed}'
    text = table(results, command)
    print(text)
    if args.output:
        args.output.write_text(text, encoding='utf-8')
    return int(any(trial.outcome in FAULTS for trial in results))


if __name__ == '__main__':
    sys.exit(main())
