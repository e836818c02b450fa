"""Few-label curves: a run per number of labels, start and seed, which may be interrupted anywhere."""

import os
from collections.abc import Mapping
from pathlib import Path

from mmssl.apis.finetune_data import TaskData
from mmssl.apis.finetune_options import Options
from mmssl.apis.finetune_plan import (
    Start,
    check_options,
    read_data,
    read_start,
    run_config,
    work_folder,
)
from mmssl.apis.finetune_results import CurveRun, file_hash, labels_hash
from mmssl.apis.finetune_subsets import RULE, drawing_order, image_classes, parse_labels, write_subset
from mmssl.apis.finetune_summary import METRICS, LabelCurve, Score, shown, write_summary
from mmssl.config import RANDOM
from mmssl.errors import UserError

SUBSETS = 'subsets'


def train_curve(
    checkpoint: str, task: str, data: str, work_dir: str | os.PathLike | None, settings: Options
) -> tuple[Path, LabelCurve | None]:
    """Train the runs that have not ended yet, and write the table and the picture of all of them.

    Each run has a folder ``START-ENTRY-seedN`` with its config; ``result.json`` in it is written when it has
    ended, and holds hashes of everything that it was made from. The names of the images of each subset are in
    ``subsets``. The work directory gets ``table.md``, ``table.json`` and ``curve.png``.

    Args:
        checkpoint: Pre-trained checkpoint, or 'random'.
        task: The task.
        data: Folder or file of the labels.
        work_dir: Work directory; None for the default.
        settings: The options.

    Returns:
        The config of the first seed's run of ``checkpoint`` with the most labels; the curve, or None after a
        dry run.

    Raises:
        UserError: A folder holds the result of a run with other labels or settings.
    """
    from mmssl.engine.work_dir_lock import work_dir_lock

    check_options(task, settings)
    starts = _starts(checkpoint, task, settings)
    folder = work_folder(task, data, work_dir)
    report = settings.report or (lambda text: None)
    with work_dir_lock(str(folder)):
        prepared = read_data(data, task, folder, settings)
        counts = parse_labels(settings.labels or 'all', len(prepared.split.train))
        runs = _plan(starts, task, prepared, counts, folder, settings)
        results = [run.result() for run in runs]
        open_runs = sum(result is None for result in results)
        report(f'{RULE} (lists in {folder / SUBSETS})')
        report(f'{len(runs)} runs, {open_runs} of them still to train')
        best = next(
            run for run in reversed(runs) if run.start == next(iter(starts)) and run.seed == settings.seeds[0]
        )
        if settings.dry_run:
            for run, result in zip(runs, results, strict=True):
                if result is None:
                    run.write()
            return best.config, None
        scores = _train(runs, results, settings)
        curve = LabelCurve(settings.recipe or task, list(starts), scores)
        for line in write_summary(curve, folder):
            report(line)
    return best.config, curve


def _train(runs: list[CurveRun], results: list, settings: Options) -> list[Score]:
    """Train the runs without a result, and return the scores of all."""
    report = settings.report or (lambda text: None)
    scores = []
    for number, (run, known) in enumerate(zip(runs, results, strict=True), 1):
        if known is None:
            report(f'run {number} of {len(runs)}: {run.folder.name}, {run.num_labels} training images')
        result = run.train(settings) if known is None else known
        earlier = '' if known is None else ' (trained earlier)'
        report(f'{run.folder.name}: {METRICS[run.recipe].name} {shown(result["value"])}{earlier}')
        scores.append(Score(run.start, run.num_labels, run.seed, result['value']))
    return scores


def _starts(checkpoint: str, task: str, settings: Options) -> dict[str, Start]:
    """Return the starts by name: 'random', or the name of the file, with its folder if the names are one."""
    paths = [checkpoint]
    starts = [read_start(checkpoint, task, settings)]
    if settings.compare is not None:
        other = settings.compare
        paths.append(other)
        # random weights of the backbone that they are compared with
        starts.append(read_start(other, task, settings, checkpoint if other == RANDOM else None))
    names = [_start_name(path) for path in paths]
    if len(set(names)) < len(names):
        names = [
            f'{Path(path).absolute().parent.name}-{name}' for path, name in zip(paths, names, strict=True)
        ]
    if len(set(names)) < len(names):
        raise UserError(f'--compare {settings.compare} has the name of {checkpoint}; rename the file')
    return dict(zip(names, starts, strict=True))


def _start_name(checkpoint: str) -> str:
    return checkpoint if checkpoint == RANDOM else Path(checkpoint).stem.replace(' ', '_')


def _plan(
    starts: Mapping[str, Start],
    task: str,
    data: TaskData,
    counts: Mapping[str, int],
    folder: Path,
    settings: Options,
) -> list[CurveRun]:
    """Write the subsets, and return the runs, those with few labels first."""
    checkpoints = {name: file_hash(start.checkpoint) for name, start in starts.items()}
    shared = dict(val=labels_hash(task, data, 'val'), cfg_options=list(settings.cfg_options))
    classes = image_classes(data, task)
    orders = {seed: drawing_order(data, classes, seed) for seed in settings.seeds}
    runs = []
    for entry, count in counts.items():
        for seed, order in orders.items():
            path = folder / SUBSETS / f'{entry}-seed{seed}.txt'
            subset = write_subset(data, task, order[:count], path)
            labels = labels_hash(task, subset, 'train')
            for name, start in starts.items():
                run_folder = folder / f'{name}-{entry}-seed{seed}'
                text, _ = run_config(start, task, subset, run_folder, settings, seed)
                inputs = dict(
                    shared,
                    checkpoint=checkpoints[name],
                    train=labels,
                    config=text.replace(str(folder), ''),
                )
                recipe = settings.recipe or task
                runs.append(CurveRun(name, recipe, count, seed, run_folder, text, inputs))
    return runs
