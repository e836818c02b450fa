"""Parts b and c: three training steps of the smoke configs on both devices, and how often a step waits."""

import collections
import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from gpu_checks.check import Check
from gpu_checks.configured import CpuDraws, batches, build_model, build_optimizer, load, pinned, seed_all

STEPS = 3
# relative differences of the losses of three steps, and of the gradients of the first
TOLERANCE = 1e-3
# detectors choose samples by thresholds and sorting, which rounding can change
QUICK = ('mae',)
FIRST = ('mae', 'dino', 'moco', 'sam', 'rfcn', 'gcn', 'beit', 'rfcn-deform')


def smoke_configs(quick: bool) -> list[str]:
    """Return the names of the smoke configs, the most important first."""
    from mmssl.config.load import find_config

    if quick:
        return list(QUICK)
    names = sorted(path.stem for path in Path(find_config('smoke/mae.py')).parent.glob('*.py'))
    return [*FIRST, *(name for name in names if name not in FIRST)]


def compare_steps(check: Check) -> None:
    """Part b: losses and gradients of each smoke config on both devices; finite in half precision."""
    for name in smoke_configs(check.quick):
        check.run(name, _compare_steps, name)
        for dtype in ('bfloat16', 'float16'):
            check.run(f'{name}, {dtype}', _train_in, name, dtype)


def _compare_steps(check: Check, name: str) -> None:
    cfg = load(f'smoke/{name}.py')
    data = batches(cfg, STEPS)
    model = build_model(cfg, torch.device('cpu'))
    seed_all(0)
    model.init_weights()
    with _exact():
        expected, expected_grad = train(cfg, copy.deepcopy(model), data)
        losses, grad = train(cfg, model.to(check.device), data)
    worst = max(
        abs(loss - other) / max(abs(other), 1e-6) for loss, other in zip(losses, expected, strict=True)
    )
    difference = float((grad - expected_grad).norm() / expected_grad.norm())
    check.add(
        name,
        worst <= TOLERANCE and difference <= 10 * TOLERANCE,
        losses=losses[0],
        losses_differ=worst,
        gradients_differ=difference,
    )


def train(cfg: Any, model: torch.nn.Module, data: list[Any]) -> tuple[list[float], torch.Tensor]:
    """Train a step on each batch with draws of the CPU; return losses and the first gradient, flat."""
    optimizer = build_optimizer(cfg, model)
    grads: list[torch.Tensor] = []

    def first_gradient(*_) -> None:
        if not grads:
            parameters = [p for group in optimizer.optimizer.param_groups for p in group['params']]
            grads.append(torch.cat([p.grad.flatten().cpu() for p in parameters if p.grad is not None]))

    optimizer.optimizer.register_step_pre_hook(first_gradient)
    losses = []
    for index, batch in enumerate(data):
        seed_all(index)
        with CpuDraws():
            losses.append(loss_of(model, batch, optimizer))
    return losses, grads[0]


def loss_of(model: torch.nn.Module, batch: Any, optimizer: Any) -> float:
    """Train a step and return its loss."""
    return torch.as_tensor(model.train_step(copy.deepcopy(batch), optimizer)['loss']).item()


def _exact() -> Any:
    """Turn TF32 off in convolutions; it is off in matrix products by default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _train_in(check: Check, name: str, dtype: str) -> None:
    """Train three steps in half precision; a step whose gradients overflow float16 is skipped."""
    if dtype == 'float16' and not check.cuda:
        check.add(f'{name}, {dtype}', note='on a GPU only')
        return
    cfg = load(f'smoke/{name}.py')
    data = batches(cfg, 1)[0]
    model = build_model(cfg, check.device)
    model.init_weights()
    optimizer = build_optimizer(cfg, model, dtype)
    losses = [loss_of(model, data, optimizer) for _ in range(STEPS)]
    tensors = [*losses, *(float(parameter.detach().float().sum()) for parameter in model.parameters())]
    finite = bool(torch.tensor(tensors).isfinite().all())
    if dtype != 'float16':
        check.add(f'{name}, {dtype}', finite, loss=losses[-1])
        return
    optimizer = build_optimizer(cfg, model, dtype, loss_scale=dict(init_scale=2.0**100))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.train_step(copy.deepcopy(data), optimizer)
    trained = [p for p in zip(before, model.parameters(), strict=True) if p[1].requires_grad]
    skipped = all(torch.equal(old, new) for old, new in trained)
    lowered = optimizer.loss_scaler.get_scale() < 2.0**100
    check.add(f'{name}, {dtype}', finite and skipped and lowered, loss=losses[-1], overflow_skipped=skipped)


def count_syncs(check: Check) -> None:
    """Part c: how often a training step waits for the GPU, against what the method declares."""
    for name in smoke_configs(check.quick):
        check.run(name, _count_syncs, name)


def _count_syncs(check: Check, name: str) -> None:
    cfg = load(f'smoke/{name}.py')
    data = batches(cfg, 1)[0]
    model = build_model(cfg, check.device)
    optimizer = build_optimizer(cfg, model)
    declared = getattr(model, 'host_syncs', None)
    for _ in range(2):
        step(model, model.data_preprocessor(copy.deepcopy(data), True), optimizer)
    if not check.cuda:
        check.add(name, declared=declared, note='syncs are counted on a GPU only')
        return
    data = pinned(data)
    torch.cuda.synchronize()
    inputs: list[Any] = []
    before = syncs_of(lambda: inputs.append(model.data_preprocessor(data, True)))
    lines = syncs_of(lambda: step(model, inputs[0], optimizer))
    count = sum(lines.values())
    ok = None if declared is None else count <= declared
    where = dict(lines.most_common(6))
    check.add(name, ok, syncs=count, declared=declared, in_preprocessor=sum(before.values()), lines=where)


def step(model: torch.nn.Module, data: Any, optimizer: Any) -> None:
    """Train a step on data of the preprocessor, from the loss to the optimizer's step."""
    with optimizer.optim_context(model):
        losses, _ = model.parse_losses(model._run_forward(data, mode='loss'))
    optimizer.update_params(losses)


def syncs_of(call) -> collections.Counter:
    """Count the synchronizing operations of a call, by line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.set_warn_always(True)
        torch.cuda.set_sync_debug_mode('warn')
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode('default')
            torch.set_warn_always(False)
    lines = collections.Counter()
    for warning in caught:
        if 'synchronizing CUDA operation' in str(warning.message):
            path = Path(warning.filename)
            lines['/'.join([*path.parts[-3:-1], f'{path.name}:{warning.lineno}'])] += 1
    return lines
