"""What :func:`mmssl.apis.finetune` leaves to rules unless it is given."""

from collections.abc import Callable
from dataclasses import dataclass

from mmssl.errors import UserError

CONFIG_FILE = 'config.py'


@dataclass
class Options:
    """What :func:`finetune` leaves to rules if it is None.

    Attributes:
        backbone_config: Config that names the backbone; None takes the one in the checkpoint.
        recipe: 'sam-lora' for the task ``instance``: masks from boxes. None takes the recipe of the task.
        freeze: Freeze the backbone: linear probing, for ``classify`` only.
        epochs: Passes over the training images.
        iters: Number of steps, in place of ``epochs``.
        batch_size: Images of a step.
        size: Longest side of the images as the model gets them, in pixels.
        stats: File of ``mmssl stats --out``: channels, range, mean and std of images that are not 8-bit RGB.
            None reads them as for pre-training.
        format: Format of the labels, if the folder holds several.
        ignore: Values of label maps to ignore, besides 255 and those named void.
        by_folder: Split by folders instead of files, so that a video or a patient stays in one part.
        trust: Load a checkpoint that contains pickled code.
        cfg_options: ``KEY=VALUE`` overrides of the written config.
        labels: Numbers of training images of a few-label curve, such as '10,50,1%,10%,all'.
        seeds: A run per seed; more than one makes a curve.
        compare: Another start of the curve: 'random', or another pre-trained checkpoint.
        pseudo: Folder or file of predictions that are trained on, too, see
            :func:`mmssl.apis.pseudo_labels.read_pseudo_labels`.
        dry_run: Write the config and do not train.
        report: Receives the lines about the data and the config; None for silence.
    """

    backbone_config: str | None = None
    recipe: str | None = None
    freeze: bool = False
    epochs: int | None = None
    iters: int | None = None
    batch_size: int | None = None
    size: int | None = None
    stats: str | None = None
    format: str | None = None
    ignore: tuple[int, ...] = ()
    by_folder: bool = False
    trust: bool = False
    cfg_options: tuple[str, ...] = ()
    labels: str | None = None
    seeds: tuple[int, ...] = (0,)
    compare: str | None = None
    pseudo: str | None = None
    dry_run: bool = False
    report: Callable[[str], None] | None = None

    def __post_init__(self):
        if self.epochs and self.iters:
            raise UserError('--epochs and --iters are two lengths of one run; give one of them')
        for name in ('epochs', 'iters', 'batch_size', 'size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f'--{name.replace("_", "-")} {value} must be at least 1')
        if self.pseudo and self.labels:
            raise UserError('--pseudo adds images to all labelled ones; leave out --labels')
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f'--seeds {",".join(map(str, self.seeds))}: give different numbers from 0')

    @property
    def is_curve(self) -> bool:
        """Whether there are several runs."""
        return self.labels is not None or self.compare is not None or len(self.seeds) > 1
