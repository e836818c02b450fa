"""What a training run writes to the screen: a summary, training lines, results. The log file has the rest.

mmengine writes its environment, the config, the order of the hooks and the notes of libraries to the screen
too, several hundred lines before the first step.
"""

import contextlib
import io
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.logging.logger import MMFormatter

from mmssl.engine.progress import progress_text
from mmssl.engine.run_summary import closing_lines, summary_lines

# seconds without a line after which a run without a terminal writes one
SILENCE = 30.0
# warnings that nobody can act on, with the reason
HIDDEN_WARNINGS = re.compile(
    '|'.join(
        (
            '"FileClient" will be deprecated',  # mmengine and its toolboxes call it themselves
            '"HardDiskBackend" is the alias',  # likewise
            'faster_coco_eval is not installed, metrics will not be computed',  # pycocotools computes them
            'instance named of .* has been created, the method `get_instance`',  # mmengine's own calls
            'The draw is False, it means that the hook',  # of mmseg: the config asks for no pictures
            'The prefix is not set in metric class',  # mmengine's names of metrics without a prefix are right
        )
    )
)
LIBRARY_NOTES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
# on a terminal the progress bar shows the same
ON_THE_BAR = re.compile(r'^(Iter|Epoch)\(train\)|^Saving checkpoint at ')
_COLOURS = re.compile('\033\\[[0-9;]*m')


class _HeldOutput(io.TextIOBase):
    """Standard output that keeps its text until it is released.

    Args:
        stream: The real output.
    """

    def __init__(self, stream):
        super().__init__()
        self.stream = stream
        self.held: list[str] | None = []

    def write(self, text: str) -> int:
        """Keep the text; after the release write it."""
        if self.held is None:
            return self.stream.write(text)
        self.held.append(text)
        return len(text)

    def flush(self) -> None:
        """Flush the real output."""
        self.stream.flush()

    def fileno(self) -> int:
        """Descriptor of the real output."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Whether the real output is a terminal."""
        return self.stream.isatty()

    def release(self) -> str:
        """Return the text, without colours; from now on write at once."""
        text = ''.join(self.held or [])
        self.held = None
        return _COLOURS.sub('', text).strip()


class Screen(logging.Filter):
    """The screen of a training run, and the filter of the records that reach it.

    Args:
        config: The config as it was typed, for the commands at the end.
    """

    def __init__(self, config: str):
        super().__init__()
        self.config = config
        self.stdout = sys.stdout
        self.output = _HeldOutput(sys.stdout)
        # with a terminal a progress bar shows the steps
        self.terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self.begun = False
        self.last_line = time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is worth a line on the screen."""
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            shown = not HIDDEN_WARNINGS.search(message)
        else:
            shown = self.begun and not (self.terminal and ON_THE_BAR.match(message))
        if shown:
            self.last_line = time.monotonic()
        return shown

    def attach(self, logger: MMLogger) -> None:
        """Let a logger write to the screen through this filter."""
        for handler in _console_handlers(logger):
            if handler.stream is self.output:
                handler.setStream(self.stdout)
            handler.setFormatter(MMFormatter(color=False, datefmt='%m/%d %H:%M:%S'))
            handler.addFilter(self)

    def show_warning(self, message, category, filename, lineno, file=None, line=None) -> None:
        """Write a warning of Python's module ``warnings`` as one line, or to the log file alone."""
        note = issubclass(category, LIBRARY_NOTES) and '/mmssl/' not in filename
        text = f'{category.__name__}: {message}'
        if not note and not HIDDEN_WARNINGS.search(text):
            print(f'mmssl train: {text}', file=file or sys.stderr)
        if self.output.held is not None:
            self.output.write(f'{filename}:{lineno}: {text}\n')
        else:
            _log_to_file(MMLogger.get_current_instance(), f'{filename}:{lineno}: {text}')

    def begin(self, runner) -> None:
        """Write the summary, directly before the first step."""
        text = self.output.release()
        if text:
            _log_to_file(runner.logger, f'printed while the run was set up:\n{text}')
        if is_main_process():
            self._print(*summary_lines(runner, self.config))
        self.begun = True

    def after_step(self, runner, outputs: dict | None) -> None:
        """Write a line if none was written for a while, where no bar moves."""
        if self.terminal or time.monotonic() - self.last_line < SILENCE or not is_main_process():
            return
        loss = (outputs or {}).get('loss')
        self._print(
            f'step {runner.iter + 1}/{runner.max_iters}  '
            + progress_text(runner, None if loss is None else loss.item())
        )

    def end(self, runner) -> None:
        """Write where the results are and what to type next."""
        if is_main_process():
            self._print(*closing_lines(runner, self.config))

    def _print(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self.stdout)
        self.stdout.flush()
        self.last_line = time.monotonic()


_screen: Screen | None = None


def current_screen() -> Screen | None:
    """Return the screen of the run; None outside of ``mmssl train``, and for everything on the screen."""
    return _screen


@contextlib.contextmanager
def quiet_screen(config: str, verbose: bool = False) -> Iterator[None]:
    """Keep what a user has no use for off the screen.

    Args:
        config: The config as it was typed.
        verbose: Whether to change nothing.
    """
    global _screen
    if verbose:
        yield
        return
    before = warnings.showwarning
    _screen = Screen(config)
    for logger in MMLogger._instance_dict.values():
        _screen.attach(logger)
    warnings.showwarning = _screen.show_warning
    try:
        with contextlib.redirect_stdout(_screen.output):
            yield
    finally:
        warnings.showwarning = before
        _screen.output.release()
        for logger in MMLogger._instance_dict.values():
            for handler in _console_handlers(logger):
                handler.removeFilter(_screen)
        _screen = None


def _console_handlers(logger: MMLogger) -> list[logging.StreamHandler]:
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]


def _log_to_file(logger: MMLogger, text: str) -> None:
    """Write a record to the files of a logger alone."""
    record = logger.makeRecord(logger.name, logging.INFO, '', 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
