"""The label loop: choose images, pre-fill masks, read the corrections of a person, train, and go on."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmssl.apis.annotate import MIN_IOU, PRECISION, AnnotateOptions, annotate
from mmssl.apis.annotate_workers import Recipe
from mmssl.apis.feature_images import write_list
from mmssl.apis.loop_labels import (
    LABELS_FOLDER,
    PREFILLED,
    labels_file,
    read_corrected,
    round_folder,
    write_labels,
)
from mmssl.apis.loop_measure import clicks_per_mask, compare, simulate_clicks
from mmssl.apis.loop_state import LoopState, Round, check_same_settings, read_state, save_state
from mmssl.apis.mask_prompts import NO_CLASS
from mmssl.apis.output_folder import locked
from mmssl.data import annotations
from mmssl.data.label_formats import read_labels
from mmssl.errors import UserError

COMMAND = 'loop'
# one image of so many is for validation
VALIDATION_EVERY = 5
# points and boxes, and several masks of a first point, as a person and the automatic masks use them
TRAINING = ('model.rounds=3', 'model.box_prob=0.5', 'model.ambiguous=("point",)')


@dataclass
class LoopOptions:
    """The settings of a loop, which stay the same in all rounds.

    Attributes:
        images: Folder of the images, searched with its subfolders.
        model: As for :func:`mmssl.apis.sam.load_sam`.
        checkpoint: Weights of the first round.
        features: File of :func:`mmssl.apis.embed` that the images are chosen by; None takes them in an order
            that a hash of their names gives.
        number: Images of a round.
        how: How they are chosen, see :func:`mmssl.apis.select`.
        classes: Labelled masks that give the masks of the first round classes; later rounds learn from those
            before.
        calibrate: Labelled images on which the confidence of masks is measured; those for validation of the
            rounds before if None.
        precision: Share of right masks among the pre-filled ones.
        min_iou: IoU from which a mask is right.
        max_clicks: Clicks after which a simulated user gives an object up.
        iters: Training steps of a round; by the rules of ``mmssl finetune`` if None.
        generator: Settings of the automatic masks.
        cfg_options: ``KEY=VALUE`` overrides of the training config.
    """

    images: str
    model: str
    checkpoint: str
    features: str | None = None
    number: int = 20
    how: str = 'typical'
    classes: str | None = None
    calibrate: str | None = None
    precision: float = PRECISION
    min_iou: float = MIN_IOU
    max_clicks: int = 10
    iters: int | None = None
    generator: dict[str, Any] = field(default_factory=dict)
    cfg_options: list[str] = field(default_factory=list)

    def __post_init__(self):
        for name in ('images', 'checkpoint', 'features', 'classes', 'calibrate'):
            path = getattr(self, name)
            if path is not None:
                setattr(self, name, os.path.abspath(os.path.expanduser(path)))
                if not os.path.exists(getattr(self, name)):
                    raise FileNotFoundError(f'--{name} {path} does not exist')
        if os.path.exists(self.model):
            self.model = os.path.abspath(self.model)
        if self.number < 2:
            raise UserError(f'--number {self.number} must be at least 2: one image is for validation')


def run_loop(
    folder: str | os.PathLike,
    device: str = 'cpu',
    trust: bool = False,
    report: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> LoopState:
    """Run a loop until it needs a person, or until no image is left.

    The state is written after each stage, so that the same call goes on where the last one stopped, even by
    SIGKILL.

    Args:
        folder: Folder of the loop.
        device: Device of the model.
        trust: Load checkpoints that contain pickled code.
        report: Receives a line about each stage.
        **settings: The attributes of :class:`LoopOptions`, needed for the first call only.

    Returns:
        The state; the stage of its last round is 'correct' while the corrections are awaited, and 'done' at
        the end.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Settings are missing or differ from those of the first call, or labels are wrong.
        OSError: Another process runs the loop.

    Examples:
        >>> from mmssl.apis.loop import run_loop
        >>> run_loop('rounds', images='photos', model='vit_b', checkpoint='sam_vit_b_01ec64.pth')
    """
    folder = Path(folder).absolute()
    with locked(folder, COMMAND):
        state = read_state(folder)
        if state is None:
            state = LoopState(asdict(LoopOptions(**settings)))
            save_state(folder, state)
        elif settings:
            check_same_settings(state, asdict(LoopOptions(**{**state.settings, **settings})), folder)
        _Loop(folder, state, device, trust, report).run()
    return state


class _Loop:
    """Runs the stages of the last round, and starts the next one."""

    def __init__(
        self, folder: Path, state: LoopState, device: str, trust: bool, report: Callable[[str], None]
    ):
        self.folder = folder
        self.state = state
        self.options = LoopOptions(**state.settings)
        self.device = device
        self.trust = trust
        self.report = report

    def run(self) -> None:
        """Run stages until one waits for a person."""
        stages = dict(prefill=self.prefill, correct=self.correct, train=self.train, measure=self.measure)
        while True:
            if (not self.state.rounds or self.round.stage == 'done') and not self.start_round():
                return
            following = stages[self.round.stage]()
            if following is None:
                return
            self.round.stage = following
            save_state(self.folder, self.state)

    @property
    def round(self) -> Round:
        """The last round."""
        return self.state.rounds[-1]

    @property
    def path(self) -> Path:
        """Folder of the last round."""
        return round_folder(self.folder, self.round.number)

    def start_round(self) -> bool:
        """Choose the images of the next round; False if too few are left."""
        images = self._choose()
        if len(images) < 2:
            self.report(f'all images are labelled, in {len(self.state.rounds)} rounds')
            return False
        last = self.state.rounds[-1] if self.state.rounds else None
        checkpoint = last.next_checkpoint if last else self.options.checkpoint
        assert checkpoint is not None
        number = len(self.state.rounds) + 1
        root = Path(self.options.images)
        write_list(round_folder(self.folder, number) / 'images.txt', [str(root / name) for name in images])
        self.state.rounds.append(Round(number, images, checkpoint))
        save_state(self.folder, self.state)
        self.report(f'round {number}: {len(images)} images chosen')
        return True

    def _choose(self) -> list[str]:
        root = Path(self.options.images)
        done = set(self.state.labelled)
        names = [path.relative_to(root).as_posix() for path in annotations.images_below(root)]
        left = [name for name in names if name not in done]
        count = min(self.options.number, len(left))
        if self.options.features is None or not count:
            return sorted(left, key=annotations.image_id)[:count]
        from mmssl.apis.selection import select

        labelled = self.folder / 'labelled.txt'
        write_list(labelled, [str(root / name) for name in self.state.labelled])
        exclude = [labelled] if done else []
        paths = select(self.options.features, count, self.options.how, exclude=exclude)
        chosen = [os.path.relpath(path, root) for path in paths]
        unknown = [name for name in chosen if name not in left]
        if unknown:
            raise UserError(
                f'{self.options.features} has features of {unknown[0]}, which is no image below {root}; make '
                'the file from this folder: mmssl embed ... --data DIR'
            )
        return chosen

    def prefill(self) -> str:
        """Pre-fill the images with confident masks, and list the others."""
        options = self.options
        done = annotate(
            options.images,
            self.path / 'masks',
            self._recipe(),
            AnnotateOptions(
                names=self.round.images,
                coco=self.path / PREFILLED,
                calibrate=options.calibrate or labels_file(self.folder, 'val'),
                precision=options.precision,
                min_iou=options.min_iou,
            ),
        )
        if done.unreadable:
            raise UserError(f'{done.unreadable[0]}; repair or replace the file')
        assert done.labels is not None
        uncertain = done.uncertain.num_objects if done.uncertain else 0
        self.round.shown = dict(
            masks=done.labels.num_objects, uncertain=uncertain, threshold=_finite(done.threshold)
        )
        self.report(
            f'round {self.round.number}: {done.labels.num_objects} masks pre-filled, {uncertain} uncertain'
        )
        return 'correct'

    def _recipe(self) -> Recipe:
        from mmssl.apis.mask_classes import learn_classes
        from mmssl.promptable import SamPredictor

        options = self.options
        recipe = Recipe(
            options.model, self.round.checkpoint, (), self.trust, options.generator, self.device, None
        )
        examples = labels_file(self.folder, 'train') or options.classes
        if examples is None or read_labels(examples, 'instance').classes == [NO_CLASS]:
            return recipe
        return recipe._replace(
            classes=learn_classes(SamPredictor(self._model(self.round.checkpoint)), examples)
        )

    def correct(self) -> str | None:
        """Read the corrected masks; None while they are not there."""
        corrected = read_corrected(self.folder, self.round, self.options.images, self.report)
        if corrected is None:
            return None
        prefilled = read_labels(self.path / PREFILLED, images=[self.options.images])
        shown = {image.path: image for image in prefilled.images}
        before = [shown[image.path] for image in corrected.images]
        changes = compare(before, corrected.images, prefilled.classes == corrected.classes)
        redrawn = [replace(image, objects=changes.redrawn[image.name]) for image in corrected.images]
        clicks = self._simulate(self.round.checkpoint, redrawn).clicks
        self.round.changed = dict(
            accepted=changes.accepted,
            edited=changes.edited,
            added=changes.added,
            deleted=changes.deleted,
            iou=sum(changes.ious) / max(len(changes.ious), 1),
        )
        self.round.clicks_per_mask = clicks_per_mask(changes, clicks)
        self.round.validation = _validation([image.name for image in corrected.images if image.objects])
        self.report(
            f'round {self.round.number}: {changes.accepted} masks accepted, {changes.edited} edited, '
            f'{changes.added} added, {changes.deleted} deleted; {self.round.clicks_per_mask:.2f} clicks per '
            'mask'
        )
        return 'train'

    def train(self) -> str:
        """Train on all corrected masks, from the weights of this round."""
        from mmssl.apis.finetune_run import finetune
        from mmssl.promptable.build import KINDS

        write_labels(self.folder, self.state, self.options.images)
        work_dir = self.path / 'train'
        if not (work_dir / 'sam.pth').is_file():
            finetune(
                self.round.checkpoint,
                'instance',
                self.folder / LABELS_FOLDER,
                work_dir,
                recipe='sam-lora',
                backbone_config=None if self.options.model in KINDS else self.options.model,
                iters=self.options.iters,
                trust=self.trust,
                cfg_options=(*TRAINING, *self.options.cfg_options),
            )
        return 'measure'

    def measure(self) -> str:
        """Measure the gain on validation images; the new weights are used unless they need more clicks."""
        trained = str(self.path / 'train/sam.pth')
        labels = read_labels(self.folder / LABELS_FOLDER / 'val.json', images=[self.options.images])
        quality = []
        for checkpoint in (self.round.checkpoint, trained):
            results = self._simulate(checkpoint, labels.images)
            count = max(len(results.clicks), 1)
            quality.append(dict(clicks=results.clicks.sum() / count, box_iou=results.box_ious.sum() / count))
        self.round.before, self.round.after = quality
        is_better = quality[1]['clicks'] <= quality[0]['clicks']
        self.round.next_checkpoint = trained if is_better else self.round.checkpoint
        self.report(
            f'round {self.round.number}: {quality[0]["clicks"]:.2f} clicks per mask before training, '
            f'{quality[1]["clicks"]:.2f} after, on {len(labels)} validation images; the '
            f'{"new" if is_better else "old"} weights are used on'
        )
        return 'done'

    def _model(self, checkpoint: str):
        from mmssl.apis.sam import load_sam

        return load_sam(self.options.model, checkpoint, (), self.trust).to(self.device)

    def _simulate(self, checkpoint: str, images):
        return simulate_clicks(self._model(checkpoint), images, self.options.min_iou, self.options.max_clicks)


def _validation(names: list[str]) -> list[str]:
    """Return the images, of those with masks, that are never trained on.

    Raises:
        UserError: A single image has masks.
    """
    if len(names) < 2:
        raise UserError(
            f'{len(names)} images of the round have masks; training needs one, and validation another: start '
            'with a larger --number'
        )
    return names[VALIDATION_EVERY - 1 :: VALIDATION_EVERY] or names[-1:]


def _finite(threshold: float | None) -> float | None:
    """Return a threshold as JSON holds it: 2, which no confidence reaches, for infinity."""
    return threshold if threshold is None or threshold < 2 else 2.0
