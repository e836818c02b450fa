"""Statistics of the channels of a data set: ranges, percentiles, means, and what configs take of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mmssl.data.channel_statistics import ChannelCounts, LowerCounts, ScaledMoments, clipped_moments, outward
from mmssl.errors import BadImageError

PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)
# images whose counts one task of a worker adds up; the same for any number of workers
_CHUNK = 16


@dataclass
class DataStatistics:
    """Statistics of the channels of a data set, in the order of the channels in the files.

    Attributes:
        images: Number of images that have been read.
        types: Number of images by the type of their values.
        minimum: (C,).
        maximum: (C,).
        percentiles: Percent to (C,).
        mean: (C,), of the values as they are.
        std: (C,).
        no_data: (C,), share of the pixels that are NaN, infinite, or a value that stands for no data.
        value_range: (C, 2), what becomes 0 and 255; None for 8 bits.
        scaled_mean: (C,), with the values from 0 to 255.
        scaled_std: (C,).
        bad: (path, reason) of files that could not be read.
    """

    images: int
    types: dict[str, int]
    minimum: np.ndarray
    maximum: np.ndarray
    percentiles: dict[float, np.ndarray]
    mean: np.ndarray
    std: np.ndarray
    no_data: np.ndarray
    value_range: np.ndarray | None
    scaled_mean: np.ndarray
    scaled_std: np.ndarray
    bad: list[tuple[str, str]] = field(default_factory=list)


Source = tuple[str, int | None]  # path and page


@dataclass(frozen=True)
class ValueSource:
    """The images to measure, and how to read them.

    Attributes:
        files: (path, page); the page is None for files of one image.
        settings: channels, pages and channel_axis, as the loader transform has them.
        no_data: A value that stands for no data.
    """

    files: Sequence[Source]
    settings: dict
    no_data: float | None = None

    def read(self, index: int) -> tuple[np.ndarray, float | None]:
        """Return the values of an image, (H, W, C) in the order of the file, and the value for no data."""
        from mmssl.data.eight_bits import ImageSettingError
        from mmssl.data.images import decode, open_image

        path, page = self.files[index]
        if page is None and not self.settings:
            try:
                return decode(open_image(path))[..., ::-1], self.no_data
            except ImageSettingError:
                pass
        return self._read_values(path, page)

    def _read_values(self, path: str, page: int | None) -> tuple[np.ndarray, float | None]:
        from mmssl.data.reader import ImageReader, ValuesImage

        image = ImageReader(value_range='raw', **self.settings).open(path, page)
        assert isinstance(image, ValuesImage)
        values = image.values[..., ::-1] if image.values.shape[2] == 3 else image.values
        return values, image.no_data if self.no_data is None else self.no_data


def stats(
    data: str | os.PathLike,
    clip: float = 0.1,
    workers: int = 0,
    no_data: float | None = None,
    progress: bool = False,
    **reading: Any,
) -> DataStatistics:
    """Measure the channels of images: ``mmssl stats`` from Python.

    Args:
        data: What ``data_root`` of :class:`mmssl.data.folder.ImageFolder` takes.
        clip: Percent of the values below, and above, the range that is proposed; 0 to 50.
        workers: Number of processes that read images; 0 reads them here. The result is the same.
        no_data: A value that stands for no data.
        progress: Whether to show a progress bar.
        **reading: channels, pages and channel_axis of the loader transform; ``pages='images'`` measures
            every page.

    Returns:
        The statistics; ``value_range``, ``scaled_mean`` and ``scaled_std`` are what a config takes.

    Raises:
        FileNotFoundError, ValueError: There are no such images, or ``clip`` is out of range.
        BadImageError: No image can be read, or the images differ in their number of channels.

    Examples:
        >>> from mmssl.apis import stats
        >>> stats('scans/').value_range
    """
    if not 0 <= clip < 50:
        raise ValueError(f'clip={clip} must be from 0 to 50: a share in percent at each end')
    return measure(source_of_folder(data, no_data, **reading), clip, workers, progress)


def measure(
    source: ValueSource, clip: float = 0.1, workers: int = 0, progress: bool = False
) -> DataStatistics:
    """Measure the channels of images; equal for any number of workers and processes.

    In a process group of torch each process reads its share of the images, and all return the same.

    Args:
        source: The images.
        clip: Percent of the values below, and above, the range that is proposed.
        workers: Number of processes that read images; 0 reads them here.
        progress: Whether to show a progress bar.

    Raises:
        BadImageError: No image can be read, or the images differ in their number of channels.
    """
    percentiles = sorted({*PERCENTILES, clip, 100 - clip})
    bad: list[tuple[str, str]] = []
    counts = _reduce(partial(_count, source), len(source.files), workers, progress, 'values', bad)
    floats = any(name.startswith('float') for name in counts.types)
    lower = None
    if floats:
        bins = counts.upper_bins(percentiles)
        lower = _reduce(
            partial(_count_lower, source, bins), len(source.files), workers, progress, 'percentiles'
        )
    quantiles = dict(zip(percentiles, counts.percentiles(percentiles, lower), strict=True))
    mean, variance = counts.mean_and_variance()
    std = np.sqrt(variance)
    result = DataStatistics(
        images=sum(counts.types.values()),
        types=dict(sorted(counts.types.items())),
        minimum=counts.extremes[0],
        maximum=counts.extremes[1],
        percentiles=quantiles,
        mean=mean,
        std=std,
        no_data=1 - counts.valid() / counts.total,
        value_range=None,
        scaled_mean=mean,
        scaled_std=std,
        bad=bad,
    )
    if set(counts.types) != {'uint8'}:
        result.value_range = _range(counts, quantiles[clip], quantiles[100 - clip], not floats)
        result.scaled_mean, result.scaled_std = (
            _reduce(
                partial(_scale, source, result.value_range), len(source.files), workers, progress, 'means'
            ).result()
            if floats
            else clipped_moments(counts, result.value_range)
        )
    return result


def _range(counts: ChannelCounts, low: np.ndarray, high: np.ndarray, whole: bool) -> np.ndarray:
    """Return the range between two percentiles, or of all values where those are equal."""
    low, high = np.where(low < high, (low, high), counts.extremes)
    return outward(np.stack([low, high], axis=1), whole)


def _reduce(make, count: int, workers: int, progress: bool, title: str, bad: list | None = None) -> Any:
    """Merge the results of all chunks in their order, those of other processes included."""
    from mmengine.dist import get_dist_info
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    rank, world_size = get_dist_info()
    chunks = _Chunks(make, count)
    # consecutive chunks, so that the order is that of one process
    ends = [index * len(chunks) // world_size for index in (rank, rank + 1)]
    chunks.ranges = chunks.ranges[slice(*ends)]
    loader = DataLoader(chunks, batch_size=None, num_workers=workers)
    merged: Any = None
    own_bad: list[tuple[str, str]] = []
    with tqdm(total=count, desc=title, unit='image', disable=not progress or rank > 0) as bar:
        for size, result, reasons in loader:
            own_bad += reasons
            merged = _merged(merged, result)
            bar.update(size)
    if world_size > 1:
        merged, own_bad = _gather(merged, own_bad, world_size)
    if bad is not None:
        bad += own_bad
    if merged is None:
        raise BadImageError(
            f'none of {count} images can be read; {bad[0][0]}: {bad[0][1]}' if bad else 'no image'
        )
    return merged


def _merged(first: Any, second: Any) -> Any:
    """Add the result of the images that follow; None is that of no image."""
    if first is None or second is None:
        return second if first is None else first
    if _channels(second) != _channels(first):
        raise _other_channels(_channels(first), _channels(second))
    first.merge(second)
    return first


def _gather(result: Any, bad: list, world_size: int) -> tuple[Any, list]:
    """Return the results of all processes, in their order."""
    import torch

    parts: list[Any] = [None] * world_size
    try:
        torch.distributed.all_gather_object(parts, (result, bad))
    except RuntimeError as error:
        raise OSError(f'another process has ended; start all of them again ({error})') from None
    merged = None
    for part, _ in parts:
        merged = _merged(merged, part)
    return merged, [reason for _, reasons in parts for reason in reasons]


def _other_channels(first: int, second: int) -> BadImageError:
    return BadImageError(
        f'images of {first} and of {second} channels: set channels=(0, 1, ...) to those that all have'
    )


def _channels(result: Any) -> int:
    return getattr(result, 'channels', 0)


class _Chunks:
    """Consecutive images as tasks of a data loader.

    Args:
        make: Returns a result for images, given their indices.
        count: Number of images.
    """

    def __init__(self, make: Callable, count: int):
        self.make = make
        self.ranges = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> tuple[int, Any, list[tuple[str, str]]]:
        bad: list[tuple[str, str]] = []
        return len(self.ranges[index]), self.make(self.ranges[index], bad), bad


def _images(source: ValueSource, indices: range, bad: list) -> Iterator[tuple[np.ndarray, float | None]]:
    for index in indices:
        try:
            yield source.read(index)
        except (BadImageError, OSError) as error:
            bad.append((source.files[index][0], getattr(error, 'reason', str(error))))


def _count(source: ValueSource, indices: range, bad: list) -> ChannelCounts | None:
    counts = None
    for values, no_data in _images(source, indices, bad):
        counts = counts or ChannelCounts(values.shape[2])
        if values.shape[2] != counts.channels:
            raise _other_channels(counts.channels, values.shape[2])
        counts.add(values, no_data)
    return counts


def _count_lower(source: ValueSource, bins: list, indices: range, bad: list) -> LowerCounts:
    counts = LowerCounts(bins)
    for values, no_data in _images(source, indices, bad):
        counts.add(values, no_data)
    return counts


def _scale(source: ValueSource, value_range: np.ndarray, indices: range, bad: list) -> ScaledMoments:
    moments = ScaledMoments(value_range)
    for values, no_data in _images(source, indices, bad):
        moments.add(values, no_data)
    return moments


def source_of_folder(folder: str | os.PathLike, no_data: float | None = None, **settings: Any) -> ValueSource:
    """Return the images of a folder or archive.

    Args:
        folder: As ``data_root`` of :class:`mmssl.data.folder.ImageFolder`.
        no_data: A value that stands for no data.
        **settings: channels, pages and channel_axis of the loader transform; ``pages='images'`` measures
            every page.
    """
    from mmssl.data.folder import ImageFolder

    pages = settings.pop('pages') if settings.get('pages') == 'images' else None
    dataset = ImageFolder(os.fspath(folder), labels=None, pages=pages)
    return source_of_dataset(dataset, no_data, **settings)


def source_of_dataset(dataset: Any, no_data: float | None = None, **settings: Any) -> ValueSource:
    """Return the images of a data set of any toolbox, whose entries have ``img_path``."""
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    files = [(info['img_path'], info.get('page')) for info in infos]
    return ValueSource(files, {key: value for key, value in settings.items() if value is not None}, no_data)
