"""Part g: the share of the time that a GPU waits for images while MAE trains from JPEG files."""

import copy
import os
import time
from typing import Any

import torch

from gpu_checks.check import Check
from gpu_checks.configured import build_model, build_optimizer, load
from gpu_checks.measuring import synchronize
from gpu_checks.speed import WORKLOADS


def measure_overlap(check: Check) -> None:
    """Compare the time of steps on loaded batches with that of steps on one batch."""
    from mmssl.engine.dataloader import build_dataloader

    smoke = load('smoke/mae.py')
    cfg = smoke if check.quick else load(WORKLOADS['MAE-B'].config)
    count = 1 if check.quick else 30
    loader = copy.deepcopy(smoke.train_dataloader.to_dict())
    loader['dataset']['pipeline'] = cfg.train_pipeline
    workers = 0 if check.quick else max(1, min(16, (os.cpu_count() or 2) - 1))
    loader.update(batch_size=4 if check.quick else WORKLOADS['MAE-B'].batch_size, num_workers=workers)
    loader.update(pin_memory=check.cuda, persistent_workers=bool(workers))
    if not check.quick:
        loader['dataset'].update(data_root='data/demo/photos', data_prefix='')
    iterator = iter(build_dataloader(loader, seed=0))
    model = build_model(cfg, check.device)
    optimizer = build_optimizer(cfg, model, 'bfloat16')
    batch = next(iterator)

    def seconds(batches: Any) -> float:
        synchronize(check.device)
        start = time.perf_counter()
        for data in batches:
            model.train_step(data, optimizer)
        synchronize(check.device)
        return (time.perf_counter() - start) / count

    seconds([copy.copy(batch) for _ in range(count)])  # warm up
    compute = seconds([copy.copy(batch) for _ in range(count)])
    for _ in range(2 * workers):  # batches that were loaded meanwhile
        model.train_step(next(iterator), optimizer)
    loaded = seconds(next(iterator) for _ in range(count))
    check.add(
        f'MAE, {workers} worker processes',
        ms_with_loader=1e3 * loaded,
        ms_on_one_batch=1e3 * compute,
        waits_for_images=max(0.0, 1 - compute / loaded),
        images_per_second=len(batch['inputs']) / loaded,
    )
    del iterator
    torch.cuda.empty_cache() if check.cuda else None
