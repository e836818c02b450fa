"""The state of the label loop: a JSON file that says of each round what was shown, changed and gained."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmssl.checkpoint import write_json
from mmssl.errors import UserError
from mmssl.hints import nearest

STATE_FILE = 'state.json'
VERSION = 1
# what a round does next; each stage may be run again until the state says the next one
STAGES = ('prefill', 'correct', 'train', 'measure', 'done')


@dataclass
class Round:
    """A round of the loop.

    Attributes:
        number: Number of the round, from 1.
        images: Names of its images below the folder of images, in the order in which they are to be labelled.
        checkpoint: Weights that make its masks.
        stage: One of :data:`STAGES`.
        validation: Images that are never trained on, known when the masks are corrected.
        shown: 'masks' that were pre-filled, 'uncertain' ones that were left to people, and the 'threshold' of
            the confidence between both; None if there was none.
        changed: Pre-filled masks that were 'accepted', 'edited' and 'deleted', masks that were 'added', and
            the mean 'iou' of the corrected masks with the pre-filled ones.
        clicks_per_mask: Clicks of a person for each corrected mask; see
            :func:`mmssl.apis.loop_measure.clicks_per_mask`.
        before: 'clicks' per mask and 'box_iou' on the validation images of all rounds, before training.
        after: The same after training.
        next_checkpoint: Weights for the next round: the new ones, unless they need more clicks.
    """

    number: int
    images: list[str]
    checkpoint: str
    stage: str = STAGES[0]
    validation: list[str] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    clicks_per_mask: float | None = None
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    next_checkpoint: str | None = None


@dataclass
class LoopState:
    """All rounds of a loop.

    Attributes:
        settings: The attributes of :class:`mmssl.apis.loop.LoopOptions` that the loop was started with.
        rounds: The rounds, the last of which may be unfinished.
    """

    settings: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)

    @property
    def labelled(self) -> list[str]:
        """Names of the images of all rounds."""
        return [name for each in self.rounds for name in each.images]


def read_state(folder: Path) -> LoopState | None:
    """Return the state of a loop; None if there is none yet.

    Raises:
        UserError: The file is damaged, or of another version.
    """
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f'{path} is not JSON ({error}); restore it, or start in another folder') from None
    if not isinstance(content, dict) or content.get('version') != VERSION:
        raise UserError(f'{path} is not the state of a loop of version {VERSION}; start in another folder')
    return LoopState(content['settings'], [Round(**each) for each in content['rounds']])


def save_state(folder: Path, state: LoopState) -> None:
    """Write the state, completely or not at all."""
    write_json(folder / STATE_FILE, dict(version=VERSION, **asdict(state)))


def check_same_settings(state: LoopState, settings: dict[str, Any], folder: Path) -> None:
    """Check that settings that are given again are those that a loop was started with.

    Raises:
        UserError: One of them differs.
    """
    for name, value in settings.items():
        if name not in state.settings:
            raise UserError(f'a loop has no setting {name!r}{nearest(name, state.settings)}')
        if state.settings[name] != value:
            raise UserError(
                f'{folder} was started with {name}={state.settings[name]}, not {value}; leave it out, or '
                'start in another folder'
            )
