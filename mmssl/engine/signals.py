"""SIGTERM and SIGINT during a run: the first makes the runner save and leave, a second ends the process."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# a launcher forwards a signal that the terminal has sent to every process already
ECHO_SECONDS = 1.0


class StopSignal(SystemExit):
    """A signal has ended the run.

    The exit status is 128 plus the number of the signal: 143 for SIGTERM, 130 for SIGINT.

    Args:
        signum: Number of the signal.

    Attributes:
        saved: Whether the state of the run has been dealt with.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum
        self.saved = False

    @property
    def name(self) -> str:
        """SIGTERM or SIGINT."""
        return signal.Signals(self.signum).name


class SignalWatch:
    """Signals that this process has received.

    Args:
        echo_seconds: Seconds within which a second signal is taken for an echo of the first.

    Attributes:
        signum: The signal received, None before one comes.
        immediate: Whether a signal raises at once, wherever the program is: there is nothing to save, or a
            state that can be restored.
    """

    def __init__(self, echo_seconds: float = 0.0):
        self.echo_seconds = echo_seconds
        self.signum: int | None = None
        self.immediate = True
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def wakeup_fd(self) -> int:
        """Descriptor to which Python writes the number of every signal."""
        return self._write

    def handle(self, signum: int, frame) -> None:
        """Note a signal; Python calls this in the main thread, between two lines."""
        if self.signum is not None:
            return
        self.signum = signum
        if self.immediate:
            raise StopSignal(signum)
        if os.environ.get('RANK', '0') == '0':
            write_stderr(
                f'mmssl: {signal.Signals(signum).name}: saving after this step, then leaving; '
                'once more to leave at once'
            )

    def wait_for_second(self) -> None:
        """End the process at the second signal.

        Runs in a thread of its own: the main one may be inside a library, where no handler is called.
        """
        first = None
        while signals := os.read(self._read, 1):
            if signals[0] not in SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first >= self.echo_seconds:
                write_stderr(f'mmssl: {signal.Signals(signals[0]).name} again: leaving at once')
                os._exit(128 + signals[0])
        os.close(self._read)

    def close(self) -> None:
        """End the thread."""
        os.close(self._write)

    def close_in_child(self) -> None:
        """Close the descriptors in a forked process, which has no copy of the thread."""
        os.close(self._read)
        os.close(self._write)


_watch: SignalWatch | None = None


def _reset_in_child() -> None:
    """Let a worker of a data loader survive a Ctrl-C, which reaches every process of a terminal.

    The run needs its batches to finish the step.
    """
    global _watch
    if _watch is not None:
        _watch.close_in_child()
        _watch = None
        with contextlib.suppress(ValueError):  # forked by another thread than the main one
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_reset_in_child)


@contextlib.contextmanager
def watched_signals() -> Iterator[None]:
    """Let the first SIGTERM or SIGINT make a runner of mmssl save and leave, and the second end the process.

    Before the first step there is nothing to save, and the first signal raises :class:`StopSignal` at once.
    Outside the main thread this does nothing, and signals that the process ignores stay ignored.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = watch = SignalWatch(ECHO_SECONDS if 'RANK' in os.environ else 0.0)
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    descriptor = signal.set_wakeup_fd(watch.wakeup_fd, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch.wait_for_second, daemon=True, name='second-signal')
    thread.start()
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, watch.handle)
    try:
        yield
    finally:
        _watch = None
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(descriptor)
        watch.close()


def current_watch() -> SignalWatch | None:
    """Return the watch of this process, None outside :func:`watched_signals`."""
    return _watch


def write_stderr(text: str) -> None:
    """Write one line to the error stream, without buffers, from inside a signal handler or a thread.

    A terminal that is gone does not matter.
    """
    with contextlib.suppress(OSError):
        os.write(2, f'{text}\n'.encode())
