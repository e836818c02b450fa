"""How fine-tuning reads images that are not 8-bit RGB: as for pre-training, or as ``mmssl stats`` says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from mmssl.config.literals import literals
from mmssl.data.reader_settings import reader_settings
from mmssl.errors import UserError

# of images stretched from 0 to 255, where the pre-training has no values of its own
_MEAN, _STD = [127.5], [64.0]
_RGB = 3


@dataclass(frozen=True)
class ImageSettings:
    """Channels, loading and normalisation of images.

    Attributes:
        channels: Number of channels.
        reading: value_range, channels, pages and channel_axis of the loader transform.
        mean: Mean of each channel on the scale of 0 to 255, or a single one.
        std: Standard deviation of each channel, or a single one.
    """

    channels: int
    reading: Mapping[str, Any]
    mean: list[float]
    std: list[float]

    @property
    def loader(self) -> dict[str, Any]:
        """Settings of the loader transform."""
        if self.channels == _RGB and not self.reading:
            return {}
        return {'channels': self.channels, **self.reading}

    @property
    def preprocessor(self) -> dict[str, Any]:
        """Settings of the data preprocessor."""
        return dict(mean=self.mean, std=self.std)


def image_settings(
    pretraining: Mapping[str, Any], channels: int, statistics: str | None = None
) -> ImageSettings | None:
    """Return how images are read.

    Args:
        pretraining: The config of pre-training.
        channels: Channels that the pre-trained backbone reads.
        statistics: File of ``mmssl stats --out``, which counts instead of the config. Weights of RGB grow to
            its number of channels.

    Returns:
        The settings; None for 8-bit RGB.

    Raises:
        UserError: The file has no such settings, or other channels than the backbone.
    """
    if statistics is not None:
        return _from_statistics(statistics, channels)
    reading = reader_settings(pretraining)
    if channels == _RGB and not reading:
        return None
    model = pretraining.get('model') or {}
    preprocessor = {
        **(pretraining.get('data_preprocessor') or {}),
        **(model.get('data_preprocessor') or {}),
    }
    if reading.get('value_range') == 'raw':  # the preprocessor scales, which the loader does here
        reading['value_range'] = preprocessor.get('value_range') or 'image'
    mean, std = preprocessor.get('mean') or _MEAN, preprocessor.get('std') or _STD
    return ImageSettings(channels, reading, list(mean), list(std))


def _from_statistics(path: str, channels: int) -> ImageSettings:
    from mmssl.hints import nearest_path

    try:
        with open(path, encoding='utf-8') as file:
            content = literals(file.read())
    except FileNotFoundError:
        raise FileNotFoundError(f'--stats {path} does not exist{nearest_path(path)}') from None
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise UserError(
            f'--stats {path} cannot be read: {error}; write it by mmssl stats DIR --out'
        ) from None
    mean, std = content.get('mean'), content.get('std')
    if not _are_numbers(mean) or not _are_numbers(std) or len(mean) != len(std):
        raise UserError(
            f'--stats {path} has no mean and std of the same channels; write it by mmssl stats DIR --out'
        )
    if channels not in (_RGB, len(mean)):
        raise UserError(
            f'--stats {path} is of {len(mean)} channels, and the checkpoint of {channels}; only weights of '
            'RGB grow to other channels'
        )
    reading = dict(content.get('reading') or {})
    if content.get('value_range') is not None:
        reading['value_range'] = content['value_range']
    return ImageSettings(len(mean), reading, list(mean), list(std))


def _are_numbers(values: Any) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(isinstance(value, int | float) for value in values)
    )
