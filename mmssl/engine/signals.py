"""SIGTERM and SIGINT during a run: the first makes the runner save and leave, a second ends the process."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# a launcher forwards, once, a signal that the terminal or the scheduler has sent to every process already
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
        launched: Whether a launcher has started this process. The same signal once more within
            ``ECHO_SECONDS`` is then taken for the one that the launcher forwards.

    Attributes:
        signum: The signal received, None before one comes.
        immediate: Whether a signal raises at once, wherever the program is: there is nothing to save, or a
            state that can be restored.
    """

    def __init__(self, launched: bool = False):
        self.launched = launched
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
        if not self.launched or os.environ.get('RANK', '0') == '0':
            write_stderr(
                f'mmssl: {signal.Signals(signum).name}: saving after this step, then leaving; '
                'once more to leave at once'
            )

    def wait_for_second(self) -> None:
        """End the process at the second signal.

        Runs in a thread of its own: the main one may be inside a library, where no handler is called.
        """
        received: list[int] = []
        begin = 0.0
        while signals := os.read(self._read, 1):
            signum = signals[0]
            if signum not in SIGNALS:
                continue
            now = time.monotonic()
            begin = begin or now
            is_echo = self.launched and received == [signum] and now - begin < ECHO_SECONDS
            if received and not is_echo:
                write_stderr(f'mmssl: {signal.Signals(signum).name} again: leaving at once')
                os._exit(128 + signum)
            received.append(signum)
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
def watched_signals(launched: bool = False) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT make a runner of mmssl save and leave, and the second end the process.

    Before the first step there is nothing to save, and the first signal raises :class:`StopSignal` at once.
    Outside the main thread this does nothing, and signals that the process ignores stay ignored.

    Args:
        launched: Whether a launcher that forwards signals has started this process. The environment does not
            tell: RANK may be set where there is no launcher.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = watch = SignalWatch(launched)
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

    A terminal that is gone does not matter, and nothing waits for a full pipe that nobody reads.
    """
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f'{text}\n'.encode())
