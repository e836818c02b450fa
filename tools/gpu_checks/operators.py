"""Part a: every operator and fast form on the device against the plain form on the CPU in float64."""

from gpu_checks.check import Check

QUICK = ('ps_roi_pool, vote', 'rel_attention, 24x20, FlexAttention', 'DINO loss')


def check_operators(check: Check) -> None:
    """Compare values and gradients of all operators."""
    from mmssl.commands.gpu_operators import PROBLEMS

    for name in QUICK if check.quick else PROBLEMS:
        check.run(name, _compare, name)


def _compare(check: Check, name: str) -> None:
    from mmssl.commands.gpu_operators import compare

    outcome = compare(name, check.device)
    forms = ', '.join(outcome.forms)
    check.add(name, outcome.ok, errors=outcome.errors, forms=forms, note=outcome.note)
