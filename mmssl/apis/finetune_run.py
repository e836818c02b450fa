"""From own labels to a trained model: a config is written, and the config is what runs."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.apis.finetune_backbones import backbone_for, pretraining_config
from mmssl.apis.finetune_config import choose_budget, config_text
from mmssl.apis.finetune_data import prepare_data
from mmssl.checkpoint import write_text
from mmssl.data.label_formats import TASKS, describe
from mmssl.errors import UserError
from mmssl.hints import nearest, nearest_path

RANDOM = 'random'
CONFIG_FILE = 'config.py'


@dataclass
class Options:
    """What :func:`finetune` leaves to rules if it is None.

    Attributes:
        backbone_config: Config that names the backbone; None takes the one in the checkpoint.
        freeze: Freeze the backbone: linear probing, for ``classify`` only.
        epochs: Passes over the training images.
        iters: Number of steps, in place of ``epochs``.
        batch_size: Images of a step.
        size: Longest side of the images as the model gets them, in pixels.
        format: Format of the labels, if the folder holds several.
        ignore: Values of label maps to ignore, besides 255 and those named void.
        by_folder: Split by folders instead of files, so that a video or a patient stays in one part.
        trust: Load a checkpoint that contains pickled code.
        cfg_options: ``KEY=VALUE`` overrides of the written config.
        dry_run: Write the config and do not train.
        report: Receives the lines about the data and the config; None for silence.
    """

    backbone_config: str | None = None
    freeze: bool = False
    epochs: int | None = None
    iters: int | None = None
    batch_size: int | None = None
    size: int | None = None
    format: str | None = None
    ignore: tuple[int, ...] = ()
    by_folder: bool = False
    trust: bool = False
    cfg_options: tuple[str, ...] = ()
    dry_run: bool = False
    report: Callable[[str], None] | None = None

    def __post_init__(self):
        if self.epochs and self.iters:
            raise UserError('--epochs and --iters are two lengths of one run; give one of them')
        for name in ('epochs', 'iters', 'batch_size', 'size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f'--{name.replace("_", "-")} {value} must be at least 1')


class FineTuned(NamedTuple):
    """What :func:`finetune` returns.

    Attributes:
        model: The trained model in evaluation mode; None after a dry run.
        inferencer: What predicts with it, see :mod:`mmssl.apis`; None after a dry run.
        config: Path of the config.
    """

    model: Any
    inferencer: Any
    config: str


def finetune(
    checkpoint: str | os.PathLike,
    task: str,
    data: str | os.PathLike,
    work_dir: str | os.PathLike | None = None,
    **options: Any,
) -> FineTuned:
    """Train a model for a task on own labels, from a pre-trained backbone.

    The labels are read whatever their format, split unless their layout is, and converted below the work
    directory. ``work_dir/config.py`` is written, and trained as ``mmssl train`` would train it.

    Args:
        checkpoint: Checkpoint of the pre-training; 'random' for random weights.
        task: 'classify', 'detect', 'instance' or 'semantic'.
        data: Folder or file of the labels.
        work_dir: Work directory; ``work_dirs/finetune-TASK-DATA`` if None.
        **options: The attributes of :class:`Options`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Labels, backbone and task do not fit; the message says why.
        TrainingError: The run failed after its first step.

    Examples:
        >>> from mmssl.apis import finetune
        >>> tuned = finetune('epoch_40.pth', 'detect', 'cells/', 'work_dirs/cells', epochs=20)
        >>> tuned.inferencer('new.jpg')[0]['scores']
    """
    settings = Options(**options)
    path = write_config(os.fspath(checkpoint), task, os.fspath(data), work_dir, settings)
    if settings.dry_run:
        return FineTuned(None, None, str(path))
    from mmssl.apis.training import train, training_arguments
    from mmssl.engine.screen import quiet_screen

    with quiet_screen(str(path)):
        train(training_arguments(str(path), cfg_options=list(settings.cfg_options)))
    inferencer = _inferencer(task, path, settings)
    return FineTuned(inferencer.model, inferencer, str(path))


def write_config(
    checkpoint: str, task: str, data: str, work_dir: str | os.PathLike | None, settings: Options
) -> Path:
    """Read the labels, convert them, and write the config; see :func:`finetune`."""
    if task not in TASKS:
        raise ValueError(f'task {task!r} does not exist{nearest(task, TASKS) or f"; one of {TASKS}"}')
    if settings.freeze and task != 'classify':
        raise UserError(f'--freeze is for the task classify; the head of {task} needs a backbone that learns')
    checkpoint = os.path.expanduser(checkpoint)
    if checkpoint != RANDOM and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f'checkpoint {checkpoint} does not exist{nearest_path(checkpoint)}')
    report = settings.report or (lambda text: None)
    pretraining = pretraining_config(checkpoint, settings.backbone_config, settings.trust)
    backbone = backbone_for(task, pretraining, checkpoint, settings.freeze)
    name = Path(os.path.abspath(data)).stem
    folder = Path(work_dir or Path('work_dirs') / f'finetune-{task}-{name}').absolute()
    prepared = prepare_data(data, task, folder, vars(settings))
    report(describe(prepared.labels))
    split = prepared.split
    report(f'training on {len(split.train)} images, validation on {len(split.val)}: {split.rule}')
    budget = choose_budget(task, len(split.train), backbone, _gpu_memory(), vars(settings))
    source = dict(checkpoint=os.path.basename(checkpoint), work_dir=str(folder), freeze=settings.freeze)
    path = folder / CONFIG_FILE
    write_text(path, config_text(task, prepared, backbone, budget, source))
    report(f'{path}: {budget.iters} steps of {budget.batch_size} images')
    return path


def _gpu_memory() -> float:
    """Return the memory of the GPU in GiB; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def _inferencer(task: str, path: Path, settings: Options) -> Any:
    from mmssl import apis
    from mmssl.checkpoint import find_resume_checkpoint
    from mmssl.config.load import load_config

    names = {'classify': 'FeatureInferencer', 'semantic': 'SegmentationInferencer'}
    cfg = load_config(str(path), list(settings.cfg_options))
    inferencer = getattr(apis, names.get(task, 'DetectionInferencer'))
    return inferencer(cfg, find_resume_checkpoint(cfg.work_dir, quiet=True), trust=settings.trust)
