"""Small models that come with the package, by name.

``index.json`` says of each file which config it belongs to, its SHA-256, and how it was trained and measured;
``README.md`` has the model cards.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent


class PackagedWeights(NamedTuple):
    """A file with weights in the package.

    Attributes:
        name: Short name, such as 'sam-mini'.
        config: Name of the config below ``configs``, without ``.py``.
        file: Name of the file in ``mmssl/weights``.
        sha256: Checksum of the file.
        bytes: Size of the file.
        parameters: Number of parameters in the file.
        summary: What the model is and what it was trained on, in a line.
        licence: Licence of the weights.
        data: Training images and their licences.
        scores: Measured scores by name.
        automatic: Settings of automatic masks that suit the model; empty for other models.
    """

    name: str
    config: str
    file: str
    sha256: str
    bytes: int
    parameters: int
    summary: str
    licence: str
    data: str
    scores: dict[str, float]
    automatic: dict[str, Any]

    @property
    def notice(self) -> str:
        """One line that says which model is used."""
        return f'using {self.name} from the package: {self.summary}'


@functools.cache
def packaged_weights() -> dict[str, PackagedWeights]:
    """Return the weights in the package by name."""
    content = json.loads((FOLDER / 'index.json').read_text(encoding='utf-8'))
    return {name: PackagedWeights(name=name, **entry) for name, entry in content.items()}


def find_packaged(name: str) -> PackagedWeights | None:
    """Return the weights in the package by their name, or that of their config; None if there are none."""
    plain = name.removeprefix('mmssl::').removeprefix('configs/').removesuffix('.py')
    for entry in packaged_weights().values():
        if plain in (entry.name, entry.config, entry.config.rpartition('/')[2]):
            return entry
    return None
