"""SIGTERM and SIGINT to a run: noted for the runner, which saves after the step at hand; a second one ends the process at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# a launcher hands on a signal that the terminal has sent to every process already
ECHO_SECONDS = 1.0


class Stop(SystemExit):
    """A signal has ended the run; the exit status is 128 and the number of the signal: 143 for SIGTERM, 130 for SIGINT.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum
        self.saved = False

    @property
    def name(self) -> str:
        """SIGTERM or SIGINT."""
        return signal.Signals(self.signum).name


class Watch:
    """What the signals to this process ask for.

    Args:
        echoes: seconds within which a second signal is but an echo of the first.
    """

    def __init__(self, echoes: float = 0.0):
        self.echoes = echoes
        self.signum: int | None = None
        # whether a signal may raise where it finds the program: nothing to save, or a state that can be
        # restored
        self.immediate = True
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def note(self, signum: int, frame) -> None:
        """The handler: runs in the main thread, between two lines of Python."""
        if self.signum is not None:
            return
        self.signum = signum
        if self.immediate:
            raise Stop(signum)
        if os.environ.get('RANK', '0') == '0':
            tell(
                f'mmssl: {signal.Signals(signum).name}: saving after this step, then leaving; once more to leave at once'
            )

    def wait_for_second(self) -> None:
        """A thread: the main one may be inside of a library, where no handler is called."""
        first = None
        while signals := os.read(self._read, 1):
            if signals[0] not in SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first >= self.echoes:
                tell(f'mmssl: {signal.Signals(signals[0]).name} again: leaving at once')
                os._exit(128 + signals[0])
        os.close(self._read)

    def close(self) -> None:
        """End the thread."""
        os.close(self._write)


_watch: Watch | None = None


def _forget_in_child() -> None:
    """A worker of a data loader outlives a Ctrl-C, which reaches every process of a terminal: the run still needs its batches."""
    global _watch
    if _watch is not None:
        for descriptor in (_watch._read, _watch._write):
            os.close(descriptor)
        _watch = None
        with contextlib.suppress(ValueError):  # forked by another thread than the main one
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def watched_signals() -> Iterator[None]:
    """Inside, the first SIGTERM or SIGINT lets a runner of :mod:`mmssl.engine.runner` save and raise :class:`Stop`, and the second ends
    the process. Before the first step there is nothing to save, and the first raises at once. In other
    threads than the main one this does
    nothing, and signals that the process has been told to ignore stay ignored."""
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = watch = Watch(ECHO_SECONDS if 'RANK' in os.environ else 0.0)
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    descriptor = signal.set_wakeup_fd(watch._write, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch.wait_for_second, daemon=True, name='second-signal')
    thread.start()
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, watch.note)
    try:
        yield
    finally:
        _watch = None
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(descriptor)
        watch.close()


def current() -> Watch | None:
    """The watch that is on in this process."""
    return _watch


def tell(text: str) -> None:
    """One line to the error stream, from wherever a signal finds the program; a terminal that is gone does not matter."""
    with contextlib.suppress(OSError):
        os.write(2, f'{text}\n'.encode())
