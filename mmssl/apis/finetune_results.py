"""A run of a few-label curve: what it is made from, whether it has ended, and its result."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.apis.finetune_data import TaskData
from mmssl.apis.finetune_options import CONFIG_FILE, Options
from mmssl.apis.finetune_plan import train_config
from mmssl.apis.finetune_summary import METRICS
from mmssl.checkpoint import find_resume_checkpoint, load_file, write_json, write_text
from mmssl.config import RANDOM
from mmssl.errors import TrainingError, UserError

RESULT = 'result.json'
STARTED = 'started.json'


class CurveRun(NamedTuple):
    """One run of a curve.

    Attributes:
        start: Name of its start.
        recipe: The recipe, a key of :data:`mmssl.apis.finetune_summary.METRICS`.
        num_labels: Number of training images.
        seed: Seed of the subset and of the run.
        folder: Its work directory.
        text: Its config.
        inputs: What it is made from: hashes of checkpoint and labels, the overrides, and the config without
            the folder.
    """

    start: str
    recipe: str
    num_labels: int
    seed: int
    folder: Path
    text: str
    inputs: dict[str, Any]

    @property
    def config(self) -> Path:
        """Path of its config."""
        return self.folder / CONFIG_FILE

    def result(self) -> dict[str, Any] | None:
        """Return the result if the run has ended, else None.

        Raises:
            UserError: It is the result of other labels, settings or weights.
        """
        result = _read(self.folder / RESULT)
        if result is None:
            return None
        inputs = result.get('inputs', {})
        changed = [name for name, value in self.inputs.items() if inputs.get(name) != value]
        if changed:
            raise UserError(
                f'{self.folder / RESULT} is the result of other inputs ({", ".join(changed)}); remove '
                f'{self.folder} to train this run again, or choose another --work-dir'
            )
        return result

    def write(self) -> None:
        """Write the config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.config, self.text)

    def train(self, settings: Options) -> dict[str, Any]:
        """Train, from the last checkpoint if the run was interrupted, and write and return the result."""
        state = self._state(settings)
        if state != 'ended':
            if state == 'new' and self.folder.exists():
                shutil.rmtree(self.folder)
            self.write()
            write_json(self.folder / STARTED, self.inputs)
            train_config(self.config, settings, 'auto' if state == 'interrupted' else None)
        metrics = _metrics(self.folder)
        result = dict(
            start=self.start,
            labels=self.num_labels,
            seed=self.seed,
            value=_value(metrics, self.recipe, self.folder),
            metrics=metrics,
            inputs=self.inputs,
        )
        write_json(self.folder / RESULT, result)
        return result

    def _state(self, settings: Options) -> str:
        """Return 'new', 'interrupted' (a checkpoint is left to resume) or 'ended' (all but the result)."""
        if _read(self.folder / STARTED) != self.inputs:
            return 'new'
        checkpoint = find_resume_checkpoint(self.folder, quiet=True)
        if checkpoint is None:
            return 'new'
        from mmssl.config.load import load_config

        last = load_config(str(self.config), list(settings.cfg_options)).train_cfg.max_iters
        if load_file(checkpoint, mmap=True)['meta']['iter'] < last:
            return 'interrupted'
        return 'ended' if _metrics(self.folder) else 'new'


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding='utf-8'))


def _metrics(folder: Path) -> dict[str, float | None]:
    """Return the metrics of the last validation, None for those that are not defined; {} without one."""
    from mmssl.visualization.runs import Run

    try:
        run = Run(folder)
    except ValueError:  # killed before its first line
        return {}
    values = {key: run.curves[key][-1][1] for key in run.metric_keys}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _value(metrics: dict[str, float | None], recipe: str, folder: Path) -> float | None:
    """Return the metric of the curve in percent; None where it is not defined."""
    metric = METRICS[recipe]
    if metric.key not in metrics:
        if not metrics and recipe in ('detect', 'instance'):
            return 0.0  # nothing was detected, of which mmdet computes no metric
        raise TrainingError(
            f'{folder} has ended without {metric.key}; leave the validation on in --cfg-options'
        )
    value = metrics[metric.key]
    return None if value is None else value * metric.factor


def labels_hash(task: str, data: TaskData, part: str) -> str:
    """Return a hash of the converted labels of a part, 'train' or 'val'."""
    if task == 'classify':
        return file_hash(data.train_file if part == 'train' else f'{data.folder}/val.txt')
    if task != 'semantic':
        return file_hash(data.train_file if part == 'train' else f'{data.folder}/val.json')
    digest = hashlib.sha256()
    for image in getattr(data.split, part).images:
        name = f'labels/{part}/{os.path.splitext(image.name)[0]}.png'
        digest.update(f'{name}:{file_hash(os.path.join(data.folder, name))}\n'.encode())
    return digest.hexdigest()


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file; 'random' for itself."""
    if path == RANDOM:
        return RANDOM
    with open(os.path.expanduser(path), 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
