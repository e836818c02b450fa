"""The same faults in the toolboxes alone and with mmssl, side by side.

    python tools/trials/hosts.py --output docs/trials/hosts.md

Every trial runs in a separate process; those of the toolboxes never import mmssl. The table shows what was
observed.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Touch:
    """An object whose unpickling runs a command that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch "{self.path}"',)


def import_mmssl():
    """Import what ``mmssl train`` and ``mmssl test`` import."""
    sys.path.insert(0, str(ROOT))
    import mmssl.registry  # noqa: F401


def message_of(error: BaseException) -> str:
    """Type and message of an error, in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:230]}'


def sample_of(label):
    """Return a data sample whose prediction is class 0 everywhere."""
    import torch

    return dict(
        pred_sem_seg=dict(data=torch.zeros(1, 4, 4, dtype=torch.long)),
        gt_sem_seg=dict(data=torch.tensor(label)[None]),
        img_path='photo.jpg',
        seg_map_path='label.png',
    )


def metric_of(ours):
    """Build the segmentation metric of mmssl or of mmseg."""
    if ours:
        import_mmssl()
        from mmssl.evaluation.segmentation import SegmentationMetric as Metric
    else:
        from mmseg.evaluation import IoUMetric as Metric
    metric = Metric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    return metric


def scores(ours, label):
    """Evaluate a prediction of class 0 against a label map."""
    metric = metric_of(ours)
    metric.process({}, [sample_of(label)])
    return ', '.join(f'{name} = {value:.4g}' for name, value in metric.evaluate(1).items())


def label_out_of_range(ours, folder):
    """Half of the pixels have label 7; there are two classes."""
    return scores(ours, [[0] * 4] * 2 + [[7] * 4] * 2)


def all_ignored(ours, folder):
    """Every pixel of the evaluation is ignored."""
    return scores(ours, [[255] * 4] * 4)


def label_of_16_bits(ours, folder):
    """A 16-bit label map of class 300."""
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(folder / 'label.png')
    if ours:
        import_mmssl()
        from mmssl.data.label_maps import LoadLabelMap as Load
    else:
        from mmseg.datasets.transforms import LoadAnnotations as Load
    results = Load().transform(
        dict(seg_map_path=str(folder / 'label.png'), reduce_zero_label=False, label_map=None, seg_fields=[])
    )
    return f'read as class {int(results["gt_seg_map"].max())}'


def nan_loss(ours, folder):
    """A loss that is NaN from step 3 on, with mmdet's CheckInvalidLossHook and with NonFiniteHook."""
    if ours:
        import_mmssl()
    import torch
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight, self.step = torch.nn.Parameter(torch.ones(1)), 0

        def forward(self, inputs, mode='loss'):
            self.step += 1
            return dict(loss=(self.weight * (math.nan if self.step >= 3 else 1.0)).sum())

    model = Model()
    if not ours:
        import mmdet.engine.hooks  # noqa: F401  recommended to users of mmengine
    hooks = [dict(type='mmssl.NonFiniteHook' if ours else 'mmdet.CheckInvalidLossHook')]
    runner = Runner(
        model,
        str(folder / 'run'),
        dict(
            dataset=[torch.zeros(1)] * 100,
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=100),
        optim_wrapper=dict(
            type='mmssl.OptimWrapper' if ours else 'OptimWrapper', optimizer=dict(type='SGD', lr=0.1)
        ),
        custom_hooks=hooks,
        log_level='ERROR',
        default_hooks=dict(checkpoint=None),
    )
    try:
        runner.train()
        return f'trained {model.step} steps; weight {float(model.weight)}'
    except Exception as error:
        weight = float(model.weight.detach())
        return f'stopped at step {runner.iter + 1}, weight {weight:.3g}: {message_of(error)}'


def command_in_a_checkpoint(ours, folder):
    """A checkpoint that creates a file if loading it runs its code."""
    if ours:
        import_mmssl()
    import torch
    from mmengine.runner import load_checkpoint

    torch.save(
        {'state_dict': torch.nn.Linear(2, 2).state_dict(), 'meta': {'x': Touch(folder / 'canary')}},
        folder / 'evil.pth',
    )
    try:
        load_checkpoint(torch.nn.Linear(2, 2), str(folder / 'evil.pth'))
        text = 'loaded'
    except Exception as error:
        text = message_of(error)
    return f'{"THE COMMAND WAS RUN" if (folder / "canary").exists() else "the command was not run"}; {text}'


def no_matching_key(ours, folder):
    """A checkpoint of another model, with no matching key."""
    import torch

    torch.save({'state_dict': {'other.weight': torch.zeros(3, 3)}}, folder / 'other.pth')
    model = torch.nn.Linear(2, 2)
    if ours:
        import_mmssl()
        from mmssl.checkpoint import load_weights

        load_weights(model, folder / 'other.pth')
    else:
        from mmengine.runner import load_checkpoint

        load_checkpoint(model, str(folder / 'other.pth'))
    return 'loaded: a warning in the log, the weights stay random'


def cut_image(ours, folder):
    """A JPEG whose second half is missing."""
    import numpy as np
    from PIL import Image

    path = folder / 'photo.jpg'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    if ours:
        import_mmssl()
        from mmssl.data.transforms import LoadImage as Load
    else:
        from mmcv.transforms import LoadImageFromFile as Load
    results = Load().transform(dict(img_path=str(path)))
    if results is None:
        return 'None'
    rows = results['img'].std(axis=(1, 2))
    return f'an image of {results["img"].shape}, {(rows < 1).sum()} rows of which have one color'


def image_of_16_bits(ours, folder):
    """A gray 16-bit PNG that gets brighter from left to right; the range is given to mmssl's loader."""
    import numpy as np
    from PIL import Image

    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)).save(folder / 'deep.png')
    if ours:
        import_mmssl()
        from mmssl.data.transforms import LoadImage as Load

        settings = dict(value_range=(0, 65535))
    else:
        from mmcv.transforms import LoadImageFromFile as Load

        settings = {}
    pixels = Load(**settings).transform(dict(img_path=str(folder / 'deep.png')))['img']
    return f'{pixels.shape}, values from {pixels.min()} to {pixels.max()}'


def coco_dataset(ours, folder, change=None, classes=('cat', 'dog')):
    """Load a COCO file, optionally with a change, and describe its images."""
    if ours:
        import_mmssl()
        import mmssl.detection  # noqa: F401
    from mmdet.datasets import CocoDataset

    content = dict(
        images=[dict(id=index, file_name=f'{index}.jpg', width=50, height=40) for index in (1, 2)],
        annotations=[
            dict(id=index, image_id=index, category_id=index, bbox=[1, 1, 20, 20], area=400, iscrowd=0)
            for index in (1, 2)
        ],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
    )
    if change:
        change(content)
    (folder / 'boxes.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(folder / 'boxes.json'),
        metainfo=dict(classes=classes),
        data_prefix=dict(img=''),
        pipeline=[],
        test_mode=True,
    )
    descriptions = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        names = ', '.join(classes[instance['bbox_label']] for instance in info['instances'])
        descriptions.append(f'{Path(info["img_path"]).name}: {names or "no object"}')
    return f'{len(descriptions)} images: {"; ".join(descriptions)}'


def repeated_image(ours, folder):
    """A COCO file in which two images (of a cat and of a dog) have the id 1."""

    def change(content):
        content['images'][1]['id'] = 1

    return coco_dataset(ours, folder, change)


def nan_box(ours, folder):
    """A COCO file with a box of NaN width."""

    def change(content):
        content['annotations'][0]['bbox'][2] = math.nan

    return coco_dataset(ours, folder, change)


def classes_in_another_order(ours, folder):
    """A COCO file of cat and dog; image 1 shows a cat; classes=('dog', 'cat')."""
    return coco_dataset(ours, folder, classes=('dog', 'cat'))


def classes_of_other_names(ours, folder):
    """The same file; classes=('Cat', 'Dog')."""
    return coco_dataset(ours, folder, classes=('Cat', 'Dog'))


def misspelled_setting(ours, folder):
    """A config in which default_hooks is spelled default_hoks, with logger=dict(interval=1)."""
    (folder / 'config.py').write_text(
        "model = dict(type='x')\ndefault_hoks = dict(logger=dict(interval=1))\n"
    )
    if ours:
        import_mmssl()
        from mmssl.config.check import check_settings
        from mmssl.config.load import load_config

        check_settings(load_config(str(folder / 'config.py')))
    else:
        from mmengine.config import Config
        from mmengine.model import BaseModel
        from mmengine.registry import MODELS
        from mmengine.runner import Runner

        MODELS.register_module('x', module=type('Model', (BaseModel,), {'forward': lambda self: None}))
        cfg = Config.fromfile(folder / 'config.py')
        cfg.work_dir, cfg.log_level = str(folder / 'run'), 'ERROR'
        (logger,) = (hook for hook in Runner.from_cfg(cfg).hooks if type(hook).__name__ == 'LoggerHook')
        return f'a Runner is built; its logger has interval {logger.interval}'
    return 'accepted'


TRIALS = (
    label_out_of_range,
    all_ignored,
    label_of_16_bits,
    nan_loss,
    command_in_a_checkpoint,
    no_matching_key,
    cut_image,
    image_of_16_bits,
    repeated_image,
    nan_box,
    classes_in_another_order,
    classes_of_other_names,
    misspelled_setting,
)


def attempt(trial, ours: bool) -> str:
    """Run a trial in a forked process and return its observation."""
    receiver, sender = multiprocessing.Pipe(False)
    pid = os.fork()
    if not pid:
        with tempfile.TemporaryDirectory() as directory, open(os.devnull, 'w') as devnull:
            os.dup2(devnull.fileno(), 1)
            os.dup2(devnull.fileno(), 2)
            try:
                text = trial(ours, Path(directory))
            except Exception as error:
                text = message_of(error)
            sender.send(text.replace(f'{directory}/', ''))
        os._exit(0)
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return 'the process died'
    finally:
        os.waitpid(pid, 0)


def main() -> int:
    """Run all trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, help='Markdown file')
    parser.add_argument('--only', default='', help='only trials whose name contains this')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    import mmdet.engine.hooks
    import mmdet.evaluation  # noqa: F401
    import mmseg.datasets.transforms
    import mmseg.evaluation  # noqa: F401  imported once, not in every trial

    packages = ', '.join(
        f'{name} {version(name)}'
        for name in ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'torch')
    )
    lines = [
        '# Faults in the toolboxes alone',
        '',
        f'`python tools/trials/hosts.py`, with {packages}. One trial each, in a separate process, which does '
        'not import mmssl for the toolboxes alone.',
        '',
        '| fault | toolboxes alone | with mmssl |',
        '|---|---|---|',
    ]
    for trial in [trial for trial in TRIALS if args.only in trial.__name__]:
        alone, ours = (attempt(trial, with_ours).replace('|', '/') for with_ours in (False, True))
        lines.append(f'| {trial.__doc__} | {alone} | {ours} |')
        print(lines[-1], flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
