"""Watch of the ranks of a distributed run: a stopped one ends the job, by name, within a set time."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# seconds; ``env_cfg.dist_cfg.timeout`` of the config
DEFAULT_TIMEOUT = 600
# launcher -> variables that hold the rank of a process, and its rank on its machine
RANK_VARIABLES = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
LOCAL_RANK_VARIABLES = {
    'pytorch': 'LOCAL_RANK',
    'slurm': 'SLURM_LOCALID',
    'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK',
}
_KEY = 'mmssl/alive/{}'
_ENDED = b'ended'


class RankWatch:
    """Threads in each rank that write a sign of life to the run's store, and read those of the others.

    A process that is stopped (SIGSTOP, a suspended machine) writes none, whereas one that computes for long
    does. Without the watch the other ranks would wait in their next collective and end with a message that
    names no rank.

    Args:
        store: Key-value store of the process group.
        rank: This rank.
        world_size: Number of ranks.
        timeout: Seconds without a sign of life after which the job ends.
        end: Called with the message; ends the process.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, timeout: float, end: Callable[[str], None] | None = None
    ):
        self.store = store
        self.rank = rank
        self.timeout = timeout
        self.interval = min(timeout / 20, 5.0)
        self.end = end or _end_process
        now = time.monotonic()
        # rank -> its last sign of life and when it was read by this rank's clock
        self.signs: dict[int, tuple[bytes, float]] = {
            other: (b'', now) for other in range(world_size) if other != rank
        }
        self.names: dict[int, str] = {}
        self._store_time = now
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._exchange, self._judge)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Say that this rank has ended in order, and stop the threads."""
        self._stop.set()
        self._threads[0].join(timeout=2 * self.interval)
        if not self._threads[0].is_alive():
            with contextlib.suppress(RuntimeError):  # the store has ended with the first rank
                self.store.set(_KEY.format(self.rank), _ENDED)

    def _exchange(self) -> None:
        beat = 0
        with contextlib.suppress(RuntimeError):  # the store has ended, as its process will report
            while not self._stop.is_set():
                beat += 1
                self.store.set(_KEY.format(self.rank), f'{beat} {os.getpid()} on {socket.gethostname()}')
                for other, (before, _) in list(self.signs.items()):
                    key = _KEY.format(other)
                    sign = self.store.get(key) if self.store.check([key]) else b''
                    if sign != before:
                        self.signs[other] = sign, time.monotonic()
                self._store_time = time.monotonic()
                self._stop.wait(self.interval)
            return
        self._stop.set()

    def _judge(self) -> None:
        # the margin lets this message precede the error of a collective that times out
        limit = self.timeout - 2 * self.interval
        while not self._stop.wait(self.interval):
            message = self.problem(limit)
            if message:
                self.end(message)
                return

    def problem(self, limit: float) -> str | None:
        """Return which ranks have given no sign of life for ``limit`` seconds; None if all have."""
        now = time.monotonic()
        setting = f'env_cfg.dist_cfg.timeout={self.timeout:g}'
        if now - self._store_time > limit:
            return (
                f'rank 0, or the launcher, which holds the store of the run, has not responded for '
                f'{now - self._store_time:.0f} s: it is stopped; the job ends ({setting})'
            )
        silent = [
            f'rank {other}{_process_of(sign)}'
            for other, (sign, last) in self.signs.items()
            if sign != _ENDED and now - last > limit
        ]
        if not silent:
            return None
        return (
            f'{", ".join(silent)} gave no sign of life for {limit:.0f} s: stopped, or its machine is; the '
            f'job ends ({setting})'
        )


def _process_of(sign: bytes) -> str:
    process = sign.decode(errors='replace').partition(' ')[2]
    return f' (process {process})' if process else ''


def _end_process(message: str) -> None:
    from mmengine.logging import print_log

    with contextlib.suppress(Exception):  # the message on stderr matters more than that in the log
        print_log(message, logger='current', level=40)
    print(f'mmssl: error: {message}', file=sys.stderr, flush=True)
    os._exit(1)


@contextlib.contextmanager
def watched_ranks(timeout: float | None = None) -> Iterator[None]:
    """Watch the ranks of the process group inside the context; nothing happens in a run of one process.

    Args:
        timeout: Seconds; :data:`DEFAULT_TIMEOUT` if None.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    # a connection of its own, which a wait of the main thread does not block
    with contextlib.suppress(AttributeError, RuntimeError, NotImplementedError):
        store = store.clone()
    watch = RankWatch(store, dist.get_rank(), dist.get_world_size(), timeout or DEFAULT_TIMEOUT)
    watch.start()
    try:
        yield
    finally:
        watch.stop()
