"""Time, memory and FLOPs of a call, and the rates of GPUs."""

import statistics
import time
from collections.abc import Callable

import torch

from gpu_checks.check import Check

# dense bfloat16 (float16 for V100 and T4) in TFLOP/s, accumulated in float32, from the vendors' data sheets
MATRIX_RATES = {
    'B200': 2250.0,
    'GH200': 989.0,
    'H200': 989.0,
    'H100 PCIe': 756.0,
    'H100 NVL': 835.0,
    'H100': 989.0,
    'A100': 312.0,
    'A40': 149.7,
    'A10G': 70.0,
    'A10': 125.0,
    'L40S': 362.0,
    'L40': 181.0,
    'L4': 121.0,
    'RTX 6000 Ada': 364.0,
    'RTX A6000': 154.8,
    'RTX 5090': 209.5,
    'RTX 4090': 165.2,
    'RTX 3090': 71.0,
    'V100': 125.0,
    'T4': 65.0,
}


def matrix_rate(device: torch.device) -> float | None:
    """Return the dense bfloat16 rate of a GPU in FLOP/s; None if it is not in the table."""
    if device.type != 'cuda':
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * rate for part, rate in MATRIX_RATES.items() if part in name), None)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == 'cuda':
        torch.cuda.synchronize()


def seconds_of(
    call: Callable[[], object], check: Check, rounds: int = 10, warmup: int = 3, limit: float = 15.0
) -> float:
    """Return the median seconds of a call.

    Short calls are repeated within a round, so that it takes 20 milliseconds. With --quick a call is made
    once.

    Args:
        call: What to time.
        check: The part.
        rounds: Largest number of timed rounds.
        warmup: Calls before them.
        limit: Seconds after which no further round is begun.
    """
    if check.quick:
        return _seconds(call, check.device, 1)
    for _ in range(warmup):
        call()
    seconds = _seconds(call, check.device, 1)
    repeats = max(1, min(200, round(0.02 / max(seconds, 1e-6))))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < rounds and (not times or time.perf_counter() - begin < limit):
        times.append(_seconds(call, check.device, repeats))
    return statistics.median(times)


def _seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the mean seconds of some calls."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """Return the peak memory of a call in GiB, with what is allocated before; None on the CPU."""
    if device.type != 'cuda':
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def flops_of(call: Callable[[], object]) -> float:
    """Return the FLOPs of matrix products, convolutions and attention in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
