"""From labels to a trained model: a config is written, and the config is what runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmssl.apis.finetune_backbones import Backbone, backbone_for, pretraining_config
from mmssl.apis.finetune_config import Budget, choose_budget, config_text
from mmssl.apis.finetune_data import TaskData, prepare_data
from mmssl.apis.finetune_options import CONFIG_FILE, Options
from mmssl.checkpoint import write_text
from mmssl.config import RANDOM
from mmssl.data.label_formats import TASKS, describe
from mmssl.errors import UserError
from mmssl.hints import nearest, nearest_path

if TYPE_CHECKING:
    from mmssl.apis.finetune_summary import LabelCurve

SAM_LORA = 'sam-lora'
RECIPES = {'classify': (), 'detect': (), 'instance': (SAM_LORA,), 'semantic': ()}


class FineTuned(NamedTuple):
    """What :func:`finetune` returns.

    Attributes:
        model: The trained model in evaluation mode; None after a dry run. Of a curve, the first seed's model
            of ``checkpoint`` with the most labels.
        inferencer: What predicts with it, see :mod:`mmssl.apis`; None after a dry run.
        config: Path of its config.
        curve: The few-label curve; None for a single run.
    """

    model: Any
    inferencer: Any
    config: str
    curve: 'LabelCurve | None' = None


def finetune(
    checkpoint: str | os.PathLike,
    task: str,
    data: str | os.PathLike,
    work_dir: str | os.PathLike | None = None,
    **options: Any,
) -> FineTuned:
    """Train a model for a task on your labels, from a pre-trained backbone.

    The labels are read whatever their format, split unless their layout is, and converted below the work
    directory. ``work_dir/config.py`` is written, and trained as ``mmssl train`` would train it. With
    ``labels``, ``compare`` or several ``seeds`` it is a run per number of labels, start and seed, each in a
    folder of its own; runs that have ended are not trained again.

    Args:
        checkpoint: Pre-trained checkpoint; 'random' for random weights.
        task: 'classify', 'detect', 'instance' or 'semantic'.
        data: Folder or file of the labels.
        work_dir: Work directory; ``work_dirs/finetune-TASK-DATA`` if None.
        **options: The attributes of :class:`mmssl.apis.finetune_options.Options`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Labels, backbone and task do not fit; the message says why.
        TrainingError: The run failed after its first step.

    Examples:
        >>> from mmssl.apis import finetune
        >>> tuned = finetune('epoch_40.pth', 'detect', 'cells/', 'work_dirs/cells', epochs=20)
        >>> tuned.inferencer('new.jpg')[0]['scores']
        >>> finetune('epoch_40.pth', 'detect', 'cells/', labels='10,50,all', compare='random').curve.rows
    """
    settings = Options(**options)
    checkpoint, data = os.fspath(checkpoint), os.fspath(data)
    curve = None
    if settings.is_curve:
        from mmssl.apis.finetune_curve import train_curve

        path, curve = train_curve(checkpoint, task, data, work_dir, settings)
    else:
        path = write_config(checkpoint, task, data, work_dir, settings)
        if not settings.dry_run:
            train_config(path, settings)
    if settings.dry_run:
        return FineTuned(None, None, str(path))
    inferencer = _inferencer(settings.recipe or task, path, settings)
    return FineTuned(inferencer.model, inferencer, str(path), curve)


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
            checkpoint, sam_start(checkpoint, settings.backbone_config, settings.size, settings.trust)
        )
    source = os.path.expanduser(architecture or checkpoint)
    pretraining = pretraining_config(source, settings.backbone_config, settings.trust)
    backbone = backbone_for(task, pretraining, checkpoint, settings.freeze)
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


def _inferencer(recipe: str, path: Path, settings: Options) -> Any:
    from mmssl import apis
    from mmssl.checkpoint import find_resume_checkpoint
    from mmssl.config.load import load_config

    if recipe == SAM_LORA:
        return apis.PromptInferencer(path, path.parent / 'sam.pth', trust=settings.trust)
    names = {'classify': 'FeatureInferencer', 'semantic': 'SegmentationInferencer'}
    cfg = load_config(str(path), list(settings.cfg_options))
    inferencer = getattr(apis, names.get(recipe, 'DetectionInferencer'))
    return inferencer(cfg, find_resume_checkpoint(cfg.work_dir, quiet=True), trust=settings.trust)
