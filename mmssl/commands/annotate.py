"""``mmssl annotate``: automatic masks of a folder of images as SA-1B keeps them, for a person to choose from and a model to learn from."""

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

HELP = 'write automatic masks of a folder of images in the format of SA-1B; goes on where it stopped'
SETTINGS_FILE, LOCK_FILE = '.annotate-settings', '.annotate-lock'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from mmssl.commands.prompting import add_generator_arguments, add_model_arguments

    parser.add_argument('images', metavar='DIR', help='folder of images, searched with its folders')
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='gets NAME.json for every image, in the same folders; may be the folder of the images itself',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        metavar='N',
        help='processes, each with a model of its own; with --device cuda spread over the GPUs (default: 1)',
    )
    parser.add_argument(
        '--part', default='1/1', metavar='K/N', help='the K-th of N parts of the images, for several machines'
    )
    parser.add_argument(
        '--overlay',
        metavar='DIR',
        help='gets NAME.png with the masks over the image and their numbers, which are the last four digits of their ids',
    )
    add_model_arguments(parser)
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Annotate.

    Returns:
        1 where images could not be read, which are named and left out; else 0.

    Raises:
        FileNotFoundError: no such folder or checkpoint.
        ValueError: no image; a checkpoint that does not fit; a folder that was begun with other settings.
        OSError: another run writes there.
    """
    import sys
    from pathlib import Path

    from tqdm import tqdm

    from mmssl.commands import prompting
    from mmssl.commands.features import pick_device
    from mmssl.promptable import annotations

    if args.workers < 1:
        raise ValueError(f'--workers {args.workers} must be at least 1')
    part = read_part(args.part)
    settings = prompting.generator_settings(args)
    prompting.check_files(args.checkpoint)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; name a folder')
    jobs = annotations.plan(args.images, out, part)
    if args.overlay and Path(args.overlay).resolve().is_relative_to(Path(args.images).resolve()):
        raise ValueError(
            f'--overlay {args.overlay} lies inside of the images, and pictures would be taken for some; name another folder'
        )
    annotations.coco_masks()
    device = pick_device(args.device)
    recipe = Recipe(
        args.model,
        args.checkpoint,
        tuple(args.cfg_options),
        args.trust_checkpoint,
        settings,
        str(device),
        args.overlay,
        args.cache_dir,
    )
    check_settings(out, recipe)
    # before anything is written
    if args.workers == 1:
        annotator = Annotator(recipe)
    else:  # every process loads its own
        prompting.load_sam(*recipe[:4])
    with only_one(out, part):
        todo = [job for job in jobs if not annotations.is_done(job.file)]
        keep_settings(out, recipe)
        done, masks, bad = 0, 0, []
        results = (
            map(annotator, todo)
            if args.workers == 1
            else in_processes(recipe, todo, min(args.workers, len(todo)))
        )
        with tqdm(total=len(todo), desc='annotating', unit='image', disable=prompting.hidden(args)) as bar:
            for count, reason in results:
                bar.update()
                if reason:
                    bad.append(reason)
                    tqdm.write(f'mmssl annotate: left out: {reason}', file=sys.stderr)
                else:
                    done, masks = done + 1, masks + count
    skipped = len(jobs) - len(todo)
    print(
        f'{out}: {masks} masks of {done} images'
        + (f', {skipped} images were done before and skipped' if skipped else '')
        + (f', {len(bad)} could not be read' if bad else '')
        + ('' if masks or not done else prompting.NOTHING)
    )
    return int(bool(bad))


class Recipe(NamedTuple):
    """What a process needs to annotate: arguments of ``load_sam``, of the generator, the device, and where pictures go."""

    model: str
    checkpoint: str
    options: tuple
    trust: bool
    settings: dict
    device: str
    overlay: str | None
    cache_dir: str | None = None


class Annotator:
    """Writes the file of an image.

    Args:
        recipe: of the model and its masks.
    """

    def __init__(self, recipe: Recipe):
        from mmssl.commands.prompting import load_sam, make_generator

        model = load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust).to(recipe.device)
        self.generator = make_generator(model, recipe.settings, recipe.cache_dir)
        self.overlay = recipe.overlay

    def __call__(self, job) -> tuple:
        """(number of masks, why the image could not be read or None)."""
        from mmssl.commands.prompting import read_rgb
        from mmssl.data.images import BadImageError
        from mmssl.promptable import annotations

        try:
            pixels = read_rgb(job.image)
        except (BadImageError, OSError) as error:
            return 0, str(error)
        records = self.generator.generate(pixels)
        if self.overlay:
            self._draw(self.overlay, job, pixels, records)
        annotations.write_json(job.file, annotations.sa1b_content(job.name, pixels.shape[:2], records))
        return len(records), None

    def _draw(self, folder: str, job, pixels, records: list[dict]) -> None:
        from pathlib import Path

        from PIL import Image

        from mmssl.commands.segment import write_picture
        from mmssl.visualization.promptable import draw_numbers, overlay_codes

        picture = overlay_codes(pixels, [record['segmentation'] for record in records])
        places = [record['point_coords'][0] for record in records]
        picture = draw_numbers(picture, places, range(1, len(records) + 1))
        write_picture(Image.fromarray(picture), (Path(folder) / job.name).with_suffix('.png'))


_annotator: Annotator | None = None


def _start(recipe: Recipe, numbers, threads: int) -> None:
    """In a process: load the model, on a GPU of its own where there are several."""
    import signal
    import threading

    import torch

    global _annotator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    torch.set_num_threads(threads)
    number = numbers.get()
    if recipe.device == 'cuda':
        recipe = recipe._replace(device=f'cuda:{number % torch.cuda.device_count()}')
    _annotator = Annotator(recipe)


def _end_with_the_first() -> None:
    """A pool's processes would wait for ever for one that was killed."""
    import multiprocessing
    import os
    from multiprocessing.connection import wait

    first = multiprocessing.parent_process()
    assert first is not None
    wait([first.sentinel])
    os._exit(1)


def _annotate(job) -> tuple:
    assert _annotator is not None
    return _annotator(job)


def in_processes(
    recipe: Recipe, jobs: Iterable, workers: int, start_method: str = 'spawn'
) -> Iterator[tuple]:
    """Results of several processes as they come; an image is handed to one process alone.

    Args:
        recipe: of every process.
        jobs: images and files.
        workers: number of processes.
        start_method: of multiprocessing.

    Raises:
        ChildProcessError: a process died.
    """
    import multiprocessing
    import os
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from itertools import islice

    if not workers:
        return
    context = multiprocessing.get_context(start_method)
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, context, _start, (recipe, numbers, threads))
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
            'a process died, of too little memory most often; what is written stays, and the same command goes on from '
            f'there. Fewer than {workers} --workers need less'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def read_part(text: str) -> tuple[int, int]:
    """(k, n) of 'k/n', 1 <= k <= n."""
    number, _, count = text.partition('/')
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f'--part {text} is not K/N with K from 1 to N, as 1/4')
    return int(number), int(count)


@contextlib.contextmanager
def only_one(out, part: tuple[int, int]) -> Iterator[None]:
    """Let one run write a part of a folder: a whole run keeps out every other, a part those of the same part. Ends with the process."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    whole = part[1] == 1
    with contextlib.ExitStack() as files:
        locks = [(LOCK_FILE, fcntl.LOCK_EX if whole else fcntl.LOCK_SH)]
        locks += [] if whole else [(f'{LOCK_FILE}-{part[0]}-{part[1]}', fcntl.LOCK_EX)]
        for name, kind in locks:
            file = files.enter_context(open(out / name, 'w'))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(
                    f'another mmssl annotate writes into {out}; wait for it, or give each a part of its own: --part 1/2 and '
                    '--part 2/2'
                ) from None
        yield


def _facts(recipe: Recipe) -> dict:
    import os

    size = os.path.getsize(recipe.checkpoint) if os.path.isfile(recipe.checkpoint) else 0
    return dict(
        model=recipe.model,
        checkpoint=os.path.basename(recipe.checkpoint),
        checkpoint_bytes=size,
        cfg_options=list(recipe.options),
        **recipe.settings,
    )


def check_settings(out, recipe: Recipe) -> None:
    """Refuse to go on with other settings than those that a folder was begun with."""
    import json

    path = out / SETTINGS_FILE
    if not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding='utf-8')), _facts(recipe)
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            words = [
                f'{name}={facts[name]}' if name in facts else f'the usual {name}' for facts in (before, now)
            ]
            raise ValueError(
                f'{out} was begun with {words[0]}, not {words[1]}; give the same settings, or another --out'
            )


def keep_settings(out, recipe: Recipe) -> None:
    """Write down what a folder is begun with."""
    import json

    from mmssl.checkpoint import write_text

    write_text(out / SETTINGS_FILE, json.dumps(_facts(recipe), indent=2) + '\n')
