"""Every fast form computes what its plain form computes: values and gradients.

Files named ``fast_cases.py`` beside the tests of each part hold ``CASES = {'module:function': [Case, ...]}``.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fast_case import Case
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import mmssl
from mmssl.ops import switch

PACKAGE = Path(mmssl.__file__).parent


def import_modules_with_fast_forms():
    """Import every module of the package that names a fast form."""
    for path in sorted(PACKAGE.rglob('*.py')):
        if '@fast_form(' in path.read_text(encoding='utf-8') and path.name != 'switch.py':
            importlib.import_module('.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts))


def load_cases() -> dict[str, list[Case]]:
    """The cases of all folders."""
    cases: dict[str, list[Case]] = {}
    for path in sorted(Path(__file__).parent.glob('*/fast_cases.py')):
        spec = importlib.util.spec_from_file_location(f'fast_cases_of_{path.parent.name}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cases.update(module.CASES)
    return cases


import_modules_with_fast_forms()
CASES = load_cases()
TABLE = [
    pytest.param(path, case, dtype, id=f'{path.rpartition(".")[2]}-{case.name}-{dtype}'.replace('torch.', ''))
    for path, cases in CASES.items()
    for case in cases
    for dtype in case.dtypes
]


def differentiable(arguments) -> list[Tensor]:
    """Tensors and parameters among the arguments that require a gradient."""
    tensors = []
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, nn.Module):
            tensors += [parameter for parameter in leaf.parameters() if parameter.requires_grad]
        elif isinstance(leaf, Tensor) and leaf.requires_grad:
            tensors.append(leaf)
    return tensors


def values_and_gradients(function, case: Case, dtype: torch.dtype):
    """The results of one form and the gradients of a random weighting of them."""
    args, kwargs = case.arguments(dtype)
    with torch.set_grad_enabled(case.gradients):
        result = function(*args, **kwargs)
    if result is NotImplemented:
        return NotImplemented, []
    outputs = tree_leaves(result)
    tensors = [output for output in outputs if isinstance(output, Tensor) and output.requires_grad]
    inputs = differentiable((args, kwargs))
    if not (case.gradients and tensors and inputs):
        return outputs, []
    generator = torch.Generator().manual_seed(1)
    grad_outputs = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in tensors]
    return outputs, torch.autograd.grad(
        tensors, inputs, grad_outputs, allow_unused=True, materialize_grads=True
    )


def test_every_fast_form_has_a_case_and_every_case_a_fast_form():
    assert set(CASES) == set(switch.FAST_FORMS)
    assert all(any(not case.declined for case in cases) for cases in CASES.values())


@pytest.mark.parametrize(('path', 'case', 'dtype'), TABLE)
def test_the_fast_form_equals_the_plain_form(path, case, dtype):
    if '.triton_' in path:
        pytest.importorskip('triton')
        if os.environ.get('TRITON_INTERPRET') != '1':
            pytest.skip('Triton compiles for the GPU here: tools/gpu_check.py compares its kernels')
    values, gradients = values_and_gradients(switch.load_fast_form(path), case, dtype)
    if case.declined:
        assert values is NotImplemented
        return
    assert values is not NotImplemented
    with switch.plain_forms():
        expected, expected_gradients = values_and_gradients(switch.FAST_FORMS[path], case, dtype)
    tolerance = 1e-9 if dtype == torch.float64 else case.tolerance
    assert len(values) == len(expected)
    for value, reference in zip(values, expected, strict=True):
        if isinstance(reference, (Tensor, np.ndarray)):
            assert type(value) is type(reference)
            torch.testing.assert_close(
                torch.as_tensor(value),
                torch.as_tensor(reference),
                atol=tolerance,
                rtol=tolerance,
                equal_nan=True,
            )
        else:
            assert value == reference
    assert len(gradients) == len(expected_gradients)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, atol=tolerance, rtol=tolerance, equal_nan=True)


def test_plain_forms_turns_all_fast_forms_off(monkeypatch):
    monkeypatch.setattr(switch, '_plain_only', False)

    @switch.fast_form('os.path:does_not_exist', when=lambda tensors: True)
    def plain(x):
        return x + 1

    try:
        with switch.plain_forms():
            assert plain(torch.zeros(1)) == 1
        with pytest.raises(AttributeError, match='does_not_exist'):
            plain(torch.zeros(1))
    finally:
        del switch.FAST_FORMS['os.path:does_not_exist']
