"""Arguments that say how images which are not 8-bit RGB are shown."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmssl.data.pictures import PictureSettings


def add_bands(parser: argparse.ArgumentParser) -> None:
    """Add the channels that are shown."""
    parser.add_argument(
        '--bands',
        metavar='R,G,B',
        help='channels to show as red, green and blue, from 0, or a single one; of images that are not RGB',
    )


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add range, page and channels."""
    group = parser.add_argument_group('images that are not 8-bit RGB')
    group.add_argument(
        '--value-range',
        metavar='LOW,HIGH|image|window',
        help='values that become black and white, image for percentiles of each image, or window for that of '
        'DICOM files; `mmssl stats DIR` measures it',
    )
    group.add_argument('--page', type=int, metavar='N', help='page of a stack, from 0')
    add_bands(group)  # type: ignore[arg-type]


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """Return the channels of ``--bands``.

    Raises:
        ValueError: They are not one or three numbers from 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(',')]
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts):
        raise ValueError(f'--bands {text}: give three channels, as 3,2,1, or one, counted from 0')
    return tuple(map(int, parts))


def parse_value_range(text: str | None) -> Any:
    """Return the range of ``--value-range``.

    Raises:
        ValueError: It is neither two numbers, the first one below the second, nor 'image' or 'window'.
    """
    if text in (None, 'image', 'window'):
        return text
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError(
            f'--value-range {text}: give LOW,HIGH with LOW below HIGH, as 0,4095, image or window'
        )
    return low, high


def picture_settings(args: argparse.Namespace) -> 'PictureSettings':
    """Return the settings of :func:`add_picture_arguments`.

    Raises:
        ValueError: An argument is malformed.
    """
    from mmssl.data.pictures import PictureSettings

    if args.page is not None and args.page < 0:
        raise ValueError(f'--page {args.page} must be 0 or more')
    return PictureSettings(parse_bands(args.bands), parse_value_range(args.value_range), args.page)


def reading_and_pictures(args: argparse.Namespace) -> 'tuple[dict[str, Any], PictureSettings]':
    """Return how the config reads images, and how they are shown with ``--bands``.

    Raises:
        ValueError: ``--bands`` is malformed.
    """
    from mmssl.config.load import load_config
    from mmssl.data.pictures import settings_of_config
    from mmssl.data.reader_settings import reader_settings

    reading = reader_settings(load_config(args.config, list(args.cfg_options)))
    return reading, settings_of_config(reading, parse_bands(args.bands))
