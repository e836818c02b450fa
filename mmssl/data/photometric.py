"""Transforms of the toolboxes that change the colors of 8-bit RGB, refused for any other image."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmssl.data.reader import ImageReader
from mmssl.data.reader_settings import pipelines_of, settings_of_pipeline

# by the last part of their names: mmcv, mmdet, mmseg, mmpretrain, torchvision, albumentations
COLOR_TRANSFORMS = frozenset(
    (
        *('RandomGrayscale', 'Grayscale', 'RGB2Gray', 'ToGray'),
        *('ColorJitter', 'ColorTransform', 'Color', 'Lighting', 'YOLOXHSVRandomAug'),
        *('PhotoMetricDistortion', 'RandomPhotometricDistort'),
        *('Brightness', 'Contrast', 'Sharpness', 'AutoContrast', 'Equalize', 'Invert'),
        *('Solarize', 'SolarizeAdd', 'Posterize', 'RandomSolarize', 'RandomPosterize', 'RandomInvert'),
        *('RandomEqualize', 'RandomAutocontrast', 'RandomAdjustSharpness'),
        *('AdjustGamma', 'CLAHE', 'RandomBrightnessContrast', 'RandomGamma', 'HueSaturationValue'),
        *('RGBShift', 'ChannelShuffle', 'ToSepia', 'FancyPCA'),
    )
)
# whose policies have changes of colors, unless they are listed
_POLICIES = frozenset(('AutoAugment', 'RandAugment', 'TrivialAugmentWide', 'AugMix'))
_LISTS = ('policies', 'aug_space')


def refuse_color_changes(loader: Any) -> None:
    """Check that a data loader changes no colors of images that are not 8-bit RGB.

    Args:
        loader: Settings of a data loader.

    Raises:
        ValueError: A transform of a pipeline does; the message names it and what to take.
    """
    for pipeline in pipelines_of(loader):
        settings = settings_of_pipeline(pipeline)
        images = ImageReader(**settings).unlike_rgb() if settings else None
        name = next(color_changes(pipeline), None) if images else None
        if name:
            raise ValueError(
                f'{name}: it changes the colors of 8-bit RGB, and the pipeline reads {images}; take '
                f"dict(type='mmssl.BandJitter'), which changes each channel by itself, or leave it out"
            )


def color_changes(steps: Any) -> Iterator[str]:
    """Yield the types of the transforms in a pipeline, or inside of other transforms, that change colors."""
    if isinstance(steps, Mapping):
        kind = str(steps.get('type', ''))
        name = kind.replace('/', '.').rpartition('.')[2]
        listed = any(
            isinstance(steps.get(key), Sequence) and not isinstance(steps.get(key), str) for key in _LISTS
        )
        if name in COLOR_TRANSFORMS or (name in _POLICIES and not listed):
            yield kind
        for value in steps.values():
            yield from color_changes(value)
    elif isinstance(steps, (list, tuple)):
        for step in steps:
            yield from color_changes(step)
