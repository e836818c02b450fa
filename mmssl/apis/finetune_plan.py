"""One fine-tuning run: its start, its data, its config, and the training of the config."""

import os
from pathlib import Path
from typing import NamedTuple

from mmssl.apis.finetune_architecture import Backbone
from mmssl.apis.finetune_backbones import backbone_for, pretraining_config
from mmssl.apis.finetune_config import Budget, choose_budget, config_text
from mmssl.apis.finetune_data import TaskData, prepare_data
from mmssl.apis.finetune_options import CONFIG_FILE, Options
from mmssl.checkpoint import write_text
from mmssl.config import RANDOM
from mmssl.data.label_formats import TASKS, describe
from mmssl.errors import UserError
from mmssl.hints import nearest, nearest_path

SAM_LORA = 'sam-lora'
RECIPES: dict[str, tuple[str, ...]] = {'classify': (), 'detect': (), 'instance': (SAM_LORA,), 'semantic': ()}


def write_config(
    checkpoint: str, task: str, data: str, work_dir: str | os.PathLike | None, settings: Options
) -> Path:
    """Read the labels, convert them, and write the config of one run; see :func:`finetune`."""
    check_options(task, settings)
    start = read_start(checkpoint, task, settings)
    folder = work_folder(task, data, work_dir)
    prepared = read_data(data, task, folder, settings)
    text, budget = run_config(start, task, prepared, folder, settings, settings.seeds[0])
    path = folder / CONFIG_FILE
    write_text(path, text)
    if settings.report:
        settings.report(f'{path}: {budget.iters} steps of {budget.batch_size} images')
    return path


def work_folder(task: str, data: str, work_dir: str | os.PathLike | None) -> Path:
    """Return the work directory, by default ``work_dirs/finetune-TASK-DATA``."""
    name = Path(os.path.abspath(data)).stem
    return Path(work_dir or Path('work_dirs') / f'finetune-{task}-{name}').absolute()


class Start(NamedTuple):
    """The weights that a run starts from.

    Attributes:
        checkpoint: Path of the checkpoint, or 'random'.
        backbone: The backbone.
    """

    checkpoint: str
    backbone: Backbone


def check_options(task: str, settings: Options) -> None:
    """Raise an error if options do not fit the task."""
    if task not in TASKS:
        raise ValueError(f'task {task!r} does not exist{nearest(task, TASKS) or f"; one of {TASKS}"}')
    if settings.freeze and task != 'classify':
        raise UserError(f'--freeze is for the task classify; the head of {task} needs a backbone that learns')
    if settings.recipe is not None and settings.recipe not in RECIPES[task]:
        known = [f'{name} for --task {each}' for each, names in RECIPES.items() for name in names]
        raise UserError(f'--recipe {settings.recipe} is none of --task {task}; there is {", ".join(known)}')


def read_start(checkpoint: str, task: str, settings: Options, architecture: str | None = None) -> Start:
    """Return the start that a checkpoint is, with the backbone that the recipe needs.

    Args:
        checkpoint: Pre-trained checkpoint, or 'random'.
        task: The task.
        settings: The options.
        architecture: Checkpoint whose config names the backbone; None for the same one.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: There is no recipe for its backbone.
    """
    checkpoint = os.path.expanduser(checkpoint)
    if checkpoint != RANDOM and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f'checkpoint {checkpoint} does not exist{nearest_path(checkpoint)}')
    if settings.recipe == SAM_LORA:
        from mmssl.apis.finetune_sam import sam_start

        return Start(
            checkpoint,
            sam_start(checkpoint, settings.backbone_config, settings.size, settings.trust, settings.stats),
        )
    source = os.path.expanduser(architecture or checkpoint)
    pretraining = pretraining_config(source, settings.backbone_config, settings.trust)
    backbone = backbone_for(task, pretraining, checkpoint, settings.freeze, settings.stats)
    size, patch = settings.size, backbone.strides[0]
    if task == 'classify' and backbone.is_vit and size and size % patch:
        raise UserError(
            f'--size {size} does not divide by {patch}, the side of a patch; take {-(-size // patch) * patch}'
        )
    return Start(checkpoint, backbone)


def read_data(data: str, task: str, folder: Path, settings: Options) -> TaskData:
    """Read, split and convert the labels, and report what was found."""
    report = settings.report or (lambda text: None)
    prepared = prepare_data(data, task, folder, vars(settings))
    split = prepared.split
    report(describe(prepared.labels))
    report(f'training on {len(split.train)} images, validation on {len(split.val)}: {split.rule}')
    return prepared


def run_config(
    start: Start, task: str, data: TaskData, folder: Path, settings: Options, seed: int
) -> tuple[str, Budget]:
    """Return the text of the config of a run, and its length.

    Args:
        start: Its start.
        task: The task.
        data: The labels.
        folder: Its work directory.
        settings: The options.
        seed: Seed of the run.
    """
    recipe = settings.recipe or task
    budget = choose_budget(recipe, len(data.split.train), start.backbone, _gpu_memory(), vars(settings))
    source = dict(
        checkpoint=os.path.basename(start.checkpoint),
        work_dir=str(folder),
        freeze=settings.freeze,
        seed=seed,
    )
    return config_text(recipe, data, start.backbone, budget, source), budget


def train_config(path: Path, settings: Options, resume: str | None = None) -> None:
    """Train a written config as ``mmssl train`` does."""
    from mmssl.apis.training import train, training_arguments
    from mmssl.engine.screen import quiet_screen

    with quiet_screen(str(path)):
        train(training_arguments(str(path), cfg_options=list(settings.cfg_options), resume=resume))


def _gpu_memory() -> float:
    """Return the memory of the GPU in GiB; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return torch.cuda.get_device_properties(0).total_memory / 2**30
