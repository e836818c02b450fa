"""Pooling of RoIs by Triton's kernels: what tests/test_fast_is_plain.py does not compare."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mmssl.ops import switch
from mmssl.ops.deform_ps_roi_pool import BinSamples, bin_starts
from mmssl.ops.deform_ps_roi_pool import pool_samples as plain_samples
from mmssl.ops.ps_roi_pool import bin_edges
from mmssl.ops.ps_roi_pool import pool_bins as plain_bins

pytest.importorskip('triton')
if os.environ.get('TRITON_INTERPRET') != '1':
    pytest.skip(
        "the kernels are compiled for a GPU, not run in Triton's interpreter", allow_module_level=True
    )

from mmssl.ops.fast import triton_deform_ps_roi_pool, triton_launch, triton_ps_roi_pool

COMPILE = """
import inspect
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmssl.ops.fast import triton_deform_ps_roi_pool as deform, triton_ps_roi_pool as pool

INTEGERS = {'image': 'i32', 'edges': 'i32', 'part': 'i64'}
POINTERS = 'maps x y image part steps edges out grad_out grad_maps grad_x grad_y'.split()
SIZES = dict(K=7, NUM_SAMPLES=4, BLOCK_CLASSES=32, BLOCK_CHANNELS=32, BLOCK_PIXELS=16)
for module in (pool, deform):
    for kernel in (value for value in vars(module).values() if isinstance(value, triton.JITFunction)):
        names = list(inspect.signature(kernel.fn).parameters)
        if 'maps' in names or 'grad_maps' in names:
            constants = {name: SIZES[name] for name in names if name in SIZES}
            types = {name: '*' + INTEGERS.get(name, 'fp32') if name in POINTERS else 'i32' for name in names}
            types.update(dict.fromkeys(constants, 'constexpr'))
            source = ASTSource(fn=kernel, signature=types, constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32))
            print(kernel.fn.__name__, 'global.add' in compiled.asm['ptx'] or 'atom' in compiled.asm['ttir'])
"""


def edges_of(rois, size=(3, 4), k=2):
    return bin_edges(rois, k, 1 / 16, size, 'caffe')


def samples_of(rois, classes=3):
    """Samples with an offset for each class and one bin."""
    x, step_x, _ = bin_starts(rois[:, 1], rois[:, 3], 1, 1 / 16, 2)
    y, step_y, _ = bin_starts(rois[:, 2], rois[:, 4], 1, 1 / 16, 2)
    shift = 0.3 * torch.arange(classes).view(1, classes, 1, 1)
    part = torch.zeros(1, 1, dtype=torch.long)
    return BinSamples(
        rois[:, 0].long(), part, x[:, None, None] + shift, y[:, None, :, None] + shift, step_x, step_y, 2
    )


def compare(fast, plain, features, *arguments):
    results = []
    for function in (fast, plain):
        out = function(features, *arguments)
        results.append((out, torch.autograd.grad(out.square().sum(), features)[0]))
    torch.testing.assert_close(*results)


def test_several_blocks_of_classes_and_pixels(monkeypatch):
    for module, name in (
        (triton_ps_roi_pool, 'BLOCK_CLASSES'),
        (triton_deform_ps_roi_pool, 'BLOCK_CHANNELS'),
    ):
        monkeypatch.setattr(module, name, 2)
        monkeypatch.setattr(module, 'BLOCK_PIXELS', 4)
    torch.manual_seed(0)
    rois = torch.tensor([[0.0, 0, 0, 63, 47]])
    features = torch.randn(1, 3, 3, 4, requires_grad=True)
    compare(triton_ps_roi_pool.pool_bins, plain_bins, features, rois[:, 0].long(), edges_of(rois, k=1), False)
    features = torch.randn(1, 3, 1, 1, 3, 4, requires_grad=True)
    compare(triton_deform_ps_roi_pool.pool_samples, plain_samples, features, samples_of(rois), False)


def test_an_image_outside_the_batch_gives_nan_and_no_gradient():
    rois = torch.tensor([[0.0, 0, 0, 63, 47], [1, 0, 0, 63, 47], [-1, 0, 0, 63, 47]])
    features = torch.ones(1, 1, 3, 4, requires_grad=True)
    out = triton_ps_roi_pool.pool_bins(features, rois[:, 0].long(), edges_of(rois, k=1), False)
    assert out.flatten().isnan().tolist() == [False, True, True]
    assert torch.autograd.grad(out.sum(), features)[0].sum() == pytest.approx(1)
    features = torch.ones(1, 1, 1, 1, 3, 4, requires_grad=True)
    out = triton_deform_ps_roi_pool.pool_samples(features, samples_of(rois, classes=1), True)
    assert out.flatten().isnan().tolist() == [False, True, True]
    assert torch.autograd.grad(out.sum(), features)[0].sum() == pytest.approx(1)


def test_offsets_that_are_nan_give_nan():
    samples = samples_of(torch.tensor([[0.0, 0, 0, 63, 47]]), classes=2)
    samples.x[0, 1] = float('nan')
    features = torch.ones(1, 2, 1, 1, 3, 4)
    for pool in (triton_deform_ps_roi_pool.pool_samples, plain_samples):
        assert pool(features, samples, True).isnan().tolist() == [[False, True]]


def test_deterministic_algorithms_take_the_plain_form():
    features = torch.ones(1, 1, 3, 4)
    torch.use_deterministic_algorithms(True)
    try:
        rois = torch.tensor([[0.0, 0, 0, 63, 47]])
        pooled = triton_ps_roi_pool.pool_bins(features, rois[:, 0].long(), edges_of(rois), False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert pooled is NotImplemented


def test_without_a_compiler_the_plain_form_runs_and_a_warning_says_why(monkeypatch):
    def no_compiler(*arguments, **constants):
        raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable')

    monkeypatch.setattr(triton_launch, 'launch', no_compiler)
    triton_launch._compiles.cache_clear()
    try:
        with pytest.warns(UserWarning, match='plain form.*Failed to find C compiler.*Install'):
            assert not triton_launch.usable(torch.zeros(1))
    finally:
        triton_launch._compiles.cache_clear()


def test_the_switch_takes_them_on_cuda_where_triton_is_installed(monkeypatch):
    assert switch.FAST_FORMS['mmssl.ops.fast.triton_ps_roi_pool:pool_bins']
    on_gpu = SimpleNamespace(device=torch.device('cuda'))
    assert switch.cuda_with_triton([on_gpu])
    assert not switch.cuda_with_triton([on_gpu, torch.zeros(1)])
    monkeypatch.setattr(switch, 'HAS_TRITON', False)
    assert not switch.cuda_with_triton([on_gpu])


@pytest.mark.compile
def test_the_kernels_compile_for_a_gpu(repo_root, tmp_path):
    env = {
        **os.environ,
        'TRITON_INTERPRET': '0',
        'PYTHONPATH': str(repo_root),
        'TRITON_CACHE_DIR': str(tmp_path),
    }
    result = subprocess.run([sys.executable, '-c', COMPILE], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    atomic = dict(line.split() for line in result.stdout.splitlines())
    assert atomic == {
        '_mean_of_bins': 'False',
        '_spread_over_bins': 'True',
        '_mean_of_samples': 'False',
        '_gradients_of_samples': 'True',
    }
