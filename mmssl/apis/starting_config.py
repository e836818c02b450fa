"""A first config for the user's images, and the command that trains it."""

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from mmssl.apis.finetune_run import Options, write_config
from mmssl.checkpoint import write_text
from mmssl.config import RANDOM
from mmssl.data.label_formats import TASKS, read_labels
from mmssl.data.label_formats.files import LabelFolder
from mmssl.data.label_formats.find import find_formats
from mmssl.data.listed import list_images
from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.errors import UserError

PRETRAIN = 'pretrain'
GOALS = (PRETRAIN, *TASKS)
# pre-training by device: the config, and its images of a step (for every 16 GiB of a GPU)
METHODS = {
    'moco': ('tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py', 64),
    'mae': ('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 64),
    'dino': ('dino/dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py', 32),
}
MAX_BATCHES = 4
GIB_PER_BATCH = 16


class StartingConfig(NamedTuple):
    """What :func:`init` returns.

    Attributes:
        config: Path of the config.
        command: Shell command that trains it.
    """

    config: str
    command: str


def suggest_goal(data: str | os.PathLike) -> str:
    """Return what a folder of images is good for: the first task that its labels serve, else 'pretrain'.

    Class folders may be a way of sorting images; they are suggested for a classifier all the same.

    Raises:
        FileNotFoundError: There is no such folder or file.
        LabelError: There are labels, but they are wrong, or of several formats.
    """
    if not os.path.exists(data):
        raise FileNotFoundError(f'{data} does not exist; give a folder of images, or a file of labels')
    if not find_formats(LabelFolder(data)):
        return PRETRAIN
    labels = read_labels(data)
    return next(task for task in ('semantic', 'instance', 'detect', 'classify') if labels.supports(task))


def suggest_start(goal: str) -> str:
    """Return the method or weights to begin with: a small MoCo v2 on a CPU, MAE ViT-B on a GPU."""
    if goal != PRETRAIN:
        return RANDOM
    return 'mae' if gpu_memory() else 'moco'


def gpu_memory() -> float:
    """Return the memory of the GPU in GiB; 0 without one."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0


def init(
    data: str | os.PathLike,
    goal: str | None = None,
    start: str | None = None,
    epochs: int | None = None,
    out: str | os.PathLike | None = None,
) -> StartingConfig:
    """Write a config that pre-trains on the images of a folder, or that trains on its labels.

    Args:
        data: Folder of images, or folder or file of labels.
        goal: 'pretrain', 'classify', 'detect', 'instance' or 'semantic'; None asks :func:`suggest_goal`.
        start: A key of :data:`METHODS` for 'pretrain'; else a pre-trained checkpoint, or 'random', a
            ResNet-18 of half the width that knows nothing yet.
        epochs: Passes over the images; None for the length of the recipe.
        out: Folder of the config, and of the run; ``work_dirs/GOAL-DATA`` if None.

    Raises:
        FileNotFoundError: There is no such folder, or no such checkpoint.
        ValueError: The images and the goal do not fit.
    """
    goal = goal or suggest_goal(data)
    if goal not in GOALS:
        raise UserError(f'goal {goal!r} is unknown; one of {", ".join(GOALS)}')
    if epochs is not None and epochs < 1:
        raise UserError(f'epochs={epochs} must be at least 1')
    start = start or suggest_start(goal)
    folder = Path(out or Path('work_dirs') / f'{goal}-{Path(os.path.abspath(data)).stem}')
    if goal == PRETRAIN:
        path = _pretraining_config(str(data), start, folder)
        length = f' --epochs {epochs}' if epochs else ''
        return StartingConfig(str(path), f'mmssl train {shlex.quote(str(path))} --auto-scale-lr{length}')
    if start in METHODS:
        raise UserError(f'{start} pre-trains; start {goal} from a checkpoint, or from {RANDOM!r}')
    backbone = METHODS['moco'][0] if start == RANDOM else None
    path = write_config(start, goal, str(data), folder, Options(epochs=epochs, backbone_config=backbone))
    return StartingConfig(str(path), f'mmssl train {shlex.quote(str(path))}')


def _pretraining_config(data: str, method: str, folder: Path) -> Path:
    if method not in METHODS:
        raise UserError(f'method {method!r} is unknown; one of {", ".join(METHODS)} (`mmssl list` has more)')
    prefix = 'train' if os.path.isdir(os.path.join(data, 'train')) else ''
    count = len(list_images(data, prefix, IMAGE_SUFFIXES).names)
    base, batch_size = METHODS[method]
    batch_size *= min(MAX_BATCHES, max(1, int(gpu_memory() // GIB_PER_BATCH)))
    path = folder / 'config.py'
    lines = [
        f'# Pre-training by {method} on {count:,} images without labels.',
        '#',
        f'#   mmssl train {shlex.quote(str(path))} --auto-scale-lr',
        '#',
        '# --auto-scale-lr adapts the learning rate to the batch size, --epochs N the schedule to N passes,',
        '# and --resume continues. `mmssl print-config` shows everything that is inherited.',
        f"_base_ = 'mmssl::{base}'",
        f'work_dir = {str(folder)!r}',
        f'data_root = {os.path.abspath(data)!r}',
        'train_dataloader = dict(',
        f'    batch_size={min(batch_size, count)},',
        f'    dataset=dict(data_root=data_root, data_prefix={prefix!r}),',
        ')',
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, '\n'.join([*lines, '']))
    return path
