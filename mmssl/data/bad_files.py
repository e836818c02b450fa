"""Files that cannot be decoded: skipped, counted, listed in the work directory; too many stop the run."""

import math
import os
import re
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmssl.data.eight_bits import ImageSettingError
from mmssl.data.images import BadImageError, decode, open_image
from mmssl.errors import BadFilesError, RemoteError
from mmssl.registry import HOOKS

LIST_NAME = 'bad_files.txt'
# the backslash first, so that it does not escape those of the others
_ESCAPES = {'\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r'}
# one bad file in a small folder is no reason to stop, although 0.1 % of 500 files is less than one
ALWAYS_ALLOWED = 3


class BadFiles:
    """Bad files of one data set, in memory or, once attached, in a file that all workers and ranks share.

    Each line of the file is ``path<TAB>reason``, in which a backslash, tab or line break of a path is written
    as in Python (``\\\\``, ``\\t``, ``\\n``), appended in one write (O_APPEND), so that writers do not
    mix. A bad file that two workers find at the same moment may be listed twice; it counts once.

    Args:
        max_bad_files: Number of bad files above which the run stops.
        max_bad_fraction: Fraction of the data set's files above which the run stops; three bad files are
            always allowed.
    """

    def __init__(self, max_bad_files: int = 100, max_bad_fraction: float = 0.001):
        if max_bad_files < 0:
            raise ValueError(f'max_bad_files={max_bad_files} must be 0 or more')
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(
                f'max_bad_fraction={max_bad_fraction} must be a fraction in [0, 1], such as 0.001'
            )
        self.max_bad_files = max_bad_files
        self.max_bad_fraction = max_bad_fraction
        self.root = ''
        self.list_file: str | None = None
        self._reasons: dict[str, str] = {}
        self._read_size = 0

    def allowed(self, total: int) -> int:
        """Return how many of ``total`` files may be bad."""
        return min(self.max_bad_files, max(math.ceil(self.max_bad_fraction * total), ALWAYS_ALLOWED))

    def attach(self, list_file: str | os.PathLike, root: str) -> None:
        """Share the list with other processes.

        Args:
            list_file: The shared file; the first bad file creates it.
            root: Folder of the data set; lines of other folders belong to other data sets.
        """
        self.list_file = str(Path(list_file).absolute())
        self.root = root.rstrip('/') + '/'
        self._read_size = 0

    def add(self, path: str, reason: str, total: int) -> None:
        """Record a bad file.

        Args:
            path: The file.
            reason: Why it is bad; line breaks are removed.
            total: Number of files in the data set.

        Raises:
            BadFilesError: More files are bad than :meth:`allowed`, or all of them.
        """
        self._read_list()
        if path not in self._reasons:
            reason = ' '.join(str(reason).split())
            self._reasons[path] = reason
            if self.list_file:
                _append(self.list_file, list_line(path, reason))
            print_log(
                f'skipped a bad file ({len(self._reasons)}; {self.allowed(total)} allowed): {path}: {reason}',
                logger='current',
            )
        self._raise_if_too_many(total)

    def check(self, total: int) -> None:
        """Check the limit if the shared list has grown; otherwise this costs one ``os.stat``.

        Args:
            total: Number of files in the data set.

        Raises:
            BadFilesError: As in :meth:`add`.
        """
        if self._read_list():
            self._raise_if_too_many(total)

    def _read_list(self) -> bool:
        """Read what other processes have listed; return whether the list has changed since the last call."""
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
        if self.list_file:
            path, reason = list(self._reasons.items())[-1]
            files = f'listed in {self.list_file}, the last is {path} ({reason})'
        else:
            examples = [f'{path} ({reason})' for path, reason in list(self._reasons.items())[:3]]
            files = f'among them {"; ".join(examples)}'
        if count >= total:
            raise BadFilesError(f'none of the {total} images can be decoded; {files}')
        limits = f'max_bad_files={self.max_bad_files}, max_bad_fraction={self.max_bad_fraction:g}'
        raise BadFilesError(
            f'{count} of {total} images cannot be decoded, {allowed} are allowed; {files}. Repair or remove '
            f'them, or raise the limits in the config (the smaller one applies): dataset=dict({limits})'
        )


def read_list(path: str | os.PathLike) -> list[tuple[str, str]]:
    """Read the (path, reason) pairs of a list of bad files; an absent list is empty."""
    try:
        text = Path(path).read_text(encoding='utf-8', errors='surrogateescape')
    except FileNotFoundError:
        return []
    # a line without its end is still being written by another process
    lines = text[: text.rfind('\n') + 1].split('\n')
    pairs = (line.partition('\t') for line in lines if '\t' in line)
    return [(_unescape(path), reason) for path, _, reason in pairs]


def list_line(path: str, reason: str) -> str:
    """Return the line of the list, from which :func:`read_list` gets any path back."""
    for character, escaped in _ESCAPES.items():
        path = path.replace(character, escaped)
    return f'{path}\t{reason}\n'


def _unescape(path: str) -> str:
    characters = {escaped: character for character, escaped in _ESCAPES.items()}
    return re.sub(r'\\[\\tnr]', lambda match: characters[match.group()], path)


def diagnose(path: str, max_pixels: int | None = None) -> str | None:
    """Return the reason why a file cannot be decoded, or None if it can.

    Args:
        path: Path of a file, or a path that leads through an archive.
        max_pixels: As in :func:`mmssl.data.images.open_image`.
    """
    try:
        decode(open_image(path, max_pixels) if max_pixels else open_image(path))
    except ImageSettingError:  # readable with a setting that this function does not know
        return None
    except BadImageError as error:
        return error.reason
    except RemoteError:
        raise
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


def _drop_repaired(path: str) -> None:
    """Remove the lines of files that have been deleted or repaired, so that they do not count in this run."""
    if not os.path.exists(path):
        return
    still_bad = {}
    for name, reason in read_list(path):
        try:
            decode(open_image(name))
        except (FileNotFoundError, ImageSettingError):
            continue
        except RemoteError:  # the image itself may be right
            continue
        except (BadImageError, OSError):
            still_bad[name] = reason
    temporary = f'{path}.{os.getpid()}'
    Path(temporary).write_text(
        ''.join(list_line(name, reason) for name, reason in still_bad.items()),
        encoding='utf-8',
        errors='surrogateescape',
    )
    os.replace(temporary, path)


def _innermost(dataset) -> list:
    """Return the data sets inside wrappers (``.dataset``, ``.datasets``) that count bad files."""
    if isinstance(getattr(dataset, 'bad_files', None), BadFiles):
        return [dataset]
    inner = list(getattr(dataset, 'datasets', None) or [])
    if getattr(dataset, 'dataset', None) is not None:
        inner.append(dataset.dataset)
    return [innermost for wrapped in inner for innermost in _innermost(wrapped)]


@HOOKS.register_module()
class BadFilesHook(Hook):
    """Stop the run when the workers of all ranks together have found too many bad files.

    Attaches the training data sets to the list ``<work_dir>/bad_files.txt`` before the workers start.

    Args:
        file_name: Name of the list inside the work directory.
    """

    priority = 'VERY_HIGH'

    def __init__(self, file_name: str = LIST_NAME):
        self.file_name = file_name
        self.datasets: list = []

    def before_train(self, runner) -> None:
        """Attach the list; lines of an earlier run stay if their files are still bad.

        Raises:
            BadFilesError: As in :meth:`BadFiles.check`.
        """
        path = os.path.join(runner.work_dir, self.file_name)
        if is_main_process():
            _drop_repaired(path)
        barrier()
        self.datasets = _innermost(runner.train_dataloader.dataset)
        for dataset in self.datasets:
            dataset.bad_files.attach(path, dataset.image_root)
        self._check()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Check the limit."""
        self._check()

    def after_train(self, runner) -> None:
        """Log how many files were skipped."""

        path = os.path.join(runner.work_dir, self.file_name)
        count = len(dict(read_list(path)))
        if count:
            runner.logger.warning(
                f'{count} files could not be decoded and were skipped; they are listed in {path}'
            )

    def _check(self) -> None:
        for dataset in self.datasets:
            dataset.bad_files.check(len(dataset))
