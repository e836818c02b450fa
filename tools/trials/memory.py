"""Resident memory of all processes over a long run, and over an evaluation.

    python tools/trials/memory.py --iterations 5000 --output docs/trials/memory.md
    python tools/trials/memory.py --iterations 5000 --sources folder tar parquet memory \
        --output docs/trials/memory_sources.md

Trains the smoke configs with two workers as ``mmssl train`` does, with logs and checkpoints, and records the
memory of every process (``VmRSS`` of proc(5)); with ``--sources``, MAE on images that are packed or behind a
URL. Growth compares the mean over the last tenth with the mean
over a tenth from iteration 500 on. Then tests models on 50 and on 500 images, and passes predictions of
realistic size to metrics.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)

SYSTEMS = {
    'mae': 'pre-training (MAE)',
    'gcn': 'segmentation (GCN)',
    'rfcn': 'detection (R-FCN)',
    'sam': 'prompting (Segment Anything)',
}
SOURCES = {
    'folder': 'MAE on a folder',
    'tar': 'MAE on three tar shards',
    'parquet': 'MAE on three Parquet files',
    'memory': 'MAE on memory://, with a cache of 1 MB',
}
START = 500


class Curve(NamedTuple):
    """Memory in MiB by iteration.

    Attributes:
        iterations: Iterations of the readings.
        processes: Readings of each process, the main one first.
    """

    iterations: list[int]
    processes: list[list[float]]

    def growth(self, start: int) -> list[float]:
        """Return the relative growth of each process from the tenth at ``start`` to the last tenth."""
        tenth = max(1, (self.iterations[-1] - start) // 10)
        end = self.iterations[-1]
        first = [index for index, step in enumerate(self.iterations) if start <= step <= start + tenth]
        last = [index for index, step in enumerate(self.iterations) if step >= end - tenth]
        return [_mean(values, last) / _mean(values, first) - 1 for values in self.processes]


def _mean(values: list[float], indices: list[int]) -> float:
    return sum(values[index] for index in indices) / len(indices)


def resident(pid: int | str = 'self') -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1024
    return 0.0


def settings_of(name: str, folder: Path, work_dir: str, *options: str):
    """Load a smoke config as ``mmssl train`` prepares it, with the demo data of ``folder``."""
    from mmssl.config.load import load_config
    from mmssl.engine.launch import prepare

    os.chdir(folder)
    cfg = load_config(str(ROOT / f'configs/smoke/{name}.py'), ['log_level=ERROR', *options])
    prepare(cfg, argparse.Namespace(data=None, launcher='none', work_dir=work_dir, local_rank=0), name)
    return cfg


def data_root(source: str, folder: Path) -> str:
    """Return the demo data of MAE, packed or put behind a URL."""
    from mmssl.apis.packing import pack

    images = folder / 'data/demo/imagenet'
    if source == 'folder':
        return str(images)
    if source == 'memory':
        import fsspec

        os.environ.update(MMSSL_CACHE_DIR=str(folder / 'cache'), MMSSL_CACHE_SIZE='1M')
        fsspec.filesystem('memory').put(str(images), '/images', recursive=True)
        return 'memory://images'
    out = folder / f'packed-{source}'
    count = sum(path.is_file() for path in images.rglob('*'))
    pack(str(images), str(out), source, -(-count // 3))
    return str(out)


def training_on(source: str, folder: Path, iterations: int) -> Curve:
    """Train MAE's smoke config on a source and record the memory."""
    root = f'train_dataloader.dataset.data_root={data_root(source, folder)}'
    return training('mae', folder, iterations, options=(root,))


def training(
    name: str,
    folder: Path,
    iterations: int,
    workers: int = 2,
    every: int = 25,
    options: tuple[str, ...] = (),
) -> Curve:
    """Train a smoke config and record the memory.

    Args:
        name: Name of the config.
        folder: Folder with ``data/demo``.
        iterations: Number of iterations.
        workers: Workers of the data loader.
        every: Iterations between readings.
        options: Further settings, KEY=VALUE.
    """
    from mmengine.hooks import Hook

    from mmssl.engine.runner import runner_class

    cfg = settings_of(
        name,
        folder,
        f'runs/{name}',
        f'train_dataloader.num_workers={workers}',
        'train_dataloader.batch_size=4',
        f'train_cfg.max_iters={iterations}',
        'default_hooks.logger.interval=50',
        f'default_hooks.checkpoint.interval={max(1, iterations // 5)}',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        *options,
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = cfg.test_cfg = cfg.test_dataloader = (
        cfg.test_evaluator
    ) = None
    curve = Curve([], [[] for _ in range(workers + 1)])

    class Record(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if (runner.iter + 1) % every:
                return
            curve.iterations.append(runner.iter + 1)
            pids = [os.getpid(), *sorted(child.pid for child in multiprocessing.active_children())]
            for values, pid in zip(curve.processes, pids, strict=True):
                values.append(resident(pid))

    runner = runner_class(cfg).from_cfg(cfg)
    runner.register_hook(Record())
    runner.train()
    return curve


def testing(name: str, folder: Path, images: tuple[int, int] = (50, 500)) -> list[float]:
    """Return the memory in MiB after ``images`` images of a test of a smoke config on repeated data."""
    from mmengine.hooks import Hook

    from mmssl.engine.runner import runner_class

    cfg = settings_of(name, folder, f'runs/test-{name}', 'test_dataloader.batch_size=1')
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=images[-1], dataset=dataset)
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    readings: list[float] = []

    class TestedEnough(Exception):  # noqa: N818
        """The last image of interest has been tested."""

    class Record(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx + 1 in images:
                readings.append(resident())
            if batch_idx + 1 == images[-1]:
                raise TestedEnough

    runner = runner_class(cfg).from_cfg(cfg)
    runner.register_hook(Record())
    with contextlib.suppress(TestedEnough):
        runner.test()
    return readings


def segmentation_metric():
    """Return SegmentationMetric and a function that draws predictions of 512x512 pixels and 150 classes."""
    import torch

    from mmssl.evaluation.segmentation import SegmentationMetric

    metric = SegmentationMetric()
    metric.dataset_meta = dict(classes=[str(label) for label in range(150)])

    def sample(index):
        generator = torch.Generator().manual_seed(index)
        maps = torch.randint(0, 150, (2, 1, 512, 512), generator=generator, dtype=torch.uint8)
        return dict(
            pred_sem_seg=dict(data=maps[0]), gt_sem_seg=dict(data=maps[1].long()), img_path=f'{index}.jpg'
        )

    return metric, sample


def click_metric():
    """Return ClickMetric and a function that draws 30 objects of 20 clicks."""
    import torch

    from mmssl.evaluation.clicks import ClickMetric

    def sample(index):
        generator = torch.Generator().manual_seed(index)
        return dict(
            pred_instances=dict(
                click_ious=torch.rand(30, 20, generator=generator), areas=torch.full((30,), 900.0)
            )
        )

    return ClickMetric(), sample


def coco_metric():
    """Return mmdet's CocoMetric and a function that draws 100 boxes."""
    import json

    import torch
    from mmdet.evaluation import CocoMetric

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'a.json'
        path.write_text(json.dumps(dict(images=[], annotations=[], categories=[dict(id=1, name='a')])))
        metric = CocoMetric(ann_file=str(path), metric='bbox')
    metric.dataset_meta = dict(classes=('a',))

    def sample(index):
        boxes = dict(
            bboxes=torch.rand(100, 4), scores=torch.rand(100), labels=torch.zeros(100, dtype=torch.long)
        )
        return dict(img_id=index, ori_shape=(480, 640), pred_instances=boxes)

    return metric, sample


def feeding(build, images: tuple[int, int] = (50, 500)) -> list[float]:
    """Return the memory in MiB after a metric has processed ``images`` predictions."""
    metric, sample = build()
    readings = []
    for index in range(images[-1]):
        metric.process({}, [sample(index)])
        if index + 1 in images:
            gc.collect()
            readings.append(resident())
    return readings


METRICS = {
    'SegmentationMetric, 512x512, 150 classes': segmentation_metric,
    'ClickMetric, 30 objects of 20 clicks': click_metric,
    "mmdet's CocoMetric, 100 boxes": coco_metric,
}


def in_a_fork(function, *arguments):
    """Return the result of a function that runs in a forked process, which frees its memory."""
    receiver, sender = multiprocessing.Pipe(False)
    pid = os.fork()
    if not pid:
        try:
            sender.send(function(*arguments))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f'{function.__name__}{arguments} failed; see above') from None
    finally:
        os.waitpid(pid, 0)


def report(curves: dict, tests: dict, metrics: dict, iterations: int, seconds: float) -> str:
    """Return the figures as Markdown."""
    start = min(START, iterations // 2)
    lines = [
        '# Memory',
        '',
        f'`python tools/trials/memory.py {" ".join(sys.argv[1:])}`, {seconds / 60:.0f} minutes, two '
        f'workers, batches of 4. Resident MiB; growth from the tenth after iteration {start} to the last.',
        '',
        '| training | process | at the start | at the end | largest | growth |',
        '|---|---|---|---|---|---|',
    ]
    for name, curve in curves.items():
        first = next(index for index, step in enumerate(curve.iterations) if step >= start)
        for index, (values, growth) in enumerate(zip(curve.processes, curve.growth(start), strict=True)):
            process = f'worker {index}' if index else 'main'
            row = f'{(SYSTEMS | SOURCES)[name]}, {curve.iterations[-1]} iterations'
            lines.append(
                f'| {row} | {process} | {values[first]:.1f} | '
                f'{values[-1]:.1f} | {max(values[first:]):.1f} | {100 * growth:+.2f} % |'
            )
    if not metrics:
        return '\n'.join(lines) + '\n'
    lines += ['', '| evaluation | after 50 images | after 500 | growth |', '|---|---|---|---|']
    evaluations = {f'test of {SYSTEMS[name]}': readings for name, readings in tests.items()}
    for name, (few, many) in {**evaluations, **metrics}.items():
        growth = f'{100 * (many / few - 1):+.2f} %, {1024 * (many - few) / 450:.2f} KiB per image'
        lines.append(f'| {name} | {few:.1f} | {many:.1f} | {growth} |')
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Run the trials, print the table, and return 1 if memory grows by 5 % or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=5000)
    parser.add_argument('--systems', nargs='+', default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument('--sources', nargs='+', choices=list(SOURCES), help='MAE on these, and nothing else')
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    output = args.output and args.output.absolute()
    start = time.monotonic()
    from mmssl.data.demo import make_demo_data

    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        make_demo_data(folder / 'data/demo')
        systems = [] if args.sources else args.systems
        metrics = {} if args.sources else {name: in_a_fork(feeding, make) for name, make in METRICS.items()}
        tests = {name: in_a_fork(testing, name, folder) for name in systems if name != 'mae'}
        curves = {}
        for name in args.sources or systems:
            train = training_on if args.sources else training
            curves[name] = in_a_fork(train, name, folder, args.iterations)
            growth = curves[name].growth(min(START, args.iterations // 2))
            print(name, [f'{100 * value:+.2f} %' for value in growth], flush=True)
    text = report(curves, tests, metrics, args.iterations, time.monotonic() - start)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding='utf-8')
    growths = [value for curve in curves.values() for value in curve.growth(min(START, args.iterations // 2))]
    return int(max(growths) >= 0.05)


if __name__ == '__main__':
    sys.exit(main())
