"""The part of the images and the settings that a folder of ``mmssl annotate`` is started with."""

from mmssl.apis.output_folder import file_identity
from mmssl.commands.annotate_workers import Recipe


def parse_part(text: str) -> tuple[int, int]:
    """Parse 'K/N' with 1 <= K <= N.

    Raises:
        ValueError: The text does not have this form.
    """
    part, _, count = text.partition('/')
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise ValueError(f'--part {text} is not K/N with K from 1 to N, as 1/4')
    return int(part), int(count)


def settings_of(recipe: Recipe) -> dict:
    """Return the settings that all runs into a folder share."""
    return dict(
        model=recipe.model,
        **file_identity(recipe.checkpoint),
        cfg_options=list(recipe.options),
        **recipe.settings,
        **_shown(recipe),
    )


def _shown(recipe: Recipe) -> dict:
    """Return how images that are not 8-bit RGB are read; nothing for folders of 8-bit RGB."""
    if not recipe.pictures:
        return {}
    bands, value_range, page, _ = recipe.pictures
    return dict(
        bands=list(bands) if bands else None,
        value_range=list(value_range) if isinstance(value_range, tuple) else value_range,
        page=page,
    )
