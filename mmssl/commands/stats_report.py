"""What ``mmssl stats`` writes: a table, JSON, and a config's settings."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmssl.apis.channel_stats import DataStatistics


def as_dict(statistics: 'DataStatistics') -> dict[str, Any]:
    """Return the statistics as plain numbers."""
    channels = []
    for index in range(len(statistics.mean)):
        channels.append(
            dict(
                minimum=float(statistics.minimum[index]),
                maximum=float(statistics.maximum[index]),
                percentiles={
                    f'{key:g}': float(value[index]) for key, value in statistics.percentiles.items()
                },
                mean=float(statistics.mean[index]),
                std=float(statistics.std[index]),
                no_data=float(statistics.no_data[index]),
            )
        )
    return dict(
        images=statistics.images,
        types=statistics.types,
        channels=channels,
        value_range=_pairs(statistics),
        mean=statistics.scaled_mean.tolist(),
        std=statistics.scaled_std.tolist(),
        bad=[dict(path=path, reason=reason) for path, reason in statistics.bad],
    )


def as_json(content: dict[str, Any]) -> str:
    """Return strict JSON: null for channels without any value."""
    return json.dumps(_without_nan(content), indent=2)


def _without_nan(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and not np.isfinite(node) else node


def as_table(statistics: 'DataStatistics', source: str) -> str:
    """Return one line for each channel, warnings, and the settings."""
    types = ', '.join(f'{count} of {name}' for name, count in statistics.types.items())
    lines = [f'{source}: {statistics.images} images ({types}), {len(statistics.mean)} channels', '']
    percents = list(statistics.percentiles)
    columns = ['channel', 'min', *(f'{percent:g}%' for percent in percents), 'max', 'mean', 'std', 'no data']
    lines.append(' '.join(f'{column:>10}' for column in columns))
    for index in range(len(statistics.mean)):
        numbers = [
            statistics.minimum[index],
            *(statistics.percentiles[percent][index] for percent in percents),
            statistics.maximum[index],
            statistics.mean[index],
            statistics.std[index],
        ]
        texts = [f'{index:>10}', *(f'{number:>10.6g}' for number in numbers)]
        lines.append(' '.join([*texts, f'{100 * statistics.no_data[index]:>9.3g}%']))
    lines += ['', *_warnings(statistics), *_settings(statistics)]
    return '\n'.join(lines)


def _warnings(statistics: 'DataStatistics') -> list[str]:
    warnings = []
    if len(statistics.types) > 1:
        warnings.append(
            f'warning: the images differ in type ({", ".join(statistics.types)}): one range for all'
        )
    constant = np.flatnonzero(statistics.minimum == statistics.maximum).tolist()
    if constant:
        warnings.append(f'warning: constant channels: {", ".join(map(str, constant))}')
    empty = np.flatnonzero(np.isnan(statistics.mean)).tolist()
    if empty:
        warnings.append(f'warning: channels without any data: {", ".join(map(str, empty))}')
    if statistics.bad:
        path, reason = statistics.bad[0]
        warnings.append(f'warning: {len(statistics.bad)} files cannot be read; the first is {path}: {reason}')
    return [*warnings, ''] if warnings else []


def as_snippet(statistics: 'DataStatistics', source: str, reading: Mapping[str, Any] | None = None) -> str:
    """Return the settings as a file for the ``_base_`` of a config.

    Args:
        statistics: The statistics.
        source: What was measured.
        reading: channels, pages and channel_axis that it was read with, if they are needed.
    """
    name = ' '.join(source.split())
    types = ', '.join(statistics.types)
    return '\n'.join(
        [
            f'# Measured by `mmssl stats {name}`: {statistics.images} images of {types}.',
            '# For the _base_ of a config with value_range=_base_.value_range in the loader transform and',
            '# data_preprocessor = dict(mean=_base_.mean, std=_base_.std), on the scale of 0 to 255.',
            *_settings(statistics),
            *([f'reading = {dict(reading)!r}'] if reading else []),
            '',
        ]
    )


def _settings(statistics: 'DataStatistics') -> list[str]:
    pairs = _pairs(statistics)
    mean = np.nan_to_num(statistics.scaled_mean)
    # a constant channel is not divided by zero
    std = np.where(statistics.scaled_std > 0, statistics.scaled_std, 1)
    return [
        f'value_range = {[tuple(pair) for pair in pairs] if pairs else None}',
        f'mean = {[round(value, 4) for value in mean.tolist()]}',
        f'std = {[round(value, 4) for value in std.tolist()]}',
    ]


def _pairs(statistics: 'DataStatistics') -> list[list[float]] | None:
    return None if statistics.value_range is None else statistics.value_range.tolist()
