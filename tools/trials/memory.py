"""Resident memory over a long run, of the main process and of the data loader's workers, and over an evaluation.

    python tools/trials/memory.py --iterations 5000 --output docs/trials/memory.md

Trains the smoke configs with two workers as ``mmssl train`` does, with logs and checkpoints, and notes the
memory of every process on the way (``VmRSS`` of proc(5)). Growth is that of the mean over the last tenth
against the mean over a tenth from iteration 500 on. Then tests models on 50 and on 500 images, and feeds
metrics with predictions of the size of real ones.
"""

import argparse
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
START = 500


class Curve(NamedTuple):
    """Memory in MiB by iteration; one list a process, the main one first."""

    iterations: list[int]
    processes: list[list[float]]

    def growth(self, start: int) -> list[float]:
        """Of every process: mean of the last tenth over the mean of the tenth that begins at iteration ``start``, less 1."""
        tenth = max(1, (self.iterations[-1] - start) // 10)
        first = [place for place, number in enumerate(self.iterations) if start <= number <= start + tenth]
        last = [
            place for place, number in enumerate(self.iterations) if number >= self.iterations[-1] - tenth
        ]
        return [_mean(values, last) / _mean(values, first) - 1 for values in self.processes]


def _mean(values: list[float], places: list[int]) -> float:
    return sum(values[place] for place in places) / len(places)


def resident(pid: int | str = 'self') -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1024
    return 0.0


def settings_of(name: str, folder: Path, work_dir: str, *options: str):
    """A smoke config as ``mmssl train`` prepares it, with the demo data of ``folder``."""
    from mmssl.config.load import load_config
    from mmssl.engine.launch import prepare

    os.chdir(folder)
    cfg = load_config(str(ROOT / f'configs/smoke/{name}.py'), ['log_level=ERROR', *options])
    prepare(cfg, argparse.Namespace(data=None, launcher='none', work_dir=work_dir, local_rank=0), name)
    return cfg


def training(name: str, folder: Path, iterations: int, workers: int = 2, every: int = 25) -> Curve:
    """Train a smoke config and note the memory every so many iterations.

    Args:
        name: of the config.
        folder: with ``data/demo`` in it.
        iterations: how long.
        workers: of the data loader.
        every: between two notes.
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
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = cfg.test_cfg = cfg.test_dataloader = (
        cfg.test_evaluator
    ) = None
    curve = Curve([], [[] for _ in range(workers + 1)])

    class Note(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if (runner.iter + 1) % every:
                return
            curve.iterations.append(runner.iter + 1)
            pids = [os.getpid(), *sorted(child.pid for child in multiprocessing.active_children())]
            for values, pid in zip(curve.processes, pids, strict=True):
                values.append(resident(pid))

    runner = runner_class(cfg).from_cfg(cfg)
    runner.register_hook(Note())
    runner.train()
    return curve


def testing(name: str, folder: Path, images: tuple[int, int] = (50, 500)) -> list[float]:
    """Memory in MiB after so many images of a test of a smoke config, whose data set is repeated."""
    from mmengine.hooks import Hook

    from mmssl.engine.runner import runner_class

    cfg = settings_of(name, folder, f'runs/test-{name}', 'test_dataloader.batch_size=1')
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=images[-1], dataset=dataset)
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    found: list[float] = []

    class Enough(Exception):
        """The last image of interest is done."""

    class Note(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx + 1 in images:
                found.append(resident())
            if batch_idx + 1 == images[-1]:
                raise Enough

    runner = runner_class(cfg).from_cfg(cfg)
    runner.register_hook(Note())
    try:
        runner.test()
    except Enough:
        pass
    return found


def segmentation_metric():
    """SegmentationMetric, and a prediction of 512x512 pixels and 150 classes."""
    import torch

    from mmssl.evaluation.segmentation import SegmentationMetric

    metric = SegmentationMetric()
    metric.dataset_meta = dict(classes=[str(number) for number in range(150)])

    def sample(number):
        generator = torch.Generator().manual_seed(number)
        maps = torch.randint(0, 150, (2, 1, 512, 512), generator=generator, dtype=torch.uint8)
        return dict(
            pred_sem_seg=dict(data=maps[0]), gt_sem_seg=dict(data=maps[1].long()), img_path=f'{number}.jpg'
        )

    return metric, sample


def click_metric():
    """ClickMetric, and 30 objects of 20 clicks."""
    import torch

    from mmssl.evaluation.clicks import ClickMetric

    def sample(number):
        generator = torch.Generator().manual_seed(number)
        return dict(
            pred_instances=dict(
                click_ious=torch.rand(30, 20, generator=generator), areas=torch.full((30,), 900.0)
            )
        )

    return ClickMetric(), sample


def coco_metric():
    """mmdet's CocoMetric, and 100 boxes."""
    import json

    import torch
    from mmdet.evaluation import CocoMetric

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'a.json'
        path.write_text(json.dumps(dict(images=[], annotations=[], categories=[dict(id=1, name='a')])))
        metric = CocoMetric(ann_file=str(path), metric='bbox')
    metric.dataset_meta = dict(classes=('a',))

    def sample(number):
        found = dict(
            bboxes=torch.rand(100, 4), scores=torch.rand(100), labels=torch.zeros(100, dtype=torch.long)
        )
        return dict(img_id=number, ori_shape=(480, 640), pred_instances=found)

    return metric, sample


def feeding(build, images: tuple[int, int] = (50, 500)) -> list[float]:
    """Memory in MiB after so many images that a metric has taken in."""
    metric, sample = build()
    found = []
    for number in range(images[-1]):
        metric.process({}, [sample(number)])
        if number + 1 in images:
            gc.collect()
            found.append(resident())
    return found


def in_a_fork(function, *arguments):
    """What a function returns in a process of its own, so that no memory of one trial is there in the next."""
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


def report(curves: dict, tests: dict, fed: dict, iterations: int, seconds: float) -> str:
    """The figures as Markdown."""
    start = min(START, iterations // 2)
    lines = [
        '# Memory',
        '',
        f'`python tools/trials/memory.py --iterations {iterations}`, {seconds / 60:.0f} minutes, two workers, batches '
        f'of 4. MiB resident; growth from the tenth after iteration {start} to the last tenth.',
        '',
        '| training | process | at the start | at the end | most | growth |',
        '|---|---|---|---|---|---|',
    ]
    for name, curve in curves.items():
        at = next(place for place, number in enumerate(curve.iterations) if number >= start)
        for number, (values, growth) in enumerate(zip(curve.processes, curve.growth(start), strict=True)):
            process = f'worker {number}' if number else 'main'
            lines.append(
                f'| {SYSTEMS[name]}, {curve.iterations[-1]} iterations | {process} | {values[at]:.1f} | {values[-1]:.1f} | '
                f'{max(values[at:]):.1f} | {100 * growth:+.2f} % |'
            )
    lines += ['', '| evaluation | after 50 images | after 500 | growth |', '|---|---|---|---|']
    for name, (few, many) in {
        **{f'test of {SYSTEMS[name]}': found for name, found in tests.items()},
        **fed,
    }.items():
        lines.append(
            f'| {name} | {few:.1f} | {many:.1f} | {100 * (many / few - 1):+.2f} %, {1024 * (many - few) / 450:.2f} KiB an image |'
        )
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Run the trials and print the table; fail where memory grows by 5 % or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=5000)
    parser.add_argument('--systems', nargs='+', default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument('--output', type=Path, help='Markdown file')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    output = args.output and args.output.absolute()
    start = time.monotonic()
    from mmssl.data.demo import make_demo_data

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_demo_data(folder / 'data/demo')
        fed = {
            'SegmentationMetric, 512x512, 150 classes': in_a_fork(feeding, segmentation_metric),
            'ClickMetric, 30 objects of 20 clicks': in_a_fork(feeding, click_metric),
            "mmdet's CocoMetric, 100 boxes": in_a_fork(feeding, coco_metric),
        }
        tests = {name: in_a_fork(testing, name, folder) for name in args.systems if name != 'mae'}
        curves = {}
        for name in args.systems:
            curves[name] = in_a_fork(training, name, folder, args.iterations)
            print(
                name,
                [
                    f'{100 * growth:+.2f} %'
                    for growth in curves[name].growth(min(START, args.iterations // 2))
                ],
                flush=True,
            )
    text = report(curves, tests, fed, args.iterations, time.monotonic() - start)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding='utf-8')
    return int(
        any(
            growth >= 0.05
            for curve in curves.values()
            for growth in curve.growth(min(START, args.iterations // 2))
        )
    )


if __name__ == '__main__':
    sys.exit(main())
