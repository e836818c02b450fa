"""Shared by the tests of the methods: random views, training on a part of each batch, short runs."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, distributed, nn

from mmssl.layers.sync_bn import convert_sync_batchnorm

ROOT = Path(__file__).resolve().parents[2]


class Dense(nn.Module):
    """A backbone of one layer, (B, 3, 2, 2) to (B, 5)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, x):
        return (self.layer(x.flatten(1)).tanh(),)


def random_views(batch: int = 4, count: int = 2, size: int = 9, seed: int = 0) -> list[Tensor]:
    """Views (B, 3, size, size) in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(count)]


def write_noise_images(folder: Path, count: int = 12, size: tuple[int, int] = (40, 44)) -> Path:
    """Write PNGs of noise to ``folder/train`` and return the folder."""
    from PIL import Image

    (folder / 'train').mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'train/{index}.png')
    return folder


# training on one process and on two


def train_on_part(
    model: nn.Module, batches: list[list[Tensor]], rank: int = 0, world: int = 1, lr: float = 0.3
) -> tuple[list[float], dict[str, Tensor]]:
    """Train with SGD on this rank's part of every batch, gradients averaged over the ranks.

    Returns:
        The losses, averaged over the ranks, and the state dict at the end.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr)
    if hasattr(model, 'attach'):
        model.attach(optimizer)
    losses = []
    for batch in batches:
        loss = model.loss([view.chunk(world)[rank] for view in batch])['loss']
        optimizer.zero_grad()
        loss.backward()
        total = loss.detach().clone()
        if world > 1:
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            for tensor in (total, *gradients):
                distributed.all_reduce(tensor)
                tensor /= world
        optimizer.step()
        losses.append(total.item())
    return losses, {key: value.clone() for key, value in model.state_dict().items()}


def train_rank(
    rank: int, build: Callable[[], nn.Module], batches: list[list[Tensor]], lr: float
) -> tuple[list[float], dict[str, Tensor]]:
    """Train on one of two ranks, with batch norms over both."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build())
    convert_sync_batchnorm(model)
    return train_on_part(model, batches, rank, world=2, lr=lr)


def check_two_processes(
    two_ranks: Callable, build: Callable[[], nn.Module], steps: int = 3, lr: float = 0.3
) -> tuple[list[float], dict[str, Tensor]]:
    """Check that two processes train as a single one with all images does; return what that one gives."""
    batches = [random_views(6, size=2, seed=seed) for seed in range(steps)]
    expected = train_on_part(build(), batches, lr=lr)
    for result in two_ranks(train_rank, build, batches, lr):
        assert_same_training(result, expected)
    return expected


def assert_same_training(result: tuple, expected: tuple, tolerance: float = 1e-12) -> None:
    """Compare losses and state dicts of :func:`train_on_part`."""
    (losses, state), (expected_losses, expected_state) = result, expected
    np.testing.assert_allclose(losses, expected_losses, atol=tolerance, rtol=0)
    assert state.keys() == expected_state.keys()
    for key, value in expected_state.items():
        torch.testing.assert_close(state[key].double(), value.double(), atol=tolerance, rtol=0, msg=key)


# runs of smoke configs


class SmokeRun(NamedTuple):
    """What a run leaves.

    Attributes:
        losses: Iteration -> loss, as a hexadecimal string.
        model: State dict.
        optimizer: State dict.
        runner: The runner.
    """

    losses: dict[int, str]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    runner: Any


def run_smoke_config(
    name: str, images: Path, work_dir: Path, changes: dict | None = None, resume: Path | None = None
) -> SmokeRun:
    """Train ``configs/smoke/NAME.py`` on a folder of images, with batches of 4 and these ``cfg-options``."""
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import loops

    from mmssl.engine.runner import Runner

    losses = {}

    class RecordLosses(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses[runner.iter + 1] = outputs['loss'].item().hex()

    cfg = Config.fromfile(ROOT / f'configs/smoke/{name}.py')
    cfg.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'experiment_name': f'{name}_{work_dir.name}',
            'log_level': 'ERROR',
            'visualizer': None,
            'train_dataloader.batch_size': 4,
            'train_dataloader.dataset.data_root': str(images),
            'resume': resume is not None,
            'load_from': resume and str(resume),
            **(changes or {}),
        }
    )
    runner = Runner.from_cfg(cfg)
    runner.register_hook(RecordLosses())
    # the loops sleep two seconds whenever a finite loader starts again
    with mock.patch.object(loops, 'time', types.SimpleNamespace(sleep=id, time=loops.time.time)):
        runner.train()
    return SmokeRun(losses, runner.model.state_dict(), runner.optim_wrapper.state_dict(), runner)


def check_exact_resume(
    name: str, folder: Path, step: int, changes: dict | None = None
) -> tuple[SmokeRun, dict[str, Tensor]]:
    """Check that a run resumed from the checkpoint of ``step`` equals the uninterrupted one bit for bit.

    Returns:
        The uninterrupted run, and the state dict at ``step``.
    """
    images = write_noise_images(folder / 'images')
    checkpoint = folder / f'straight/iter_{step}.pth'
    straight = run_smoke_config(name, images, folder / 'straight', changes)
    torch.manual_seed(5)
    resumed = run_smoke_config(name, images, folder / 'resumed', changes, resume=checkpoint)
    assert resumed.losses == {index: loss for index, loss in straight.losses.items() if index > step}
    assert straight.model.keys() == resumed.model.keys()
    for key, value in straight.model.items():
        assert torch.equal(value, resumed.model[key]), key
    assert straight.optimizer['param_groups'] == resumed.optimizer['param_groups']
    for state, resumed_state in zip(
        straight.optimizer['state'].values(), resumed.optimizer['state'].values(), strict=True
    ):
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed_state[key])), key
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    assert saved.keys() == straight.model.keys()
    return straight, saved
