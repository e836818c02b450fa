"""Processes that share the images of a folder, each with a model of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import wait as wait_for_connection
from typing import Any, Protocol


class Recipe(Protocol):
    """What a process needs to build its worker; can be pickled."""

    @property
    def device(self) -> str:
        """The device; 'cuda' gives each process a GPU of its own."""

    def build(self, device: str) -> Callable[[Any], Any]:
        """Return the function of one job, with its model on a device."""


_worker: Callable[[Any], Any] | None = None


def _start(recipe: Recipe, indices: Any, threads: int) -> None:
    """Load the model in a new process, on a GPU of its own if there are several."""
    import torch

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    index = indices.get()
    on_gpus = recipe.device == 'cuda'
    _worker = recipe.build(f'cuda:{index % torch.cuda.device_count()}' if on_gpus else recipe.device)


def _exit_with_parent() -> None:
    """End the process when the main one was killed, for which a pool's processes would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_connection([parent.sentinel])
    os._exit(1)


def _work(job: Any) -> Any:
    assert _worker is not None
    return _worker(job)


def run_in_processes(
    recipe: Recipe, jobs: Iterable, workers: int, start_method: str = 'spawn'
) -> Iterator[Any]:
    """Yield the results of several processes as they are finished.

    Args:
        recipe: The model and the settings of each process.
        jobs: Images and the files of their results.
        workers: Number of processes.
        start_method: Start method of multiprocessing.

    Raises:
        ChildProcessError: A process died.
    """
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    if not workers:
        return
    context = multiprocessing.get_context(start_method)
    indices = context.Queue()
    for index in range(workers):
        indices.put(index)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, context, _start, (recipe, indices, threads))
    jobs = iter(jobs)
    try:
        waiting = {pool.submit(_work, job) for job in islice(jobs, 2 * workers)}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(_work, job) for job in islice(jobs, len(finished))}
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            'a process died, most likely for lack of memory; what is written stays, and the same command '
            f'continues from there. Fewer than {workers} --workers need less'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
