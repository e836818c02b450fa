"""Files of features: a Parquet file with the columns ``path`` and ``feature``, or an array with its names.

``FILE.parquet`` holds strings and fixed-size lists of float32; ``FILE.npy`` holds the array, and
``FILE.json`` beside it the paths. Both are written completely or not at all, and neither has to fit into
memory.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl.checkpoint import TEMPORARY_SUFFIX, write_json
from mmssl.errors import UserError
from mmssl.hints import nearest_path

SUFFIXES = ('.parquet', '.npy')
# key of the description in the metadata of a Parquet file
DESCRIPTION_KEY = b'mmssl'
# features that are read from a Parquet file into memory; larger ones go through a temporary file
MAX_BYTES_IN_MEMORY = 1 << 28
_ROWS = 8192


class FeatureSet(NamedTuple):
    """Features of images.

    Attributes:
        paths: Paths of the images, all different.
        features: (N, D) float32, or (N, P, D) for P patches of each image; mapped from a file if large.
        description: How they were made: 'config', 'checkpoint', 'pool', ...; {} if unknown.
    """

    paths: list[str]
    features: np.ndarray
    description: dict[str, Any]


class FeatureFileError(UserError, ValueError):
    """A file is not one of features, or not of the kind that is needed.

    Args:
        reason: What is wrong, and the cure.
        path: The file.
    """

    def __init__(self, reason: str, path: str | os.PathLike):
        super().__init__(f'{path}: {reason}')


def check_suffix(path: str | os.PathLike) -> None:
    """Raise ValueError unless a name ends in .parquet or .npy."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(
            f'{path}: features are in {" or ".join(SUFFIXES)} files; give a name with that ending'
        )


def names_file(path: str | os.PathLike) -> Path:
    """Return the file that holds the paths of the rows of an array: FILE.json for FILE.npy."""
    return Path(path).with_suffix('.json')


def read_description(path: str | os.PathLike) -> dict[str, Any] | None:
    """Return how the features of a complete file were made; None if there is no such file."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        if path.suffix.lower() == '.npy':
            return json.loads(names_file(path).read_text(encoding='utf-8')).get('description') or {}
        metadata = _parquet().read_schema(path).metadata or {}
        description = json.loads(metadata.get(DESCRIPTION_KEY, b'{}'))
        description.pop('shape', None)
        return description
    except (OSError, ValueError):  # damaged, or of another program
        return None


def read_features(path: str | os.PathLike, vectors: bool = True) -> FeatureSet:
    """Read the features of a file.

    Args:
        path: The Parquet file or array.
        vectors: Refuse features of patches.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a file of features, a path occurs twice, or a feature is NaN or infinite.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
    features = _read_array(path) if path.suffix.lower() == '.npy' else _read_parquet(path)
    if not len(features.paths):
        raise FeatureFileError('holds no features', path)
    if len(set(features.paths)) < len(features.paths):
        raise FeatureFileError('names an image twice; make the file again with mmssl embed', path)
    if vectors and features.features.ndim != 2:
        raise FeatureFileError(
            f'holds features of patches, {features.features.shape[1]} for each image; a single '
            'feature is needed: mmssl embed --pool avg or cls',
            path,
        )
    check_finite(features, path)
    return features


def check_finite(features: FeatureSet, path: str | os.PathLike) -> None:
    """Raise ValueError if a feature is NaN or infinite."""
    for start in range(0, len(features.features), _ROWS):
        block = features.features[start : start + _ROWS]
        bad = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if bad.any():
            name = features.paths[start + int(bad.argmax())]
            raise FeatureFileError(
                f'the feature of {name} contains NaN or infinity; check the weights and the image', path
            )


def blocks(features: np.ndarray, rows: int = _ROWS) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the normalised features (R, D) of successive blocks of rows."""
    for start in range(0, len(features), rows):
        yield start, normalized(features[start : start + rows])


def normalized(features: np.ndarray) -> Tensor:
    """Copy features (N, D) as float32 of length 1; those of length 0 stay 0."""
    rows = torch.from_numpy(np.array(features, dtype=np.float32))
    return torch.nn.functional.normalize(rows, dim=1)


def row_norms(features: np.ndarray) -> np.ndarray:
    """Return the lengths (N,) of features (N, D); 1 for those of length 0."""
    starts = range(0, len(features), _ROWS)
    norms = np.concatenate([np.linalg.norm(features[start : start + _ROWS], axis=1) for start in starts])
    return np.where(norms > 0, norms, 1).astype(np.float32)


def write_features(
    path: str | os.PathLike,
    parts: Iterable[tuple[list[str], np.ndarray]],
    rows: int,
    shape: tuple[int, ...],
    description: Mapping[str, Any],
) -> None:
    """Write features part by part, completely or not at all.

    Args:
        path: FILE.parquet or FILE.npy.
        parts: Paths (N,) and features (N, *shape) of successive images.
        rows: Sum of all N.
        shape: (D,), or (P, D) for features of patches.
        description: How they were made, as JSON can hold it.
    """
    path = Path(path)
    check_suffix(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}')
    write = _write_array if path.suffix.lower() == '.npy' else _write_parquet
    try:
        paths = write(temporary, parts, rows, shape, description)
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        if path.suffix.lower() == '.npy':  # names of other features must never stand beside these
            names_file(path).unlink(missing_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if path.suffix.lower() == '.npy':
        write_json(names_file(path), dict(paths=paths, description=dict(description)), indent=None)


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'mmssl[features]', or use a name that ends in .npy"
        ) from None
    return pyarrow.parquet


def _write_parquet(file: Path, parts, rows: int, shape: tuple[int, ...], description: Mapping) -> list[str]:
    parquet = _parquet()
    import pyarrow

    size = int(np.prod(shape))
    content = json.dumps({**description, 'shape': list(shape)}, sort_keys=True)
    schema = pyarrow.schema(
        [('path', pyarrow.string()), ('feature', pyarrow.list_(pyarrow.float32(), size))],
        metadata={DESCRIPTION_KEY: content.encode()},
    )
    with parquet.ParquetWriter(file, schema, compression='none', use_dictionary=False) as writer:
        for names, features in parts:
            values = pyarrow.array(np.ascontiguousarray(features, np.float32).reshape(-1))
            columns = [pyarrow.array(names, pyarrow.string())]
            columns.append(pyarrow.FixedSizeListArray.from_arrays(values, size))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
    return []


def _write_array(file: Path, parts, rows: int, shape: tuple[int, ...], description: Mapping) -> list[str]:
    paths: list[str] = []
    header = dict(descr='<f4', fortran_order=False, shape=(rows, *shape))
    with open(file, 'xb') as output:
        np.lib.format.write_array_header_1_0(output, header)
        for names, features in parts:
            paths += names
            output.write(np.ascontiguousarray(features, '<f4').tobytes())
    return paths


def _read_array(path: Path) -> FeatureSet:
    try:
        features = np.load(path, mmap_mode='r', allow_pickle=False)
    except ValueError as error:
        raise FeatureFileError(f'is not an array of features: {error}', path) from None
    try:
        content = json.loads(names_file(path).read_text(encoding='utf-8'))
        paths = [str(name) for name in content['paths']]
    except FileNotFoundError:
        raise FeatureFileError(
            f'{names_file(path).name}, which names its images, is not beside it; make both again with '
            'mmssl embed',
            path,
        ) from None
    except (ValueError, KeyError, TypeError):
        raise FeatureFileError(f'{names_file(path).name} beside it does not list "paths"', path) from None
    if features.dtype.kind != 'f' or features.ndim not in (2, 3) or 0 in features.shape[1:]:
        raise FeatureFileError(
            f'is an array {features.shape} of {features.dtype}; features are (N, D) floating point', path
        )
    if len(paths) != len(features):
        raise FeatureFileError(f'has {len(features)} rows, but {len(paths)} paths beside it', path)
    return FeatureSet(paths, features, content.get('description') or {})


def _read_parquet(path: Path) -> FeatureSet:
    parquet = _parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            missing = {'path', 'feature'} - set(file.schema_arrow.names)
            if missing:
                raise FeatureFileError(f'has no column {" and ".join(map(repr, sorted(missing)))}', path)
            description = json.loads((file.schema_arrow.metadata or {}).get(DESCRIPTION_KEY, b'{}'))
            return _read_columns(file, path, description)
    except pyarrow.ArrowException as error:
        raise FeatureFileError(f'is not a Parquet file of features: {error}', path) from None


def _read_columns(file: Any, path: Path, description: dict[str, Any]) -> FeatureSet:
    paths: list[str] = []
    features = np.zeros((0, 0), np.float32)
    rows = file.metadata.num_rows
    for batch in file.iter_batches(_ROWS, columns=['path', 'feature']):
        if not len(batch):
            continue
        values = _rows_of(batch.column('feature'), path)
        if not paths:
            features = _allocate((rows, values.shape[1]))
        if values.shape[1] != features.shape[1]:
            raise FeatureFileError(
                f'has features of {features.shape[1]} and of {values.shape[1]} numbers; all must have '
                'the same',
                path,
            )
        features[len(paths) : len(paths) + len(values)] = values
        paths += map(str, batch.column('path').to_pylist())
    shape = description.pop('shape', None)
    if shape and len(shape) > 1:
        features = features.reshape(rows, *shape)
    return FeatureSet(paths, features, description)


def _rows_of(column: Any, path: Path) -> np.ndarray:
    """Return a column of lists as (N, D) float32.

    Raises:
        FeatureFileError: It is not of lists of numbers, or they have different lengths.
    """
    from pyarrow import compute

    if column.null_count or not hasattr(column, 'flatten'):
        raise FeatureFileError(
            "the column 'feature' has empty entries, or does not hold lists of numbers", path
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    lengths = set(compute.list_value_length(column).to_pylist())
    if len(lengths) != 1 or values.dtype.kind not in 'fiu' or not values.size:
        raise FeatureFileError("the column 'feature' must hold lists of numbers of the same length", path)
    return values.astype(np.float32, copy=False).reshape(len(column), -1)


def _allocate(shape: tuple[int, int]) -> np.ndarray:
    """Return a float32 array in memory, or in a temporary file that ends with the process if it is large."""
    if 4 * shape[0] * shape[1] <= MAX_BYTES_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix='mmssl-features-') as file:
        return np.memmap(file, np.float32, 'w+', shape=shape)
