"""Run a function in several processes of one gloo group: what the fixture ``two_ranks`` does."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any


def run(
    make_folder: Callable[[str], Path], function: Callable, *arguments, count: int = 2, timeout: float = 120
) -> list[Any]:
    """Call ``function(rank, *arguments)`` in each process and return the results in the order of the ranks.

    An exception in one of the processes is raised here with its traceback, and the others are ended.

    Args:
        make_folder: Makes an empty folder whose name begins with its argument.
        function: Defined at the top level of a module.
        arguments: Passed on to the function.
        count: Number of processes.
        timeout: Seconds after which TimeoutError is raised.
    """
    import torch
    from torch.multiprocessing import ProcessRaisedException

    # a fork needs no imports of its own, but CUDA and an autograd with threads do not survive it
    methods = ['spawn'] if torch.cuda.is_available() else ['fork', 'spawn']
    for method in methods:
        folder = make_folder('ranks')
        try:
            _start(method, (function, arguments, count, folder), count, timeout)
            break
        except ProcessRaisedException as error:
            if method == 'spawn' or 'fork-based multiprocessing' not in str(error):
                raise
    return [torch.load(folder / f'{rank}.pt', weights_only=False) for rank in range(count)]


def _start(method: str, arguments: tuple, count: int, timeout: float) -> None:
    from torch import multiprocessing

    processes = multiprocessing.start_processes(
        _process, arguments, nprocs=count, join=False, start_method=method
    )
    deadline = time.monotonic() + timeout
    try:
        while not processes.join(max(deadline - time.monotonic(), 0)):
            if time.monotonic() >= deadline:
                raise TimeoutError(f'the processes have not ended after {timeout} seconds')
    finally:
        for process in processes.processes:
            process.kill()


def _process(rank: int, function: Callable, arguments: tuple, count: int, folder: Path) -> None:
    import torch
    from torch import distributed

    from mmssl.engine.launch import leave_process_group

    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', f'file://{folder}/rendezvous', rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    torch.save(function(rank, *arguments), folder / f'{rank}.pt')
    # not destroy_process_group: the process can hang unless gloo's threads have released their tensors
    leave_process_group()
