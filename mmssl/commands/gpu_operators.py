"""Operators and fast forms on a GPU against their plain form on the CPU in float64: values and gradients.

``mmssl doctor --gpu`` and part a of ``tools/gpu_check.py`` run it.
"""

import contextlib
import copy
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor

from mmssl.commands.gpu_problems import NEEDS, ON_CUDA, PROBLEMS, Problem
from mmssl.ops import switch

# largest relative error, ||x - reference|| / ||reference||; that of bfloat16 depends on the operator
FLOAT32_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one operator gave.

    Attributes:
        name: Name of the operator and its case.
        errors: Data type and form -> largest relative error of values and gradients.
        forms: Fast forms that were used.
        ok: Every error is within its tolerance; None where the operator was not run.
        note: Why it was not run, or what failed.
        seconds: Time of the comparison.
    """

    name: str
    errors: dict[str, float]
    forms: tuple[str, ...]
    ok: bool | None
    note: str = ''
    seconds: float = 0.0


@contextlib.contextmanager
def recorded_forms() -> Iterator[set[str]]:
    """Record which fast forms compute a result."""
    used: set[str] = set()
    load = switch.load_fast_form

    def recording(name: str) -> Callable:
        form = load(name)

        def run(*args, **kwargs):
            result = form(*args, **kwargs)
            if result is not NotImplemented:
                used.add(name.rpartition('.')[2])
            return result

        return run

    with mock.patch.object(switch, 'load_fast_form', recording):
        yield used


def compare(name: str, device: torch.device) -> Outcome:
    """Compare one operator on a device with its plain form on the CPU.

    Args:
        name: A key of ``PROBLEMS``.
        device: The device, which may be the CPU.
    """
    if name in ON_CUDA and switch.cpu([torch.empty(0, device=device)]):
        return Outcome(name, {}, (), None, 'on CUDA only')
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        return Outcome(name, {}, (), None, f'needs {NEEDS[name]}')
    start = time.perf_counter()
    errors: dict[str, float] = {}
    ok, note = True, ''
    with recorded_forms() as used, _exact_products():
        try:
            for dtype in (torch.float32, torch.bfloat16):
                ok = _compare_in(dtype, name, device, errors) and ok
        except Exception as error:  # of a kernel, a compiler or the driver: reported like a wrong result
            ok, note = False, f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return Outcome(name, errors, tuple(sorted(used)), ok, note, time.perf_counter() - start)


def _compare_in(dtype: torch.dtype, name: str, device: torch.device, errors: dict[str, float]) -> bool:
    """Compare in one data type, write the errors, and return whether they are small enough."""
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    with switch.plain_forms():
        reference = _results(_rounded(problem, dtype), torch.device('cpu'), torch.float64)
    forms: dict[str, contextlib.AbstractContextManager] = {'': contextlib.nullcontext()}
    tolerance = problem.tolerance
    if dtype == torch.float32:
        forms[', plain'] = switch.plain_forms()
        tolerance = FLOAT32_TOLERANCE
    for form, context in forms.items():
        with context:
            results = _results(problem, device, dtype)
        key = str(dtype).removeprefix('torch.') + form
        errors[key] = max(relative_error(*pair) for pair in zip(results, reference, strict=True))
    return all(
        error <= tolerance
        for key, error in errors.items()
        if key.startswith(str(dtype).removeprefix('torch.'))
    )


def relative_error(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference||; infinite if one of them holds NaN."""
    value, reference = value.detach().cpu().double(), reference.detach()
    error = (value - reference).norm() / reference.norm().clamp(min=1e-12)
    return float(torch.nan_to_num(error, nan=float('inf')))


def _rounded(problem: Problem, dtype: torch.dtype) -> Problem:
    """Round the values of a problem to a data type, so that the reference starts from the same numbers."""
    modules = tuple(copy.deepcopy(module).to(dtype).double() for module in problem.modules)
    inputs = tuple(tensor.to(dtype).double() for tensor in problem.inputs)
    return dataclasses.replace(problem, inputs=inputs, modules=modules)


def _results(problem: Problem, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return the outputs of a problem and the gradients of a random weighting of them."""
    inputs = [tensor.to(device, dtype).requires_grad_(not problem.forward_only) for tensor in problem.inputs]
    fixed = [tensor.to(device) for tensor in problem.fixed]
    modules = [copy.deepcopy(module).to(device, dtype) for module in problem.modules]
    with torch.set_grad_enabled(not problem.forward_only):
        outputs = problem.call(*inputs, *fixed, *modules)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if problem.forward_only:
        return outputs
    parameters = [parameter for module in modules for parameter in module.parameters()]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outputs]
    grads = torch.autograd.grad(
        outputs,
        [*inputs, *parameters],
        [weight.to(out.device, out.dtype) for weight, out in zip(weights, outputs, strict=True)],
        allow_unused=True,
        materialize_grads=True,
    )
    flat = torch.cat([grad.flatten().double() for grad in grads[len(inputs) :]]) if parameters else None
    return [*outputs, *grads[: len(inputs)], *([flat] if flat is not None else [])]


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Turn TF32 off in convolutions and matrix products."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision('highest')
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def report(device: torch.device, seconds: float = 30.0) -> bool:
    """Compare all operators, within a time, and print a line for each.

    Returns:
        Whether all that were compared agree.
    """
    deadline = time.monotonic() + seconds
    good = True
    for name in PROBLEMS:
        if time.monotonic() > deadline:
            print(f'note    {name}: not compared within {seconds:g} seconds')
            continue
        outcome = compare(name, device)
        good = good and outcome.ok is not False
        print(describe(outcome), flush=True)
    return good


def describe(outcome: Outcome) -> str:
    """Return an outcome as one line."""
    mark = {True: 'ok    ', False: 'BROKEN', None: 'note  '}[outcome.ok]
    errors = ', '.join(f'{name} {error:.1e}' for name, error in outcome.errors.items())
    forms = f' ({", ".join(outcome.forms)})' if outcome.forms else ''
    return f'{mark}  {outcome.name}: {"; ".join(filter(None, (errors, outcome.note)))}{forms}'
