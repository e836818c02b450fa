"""Processes of ``mmssl annotate``, each with a model of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing.connection import wait as wait_for_connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from mmssl.data.annotations import Job


class Recipe(NamedTuple):
    """What a process needs: the arguments of ``load_sam``, settings of the generator, device and folders."""

    model: str
    checkpoint: str
    options: tuple
    trust: bool
    settings: dict
    device: str
    overlay: str | None
    cache_dir: str | None = None


class Annotator:
    """Segment an image and write the file of its masks.

    Args:
        recipe: The model and the settings of its masks.
    """

    def __init__(self, recipe: Recipe):
        from mmssl.apis.sam import load_sam, make_generator

        model = load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust).to(recipe.device)
        self.generator = make_generator(model, recipe.settings, recipe.cache_dir)
        self.overlay = recipe.overlay

    def __call__(self, job: 'Job') -> tuple[int, str | None]:
        """Return the number of masks, and why the image could not be read (else None)."""
        from mmssl.data import annotations
        from mmssl.data.images import BadImageError, read_rgb

        try:
            pixels = read_rgb(job.image)
        except (BadImageError, OSError) as error:
            return 0, str(error)
        records = self.generator.generate(pixels)
        if self.overlay:
            self._draw(Path(self.overlay), job, pixels, records)
        annotations.write_json(job.file, annotations.sa1b_content(job.name, pixels.shape[:2], records))
        return len(records), None

    @staticmethod
    def _draw(folder: Path, job: 'Job', pixels: 'np.ndarray', records: list[dict]) -> None:
        """Draw the masks over the image with their numbers."""
        from PIL import Image

        from mmssl.visualization.files import write_image
        from mmssl.visualization.promptable import draw_texts, overlay_rles

        image = overlay_rles(pixels, [record['segmentation'] for record in records])
        points = [record['point_coords'][0] for record in records]
        image = draw_texts(image, points, range(1, len(records) + 1))
        write_image(Image.fromarray(image), (folder / job.name).with_suffix('.png'))


_annotator: Annotator | None = None


def _start(recipe: Recipe, indices: Any, threads: int) -> None:
    """Load the model in a new process, on a GPU of its own if there are several."""
    import torch

    global _annotator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    index = indices.get()
    if recipe.device == 'cuda':
        recipe = recipe._replace(device=f'cuda:{index % torch.cuda.device_count()}')
    _annotator = Annotator(recipe)


def _exit_with_parent() -> None:
    """End the process when the main one was killed, for which a pool's processes would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_connection([parent.sentinel])
    os._exit(1)


def _annotate(job: 'Job') -> tuple[int, str | None]:
    assert _annotator is not None
    return _annotator(job)


def annotate_in_processes(
    recipe: Recipe, jobs: 'Iterable[Job]', workers: int, start_method: str = 'spawn'
) -> Iterator[tuple[int, str | None]]:
    """Yield the results of several processes as they are finished.

    Args:
        recipe: The model and the settings of each process.
        jobs: Images and the files of their masks.
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
        waiting = {pool.submit(_annotate, job) for job in islice(jobs, 2 * workers)}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(_annotate, job) for job in islice(jobs, len(finished))}
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            'a process died, most likely for lack of memory; what is written stays, and the same command '
            'continues from '
            f'there. Fewer than {workers} --workers need less'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
