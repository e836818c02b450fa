"""Features of images in a file, computed by one or several processes that may stop at any time."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from mmssl.apis.embedding_model import EmbedOptions, FeatureModel, Features, config_of
from mmssl.apis.feature_images import image_paths
from mmssl.apis.output_folder import check_settings, save_settings
from mmssl.checkpoint import TEMPORARY_SUFFIX
from mmssl.data.url_paths import is_url
from mmssl.evaluation.feature_files import check_suffix, read_description, write_features

COMMAND = 'embed'
# batches of a part, which is computed again if a run stops within it
_BATCHES_OF_PART = 8


class Embedded(NamedTuple):
    """What :func:`embed` has done.

    Attributes:
        images: Number of images in the data.
        computed: Number of images whose features this process has computed.
        pending: Number of images that other processes have not finished; 0 if the file is complete.
        unreadable: Why images could not be read, a line each; only once the file is complete.
    """

    images: int
    computed: int
    pending: int
    unreadable: list[str]


class Part(NamedTuple):
    """Successive images, whose features are in a file of their own until all are merged."""

    indices: range
    file: Path


def embed(
    config: Any,
    checkpoint: str | os.PathLike | None,
    data: str | os.PathLike | Iterable[str | os.PathLike],
    out: str | os.PathLike,
    **options: Any,
) -> Embedded:
    """Compute the features of images and write them to a file; no labels are needed.

    The features go to files in ``.NAME.parts`` beside the output, 8 batches each, and are merged when all are
    there. The same call continues an interrupted one, even by SIGKILL, and returns at once if the file is
    complete. Several processes, each with its ``rank``, compute parts in turn; the last to finish merges
    them, to the same bytes as one process would write. They need no connection, but a common file system.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the model, or of its backbone alone; random if None.
        data: Folders, archives, images or list files, see :func:`mmssl.apis.feature_images.image_paths`.
        out: FILE.parquet with the columns 'path' and 'feature', or FILE.npy, with the paths in FILE.json.
        **options: The attributes of :class:`mmssl.apis.embedding_model.EmbedOptions`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The weights do not fit, no image can be read, or the parts of another run are there.

    Examples:
        >>> from mmssl.apis import embed
        >>> embed('work_dirs/dino/config.py', 'epoch_100.pth', 'photos/', 'photos.parquet', pool='cls')
    """
    run = EmbedOptions(**options)
    out = Path(out)
    check_suffix(out)
    if out.is_dir():
        raise IsADirectoryError(f'--out {out} is a directory; name a file in it')
    if out.suffix.lower() == '.parquet':
        _need_pyarrow()
    paths = image_paths(data)
    description = {
        **describe_model(config, checkpoint, run),
        'batch_size': run.batch_size,
        'images': f'{len(paths)} images ({digest_of_files(paths)})',
    }
    if read_description(out) == description:
        return Embedded(len(paths), 0, 0, [])
    folder = out.with_name(f'.{out.name}.parts')
    try:
        check_settings(folder, COMMAND, description)
    except ValueError as error:
        raise ValueError(f'{error}, or delete that folder') from None
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(folder, COMMAND, description)
    parts = _plan(len(paths), folder, run)
    assert run.rank is not None
    own = [part for part in parts[run.rank :: run.world_size] if _read_part(part) is None]
    _compute(FeatureModel(config, checkpoint, run) if own else None, paths, own, run)
    computed = sum(len(part.indices) for part in own)
    pending = sum(len(part.indices) for part in parts if _read_part(part) is None)
    unreadable: list[str] = []
    if not pending:
        try:
            unreadable = _merge(out, parts, paths, description)
        except FileNotFoundError:  # another process has merged them
            pending = len(paths)
    if pending and read_description(out) == description:
        pending = 0
    return Embedded(len(paths), computed, pending, unreadable)


def _need_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec('pyarrow') is None:
        raise ImportError("Parquet files need pyarrow: pip install 'mmssl[features]', or --out FILE.npy")


def describe_model(config: Any, checkpoint: Any, run: EmbedOptions) -> dict[str, Any]:
    """Return the model and its input, which are the same for features that can be compared.

    Args:
        config: As for :func:`embed`.
        checkpoint: As for :func:`embed`.
        run: Its options.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    content = json.dumps(config_of(config, run).to_dict(), sort_keys=True, default=str)
    name = os.fspath(config) if isinstance(config, (str, os.PathLike)) else str(config.filename or '')
    weights = dict(checkpoint='random', checkpoint_digest=f'seed {run.seed}')
    if checkpoint is not None:
        path = os.path.abspath(os.path.expanduser(os.fspath(checkpoint)))
        if not os.path.isfile(path):
            raise FileNotFoundError(f'checkpoint {path} does not exist')
        weights = dict(checkpoint=path, checkpoint_digest=_digest_of_content(path))
    return dict(
        config=os.path.abspath(name) if os.path.isfile(name) else name,
        config_digest=_digest(content.encode()).hexdigest(),
        **weights,
        pool=run.pool,
        image_size=run.image_size,
    )


def _digest(content: bytes = b'') -> Any:
    return hashlib.blake2b(content, digest_size=8)


def _digest_of_content(path: str) -> str:
    digest = _digest()
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def digest_of_files(paths: Sequence[str]) -> str:
    """Return a digest of the names, sizes and times of files; of an archive, of its own."""
    from mmssl.data.archives import split_archive

    digest = _digest()
    archives: dict[str, str] = {}
    for path in paths:
        folder = os.path.dirname(path)
        try:
            state = archives[folder] if folder in archives else _state_of_file(path)
        except (NotADirectoryError, FileNotFoundError):
            archive = split_archive(path)
            if archive is None:
                raise FileNotFoundError(f'{path} does not exist') from None
            state = archives[folder] = _state_of_archive(archive[0])
        digest.update(f'{path}\0{state}\n'.encode(errors='surrogateescape'))
    return digest.hexdigest()


def _state_of_file(path: str) -> str:
    """Return size and time of a file, or the version of one behind a URL."""
    if is_url(path):
        from mmssl.data.remote import version_of

        return version_of(path)
    status = os.stat(path)
    return f'{status.st_size}\0{status.st_mtime_ns}'


def _state_of_archive(path: str) -> str:
    from mmssl.data.random_access import is_folder
    from mmssl.data.remote import files_below

    if not is_url(path) or not is_folder(path):
        return _state_of_file(path)
    return ' '.join(_state_of_file(f'{path}/{name}') for name in files_below(path))


def _plan(count: int, folder: Path, run: EmbedOptions) -> list[Part]:
    size = run.batch_size * (1 if run.pool == 'patch' else _BATCHES_OF_PART)
    return [
        Part(range(start, min(start + size, count)), folder / f'{start:010d}.npz')
        for start in range(0, count, size)
    ]


def _compute(
    model: FeatureModel | None, paths: Sequence[str], parts: Sequence[Part], run: EmbedOptions
) -> None:
    """Compute parts and write their files."""
    from tqdm import tqdm

    if model is None:
        return
    total = sum(len(part.indices) for part in parts)
    hidden = not run.progress or run.rank != 0
    with tqdm(total=total, desc='embedding', unit='image', disable=hidden) as bar:
        results = model.parts(paths, [part.indices for part in parts])
        for part, result in zip(parts, results, strict=True):
            is_finite = np.isfinite(result.features).all(axis=tuple(range(1, result.features.ndim)))
            if not is_finite.all():
                path = paths[int(result.indices[int(is_finite.argmin())])]
                raise ValueError(f'the feature of {path} contains NaN or infinity; check the weights')
            _write_part(part, result)
            bar.update(len(part.indices))


def _write_part(part: Part, result: Features) -> None:
    temporary = part.file.with_name(f'{part.file.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}')
    try:
        with open(temporary, 'xb') as file:
            np.savez(
                file,
                features=result.features,
                indices=result.indices,
                unreadable=np.array(result.unreadable, dtype=str),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, part.file)
    finally:
        temporary.unlink(missing_ok=True)


def _read_part(part: Part, with_features: bool = False) -> Features | None:
    """Return the content of a part; None if it is not there, or damaged.

    Args:
        part: The part.
        with_features: Read the features too, instead of (0, 0).
    """
    try:
        with np.load(part.file, allow_pickle=False) as content:
            features = content['features'] if with_features else np.zeros((0, 0), np.float32)
            return Features(features, content['indices'], content['unreadable'].tolist())
    except (FileNotFoundError, BadZipFile, ValueError, KeyError, EOFError):
        return None


def _merge(out: Path, parts: Sequence[Part], paths: Sequence[str], description: dict[str, Any]) -> list[str]:
    """Write the features of all parts and remove their files; return why images could not be read.

    Raises:
        FileNotFoundError: A part is not there any more.
    """
    rows = 0
    shape: tuple[int, ...] = ()
    unreadable: list[str] = []
    for part in parts:
        content = _part_of(part, with_features=not shape)
        rows += len(content.indices)
        unreadable += content.unreadable
        if not shape and len(content.indices):
            shape = content.features.shape[1:]
    if not rows:
        shutil.rmtree(parts[0].file.parent, ignore_errors=True)
        raise ValueError(f'none of the {len(paths)} images can be read: {unreadable[0]}')

    def contents() -> Iterator[tuple[list[str], np.ndarray]]:
        for part in parts:
            content = _part_of(part, with_features=True)
            if len(content.indices):
                yield [paths[index] for index in content.indices], content.features

    write_features(out, contents(), rows, shape, description)
    shutil.rmtree(parts[0].file.parent, ignore_errors=True)
    for temporary in out.parent.glob(f'.{out.name}.*{TEMPORARY_SUFFIX}'):  # of runs that were killed here
        with contextlib.suppress(OSError):
            temporary.unlink()
    return unreadable


def _part_of(part: Part, with_features: bool) -> Features:
    content = _read_part(part, with_features)
    if content is None:
        raise FileNotFoundError(f'{part.file} does not exist')
    return content
