"""A small run in which everything is random, for the tests of resuming; also a program of its own."""

import argparse
import hashlib
import json
import os
import random
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import nn

import mmssl.registry  # noqa: F401
from mmssl.engine.runner import FlexibleRunner, Runner

NUM_IMAGES, BATCH, EPOCHS = 20, 4, 4


def make_images(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for n in range(NUM_IMAGES):
        Image.fromarray(generator.integers(0, 256, (24, 28, 3), dtype=np.uint8)).save(
            directory / f'{n:02d}.png'
        )


@DATASETS.register_module(force=True)
class ToyImages(torch.utils.data.Dataset):
    METAINFO: ClassVar[dict] = dict(classes=('a', 'b'), palette=np.array([[0, 1, 2], [3, 4, 5]]))

    def __init__(self, root, fail_on=()):
        self.files = sorted(Path(root).glob('*.png'))
        self.fail_on = fail_on
        self.metainfo = self.METAINFO

    def __len__(self):
        return len(self.files)

    def get_cat_ids(self, index):
        return [index % 2]

    def get_data_info(self, index):
        return dict(width=28 + index % 2, height=28)

    def __getitem__(self, index):
        image = np.asarray(Image.open(self.files[index]), dtype=np.float32) / 255
        top, left = (
            random.randrange(9),
            random.randrange(13),
        )  # three generators, as the hosts' transforms use them
        image = image[top : top + 16, left : left + 16] + np.random.normal(0, 0.1, (16, 16, 3)).astype(
            np.float32
        )
        image = torch.from_numpy(image).permute(2, 0, 1) * (0.5 + torch.rand(1))
        if self.files[index].name in self.fail_on:
            image = image * float('nan')
        return dict(
            inputs=image, data_samples=BaseDataElement(metainfo=dict(img_path=str(self.files[index])))
        )


@MODELS.register_module(force=True)
class ToyNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(8 * 49, 5),
        )
        self.register_buffer('queue', torch.zeros(5, 12))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = torch.stack(list(inputs))
        outputs = self.net(inputs)
        if mode != 'loss':
            return [outputs.sum() + torch.rand(())]  # validation draws too
        keys = torch.cat(all_gather(outputs.detach()))  # every rank keeps the same queue, as MoCo does
        self.queue = torch.cat([self.queue[:, len(keys) :], keys.T], 1)
        noise = torch.rand(len(inputs), 5)
        return dict(
            loss_fit=((outputs - noise) ** 2).mean(), loss_queue=0.01 * (outputs @ self.queue).abs().mean()
        )


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0.0)

    def compute_metrics(self, results):
        random.random(), np.random.rand(), torch.rand(3)
        return dict(acc=1.0)


@HOOKS.register_module(force=True)
class Record(Hook):
    """Notes every loss exactly, and can pull the plug after a step."""

    priority = 'LOWEST'

    def __init__(self, kill_after=None):
        self.kill_after = kill_after
        self.losses = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = outputs['loss'].item().hex()
        if runner.iter + 1 == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def weights_digest(*modules: nn.Module) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for key, value in module.state_dict().items():
            if get_world_size() > 1 and 'running_' in key:
                continue  # each rank has its own, and the checkpoint those of the first
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def config(
    work_dir,
    images,
    loop='iter',
    workers=0,
    sampler='InfiniteSampler',
    interval=10,
    resume=None,
    kill_after=None,
    seed=3,
    batch_sampler=None,
    launcher='none',
    batch_size=BATCH,
    accumulate=2,
    hooks=(),
    fail_on=(),
    validate=True,
    epochs=EPOCHS,
    wrapper='OptimWrapper',
    randomness=None,
    ema=True,
    dataset=None,
    **wrapper_args,
) -> dict:
    by_epoch = loop == 'epoch'
    steps = epochs * NUM_IMAGES // BATCH
    loader = dict(
        dataset=dataset or dict(type='ToyImages', root=str(images), fail_on=fail_on),
        num_workers=workers,
        sampler=dict(type=sampler, shuffle=True),
        batch_size=batch_size,
    )
    if batch_sampler is not None:
        loader['batch_sampler'] = dict(type=batch_sampler)
    val = dict(
        dataset=dict(type='ToyImages', root=str(images)),
        batch_size=5,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    train_cfg = dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=steps)
    validation = (
        dict(val_dataloader=val, val_evaluator=dict(type='ToyMetric'), val_cfg=dict()) if validate else {}
    )
    return dict(
        model=dict(type='ToyNet'),
        work_dir=str(work_dir),
        train_dataloader=loader,
        **validation,
        train_cfg=dict(train_cfg, val_interval=1 if by_epoch else 5),
        optim_wrapper=dict(
            type=wrapper,
            optimizer=dict(type='AdamW', lr=1e-2, fused=True),
            accumulative_counts=accumulate,
            **wrapper_args,
        ),
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=steps)],
        default_hooks=dict(
            checkpoint=dict(
                type='mmssl.CheckpointHook',
                by_epoch=False,
                interval=interval,
                save_best='acc' if validate else None,
            ),
            logger=dict(type='LoggerHook', interval=7),
        ),
        custom_hooks=[
            *([dict(type='EMAHook', momentum=0.05)] if ema else []),
            dict(type='Record', kill_after=kill_after),
            *hooks,
        ],
        resume=resume is not None,
        load_from=None if resume in (None, 'auto') else str(resume),
        randomness=randomness or dict(seed=seed),
        launcher=launcher,
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        experiment_name=f'{Path(work_dir).name}-{random.SystemRandom().random()}',
        log_level='ERROR',
        default_scope='mmengine',
    )


def train(work_dir, images, runner_type='Runner', **kwargs) -> tuple[dict, str]:
    """Run; return the losses by iteration, as hexadecimal floats, and a digest of all weights."""
    cfg = config(work_dir, images, **kwargs)
    runner = {'Runner': Runner, 'FlexibleRunner': FlexibleRunner}[runner_type].from_cfg(cfg)
    runner.train()
    hooks = {type(hook).__name__: hook for hook in runner.hooks}
    averaged = [hooks['EMAHook'].ema_model] if 'EMAHook' in hooks else []
    return hooks['Record'].losses, weights_digest(runner.model, *averaged)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('images', type=Path)
    parser.add_argument('options', type=json.loads)
    args = parser.parse_args()
    torch.set_num_threads(1)
    losses, digest = train(args.work_dir, args.images, **args.options)
    (args.work_dir / f'result{get_rank()}.json').write_text(json.dumps([losses, digest]))
