"""Layers that one release keeps as one tensor and another as several."""

import re
from collections.abc import Mapping, Sequence

import torch


def join(weights: Mapping, parts: Sequence[str], joined: str) -> dict:
    """Concatenate layers along their outputs.

    Args:
        weights: State dict.
        parts: Last words of the names of the layers, in the order of concatenation, such as
            ``('q_proj', 'k_proj', 'v_proj')``.
        joined: Last word of the name of the result.

    Returns:
        State dict with the result in the place of the first part. Where a part is missing, all stay as they
        are.
    """
    pattern = re.compile(rf'(.*\b)({"|".join(map(re.escape, parts))})\.(weight|bias)')
    out = {}
    for key, value in weights.items():
        match = pattern.fullmatch(key)
        names = [f'{match[1]}{part}.{match[3]}' for part in parts] if match else []
        if match and all(name in weights for name in names):
            out[f'{match[1]}{joined}.{match[3]}'] = torch.cat([weights[name] for name in names])
        else:
            out[key] = value
    return out


def split(weights: Mapping, parts: Sequence[str], joined: str) -> dict:
    """Split layers along their outputs; the inverse of :func:`join`."""
    pattern = re.compile(rf'(.*\b){re.escape(joined)}\.(weight|bias)')
    out = {}
    for key, value in weights.items():
        match = pattern.fullmatch(key)
        if match is None:
            out[key] = value
            continue
        for part, chunk in zip(parts, value.chunk(len(parts)), strict=True):
            out[f'{match[1]}{part}.{match[2]}'] = chunk.clone()
    return out


def rename(weights: Mapping, *pairs: tuple[str, str]) -> dict:
    """Replace patterns in the names of weights, one pair after the other."""
    out = {}
    for key, value in weights.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        out[key] = value
    return out


def without(weights: Mapping, *names: str) -> dict:
    """Leave out weights by the last words of their names."""
    return {
        key: value
        for key, value in weights.items()
        if not any(key == name or key.endswith(f'.{name}') for name in names)
    }
