"""How the loader transform of a config reads images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmssl.data.checks.settings import innermost_datasets
from mmssl.data.reader import READER_SETTINGS

# data loaders of a config, by the order in which they say how images are read
_LOADERS = ('train_dataloader', 'test_dataloader', 'val_dataloader')


def reader_settings(cfg: Mapping) -> dict[str, Any]:
    """Return value_range, channels, pages and channel_axis of the loader transform of a config.

    The first of the loaders for training, testing and validation that has any of them counts.

    Args:
        cfg: A config.

    Returns:
        Arguments of :class:`mmssl.data.reader.ImageReader`; empty for images of 8-bit RGB.
    """
    for name in _LOADERS:
        for pipeline in pipelines_of(cfg.get(name)):
            settings = settings_of_pipeline(pipeline)
            if settings:
                return settings
    return {}


def settings_of_pipeline(pipeline: Sequence) -> dict[str, Any]:
    """Return the settings of the reader that the first transform with any of them has."""
    for step in pipeline:
        if isinstance(step, Mapping):
            settings = {key: step[key] for key in READER_SETTINGS if step.get(key) is not None}
            if settings:
                return settings
    return {}


def pipelines_of(loader: Any) -> Iterator[Sequence]:
    """Yield the pipelines of the data sets of a data loader's settings; of none if there is no loader."""
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    if isinstance(dataset, Mapping):
        for settings in innermost_datasets(dataset):
            yield settings.get('pipeline') or ()
