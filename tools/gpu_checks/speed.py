"""Part e: step time, images per second, peak memory and share of the GPU's matrix rate; peers beside them."""

import copy
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gpu_checks import peers, pieces
from gpu_checks.check import Check
from gpu_checks.configured import batches, build_model, build_optimizer, load, pinned, repeated
from gpu_checks.measuring import flops_of, matrix_rate, peak_memory, seconds_of

# images that are decoded; they are repeated up to the batch size
DECODED = 16


class Workload(NamedTuple):
    """A training step.

    Attributes:
        config: The recipe.
        smoke: The smoke config whose data it gets; it replaces the recipe with --quick.
        batch_size: Images in a step.
        options: Overrides of the recipe.
    """

    config: str
    smoke: str
    batch_size: int
    options: tuple[str, ...] = ()


WORKLOADS = {
    'MAE-B': Workload('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 'mae', 256),
    'DINO-S': Workload('dino/dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py', 'dino', 64),
    'MoCo-R50': Workload('moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py', 'moco', 128),
    'BEiT-B': Workload('beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py', 'beit', 128),
    'DINOv2-S': Workload(
        'dinov2/dinov2_vit-large-p16_32xb64-amp-coslr-125000i_in1k.py',
        'dinov2',
        64,
        ('model.backbone.arch=small',),
    ),
    'R-FCN-R50': Workload('rfcn/rfcn_resnet50_1xb2-ohem-110000i_voc0712.py', 'rfcn', 2),
    'GCN-R50': Workload('gcn/gcn_resnet50_4xb4-40000i_voc12aug-512x512.py', 'gcn', 16),
    'SAM-B training': Workload('sam/sam_vit-b-full_8xb4-amp-20000i_coco-1024.py', 'sam', 4),
}
FIRST = ('MAE-B', 'DINO-S')
# of the eager steps, which those of the compiled ones equal
_flops: dict[str, float] = {}


def measure(check: Check) -> None:
    """Measure the steps with peers first, then the pieces, then the other steps."""
    names = ['MAE-B'] if check.quick else list(WORKLOADS)
    for name in names[: len(FIRST)]:
        measure_step(check, name)
    for name, call in peers.MEASUREMENTS.items():
        if not (check.quick and call is peers.measure_mae):  # which takes seconds on a CPU
            check.run(name, call)
            free(check)
    for name, call in pieces.MEASUREMENTS.items():
        check.run(name, call)
        free(check)
    for name in names[len(FIRST) :]:
        measure_step(check, name)


def measure_step(check: Check, name: str) -> None:
    """Measure a training step in bfloat16, eager and compiled."""
    for compiled in (False,) if check.quick else (False, True):
        title = f'{name}, compiled' if compiled else name
        check.run(title, _measure_step, title, WORKLOADS[name], compiled)
        free(check)


def free(check: Check) -> None:
    """Give the memory of the last measurement back."""
    torch.compiler.reset()
    gc.collect()
    if check.cuda:
        torch.cuda.empty_cache()


def _measure_step(check: Check, title: str, workload: Workload, compiled: bool) -> None:
    step, count = training_step(check, workload, compiled)
    if not compiled:
        _flops[workload.config] = flops_of(step)
    flops = _flops.get(workload.config)
    seconds = seconds_of(step, check)
    rate = matrix_rate(check.device)
    values: dict[str, Any] = {'ms': 1e3 * seconds, 'images_per_second': count / seconds, 'batch': count}
    if flops:
        values['tflop'] = flops / 1e12
    if flops and rate:
        values['share_of_matrix_rate'] = flops / seconds / rate
    memory = peak_memory(step, check.device)
    if memory is not None:
        values['peak_gib'] = memory
    check.add(title, **values)


def training_step(check: Check, workload: Workload, compiled: bool) -> tuple[Callable[[], Any], int]:
    """Build a training step in bfloat16 on a fixed batch, and return it with the images in a batch."""
    from mmssl.engine.compiling import compile_model

    smoke = load(f'smoke/{workload.smoke}.py')
    cfg = smoke if check.quick else load(workload.config, workload.options)
    count = 4 if check.quick else workload.batch_size
    data = copy.deepcopy(smoke)
    loader = {key: value for key, value in cfg.train_dataloader.items() if key == 'collate_fn'}
    pipeline = cfg.get('train_pipeline') or cfg.train_dataloader.dataset.pipeline
    data.train_dataloader.update(loader)
    data.train_dataloader.dataset.pipeline = pipeline
    decoded = min(count, DECODED)
    batch = repeated(batches(data, 1, decoded)[0], count // decoded)
    batch = pinned(batch) if check.cuda else batch
    model = build_model(cfg, check.device)
    if compiled:
        compile_model(model)
    optimizer = build_optimizer(cfg, model, 'bfloat16')
    for group in optimizer.optimizer.param_groups:
        group['lr'] = 1e-4
    return (lambda: model.train_step(copy.copy(batch), optimizer)), count
