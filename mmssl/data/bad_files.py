"""Files that cannot be decoded: skipped, counted once each, listed in the work directory; too many stop the run."""

import math
import os
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmssl.data.images import BadImageError, decode, open_image
from mmssl.errors import BadFilesError
from mmssl.registry import HOOKS

LIST_NAME = 'bad_files.txt'
# one bad file in a small folder is no reason to stop: 0.1 % of 500 files would be none at all
LEAST_ALLOWED = 3


class BadFiles:
    """The bad files of one data set, in memory or, once attached, in a list that all workers and ranks share.

    A line of the list is ``path<TAB>reason``. Lines are appended whole (O_APPEND), so that writers do not
    mix; a file that two workers meet at the same moment may stand there twice and counts once.

    Args:
        max_bad_files: above this many the run stops.
        max_bad_fraction: above this share of the data set's files the run stops, though never at three files
            or fewer.
    """

    def __init__(self, max_bad_files: int = 100, max_bad_fraction: float = 0.001):
        if max_bad_files < 0:
            raise ValueError(f'max_bad_files={max_bad_files} must be 0 or more')
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f'max_bad_fraction={max_bad_fraction} must be a share in [0, 1], such as 0.001')
        self.max_bad_files = max_bad_files
        self.max_bad_fraction = max_bad_fraction
        self.root = ''
        self.list_file: str | None = None
        self._reasons: dict[str, str] = {}
        self._read_size = 0

    def allowed(self, total: int) -> int:
        """How many of ``total`` files may be bad."""
        return min(self.max_bad_files, max(math.ceil(self.max_bad_fraction * total), LEAST_ALLOWED))

    def attach(self, list_file: str | os.PathLike, root: str) -> None:
        """Share the count through a file.

        Args:
            list_file: made when the first bad file is met.
            root: only lines of paths below it belong to this data set.
        """
        self.list_file = str(Path(list_file).absolute())
        self.root = root.rstrip('/') + '/'
        self._read_size = 0

    def add(self, path: str, reason: str, total: int) -> None:
        """Take down a bad file and stop if it is one too many.

        Args:
            path: the file.
            reason: why it is bad; one line of it is kept.
            total: number of files in the data set.

        Raises:
            BadFilesError: more than :meth:`allowed`, or every file of the data set is bad.
        """
        self._read_list()
        if path not in self._reasons:
            reason = ' '.join(str(reason).split())
            self._reasons[path] = reason
            if self.list_file:
                _append(self.list_file, f'{path}\t{reason}\n')
            print_log(
                f'skipped a bad file ({len(self._reasons)}; {self.allowed(total)} allowed): {path}: {reason}',
                logger='current',
            )
        self._raise_if_too_many(total)

    def check(self, total: int) -> None:
        """Raise if the shared list has grown above the limit; costs one ``os.stat`` where it has not grown.

        Raises:
            BadFilesError: as in :meth:`add`.
        """
        if self._read_list():
            self._raise_if_too_many(total)

    def _read_list(self) -> bool:
        """Take over what others have listed; returns whether the list has changed since the last look."""
        if not self.list_file:
            return False
        try:
            size = os.stat(self.list_file).st_size
        except FileNotFoundError:
            return False
        if size == self._read_size:
            return False
        self._reasons.update(
            (path, reason) for path, reason in read_list(self.list_file) if path.startswith(self.root)
        )
        self._read_size = size
        return True

    def _raise_if_too_many(self, total: int) -> None:
        count, allowed = len(self._reasons), self.allowed(total)
        if count <= allowed and count < total:
            return
        where = (
            f'listed in {self.list_file}'
            if self.list_file
            else 'among them '
            + '; '.join(f'{path} ({reason})' for path, reason in list(self._reasons.items())[:3])
        )
        if count >= total:
            raise BadFilesError(f'none of the {total} images can be decoded; {where}')
        raise BadFilesError(
            f'{count} of {total} images cannot be decoded, {allowed} are allowed; {where}. Mend or remove them, or raise the limit in the '
            f'config: dataset=dict(max_bad_files={self.max_bad_files}, max_bad_fraction={self.max_bad_fraction:g}), the smaller counts'
        )


def read_list(path: str | os.PathLike) -> list[tuple[str, str]]:
    """The (path, reason) pairs of a list of bad files; [] where there is none."""
    try:
        text = Path(path).read_text(encoding='utf-8', errors='surrogateescape')
    except FileNotFoundError:
        return []
    # a line that another process is just writing has no end yet
    lines = text[: text.rfind('\n') + 1].split('\n')
    pairs = (line.partition('\t') for line in lines if '\t' in line)
    return [(path, reason) for path, _, reason in pairs]


def diagnose(path: str, max_pixels: int | None = None) -> str | None:
    """Why a file is no readable image; None where it decodes.

    Args:
        path: on disk or through an archive.
        max_pixels: as in :func:`mmssl.data.images.open_image`.
    """
    try:
        decode(open_image(path, max_pixels) if max_pixels else open_image(path))
    except BadImageError as error:
        return error.reason
    except OSError as error:
        return str(error)
    return None


def _append(path: str, line: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode('utf-8', errors='surrogateescape'))
    finally:
        os.close(file)


def _forget_mended(path: str) -> None:
    """Drop the lines of files that are gone or decode by now, so that a repaired folder starts with a clean count."""
    if not os.path.exists(path):
        return
    kept = {}
    for name, reason in read_list(path):
        try:
            decode(open_image(name))
        except FileNotFoundError:
            continue
        except (BadImageError, OSError):
            kept[name] = reason
    temporary = f'{path}.{os.getpid()}'
    Path(temporary).write_text(
        ''.join(f'{name}\t{reason}\n' for name, reason in kept.items()),
        encoding='utf-8',
        errors='surrogateescape',
    )
    os.replace(temporary, path)


def _innermost(dataset) -> list:
    """The data sets inside wrappers (``.dataset``, ``.datasets``) that keep account of bad files."""
    if isinstance(getattr(dataset, 'bad_files', None), BadFiles):
        return [dataset]
    inner = list(getattr(dataset, 'datasets', None) or [])
    if getattr(dataset, 'dataset', None) is not None:
        inner.append(dataset.dataset)
    return [found for part in inner for found in _innermost(part)]


@HOOKS.register_module()
class BadFilesHook(Hook):
    """No hook of the host knows of bad files: they end its run, or, with refetching, go by unseen.

    Gives the training data sets their list ``<work_dir>/bad_files.txt`` before the workers start, and stops
    the run in the main process when the workers of all ranks together have met too many.

    Args:
        file_name: name of the list inside the work directory.
    """

    priority = 'VERY_HIGH'

    def __init__(self, file_name: str = LIST_NAME):
        self.file_name = file_name
        self.datasets: list = []

    def before_train(self, runner) -> None:
        """Attach the list; lines of an earlier run stay where the file still is bad. Raises BadFilesError as :meth:`BadFiles.check`."""
        path = os.path.join(runner.work_dir, self.file_name)
        if is_main_process():
            _forget_mended(path)
        barrier()
        self.datasets = _innermost(runner.train_dataloader.dataset)
        for dataset in self.datasets:
            dataset.bad_files.attach(path, dataset.image_root)
        self._check()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Look at the list."""
        self._check()

    def after_train(self, runner) -> None:
        """Say how many files were skipped."""
        path = os.path.join(runner.work_dir, self.file_name)
        count = len(dict(read_list(path)))
        if count:
            runner.logger.warning(
                f'{count} files could not be decoded and were skipped; they are listed in {path}'
            )

    def _check(self) -> None:
        for dataset in self.datasets:
            dataset.bad_files.check(len(dataset))
