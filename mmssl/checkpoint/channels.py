"""Weights of a convolution that reads images, for images of another number of channels."""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.errors import MismatchError

RECORD = 'grown_channels'
COLORS = ('R', 'G', 'B')
Bands = Sequence[str | None]
# names of the convolutions that read images, where the number of channels does not tell
_STEM = re.compile(r'(^|\.)(conv1(\.conv)?|patch_embed\.proj(ection)?|stem(\.\d+)*(\.conv)?)$')
_BANDS: ContextVar[Bands | None] = ContextVar('bands', default=None)


def grow_channels(weight: Tensor, num_channels: int, bands: Bands | None = None) -> Tensor:
    r"""Make the weights of a convolution over RGB those of one over C channels.

    .. math:: w'_c = \frac{3}{C} w_{b_c}

    where :math:`w_R, w_G, w_B` are the weights of the colors, and a channel that is no color has their mean.
    With all of the colors or none, the response to an image of equal channels stays the same.

    Args:
        weight: (O, 3, h, w), of red, green and blue.
        num_channels: C.
        bands: 'R', 'G', 'B' or None for each channel; all None if not given.

    Returns:
        (O, C, h, w).

    Raises:
        ValueError: ``bands`` is wrong.
    """
    bands = check_bands(bands, num_channels)
    mean = weight.mean(dim=1)
    columns = [mean if band is None else weight[:, COLORS.index(band)] for band in bands]
    return torch.stack(columns, dim=1) * (3 / num_channels)


def check_bands(bands: Bands | None, num_channels: int) -> Bands:
    """Return the color of each channel, or None for a channel that is none.

    Raises:
        ValueError: There is not one entry for each channel, an unknown one, or a color twice.
    """
    if bands is None:
        return [None] * num_channels
    entries = list(bands)
    colors = [band for band in entries if band is not None]
    if len(entries) != num_channels or not set(colors) <= set(COLORS) or len(set(colors)) < len(colors):
        raise ValueError(
            f"bands={entries!r} must be 'R', 'G', 'B', each at most once, or None for each of the "
            f"{num_channels} channels, such as ('R', 'G', 'B'{', None' * max(0, num_channels - 3)})"
        )
    return entries


@contextlib.contextmanager
def loading_bands(bands: Bands | None) -> Iterator[None]:
    """Take ``bands`` where a checkpoint that is loaded in the context has weights of RGB."""
    token = _BANDS.set(bands)
    try:
        yield
    finally:
        _BANDS.reset(token)


def fit_channels(
    model: nn.Module,
    state_dict: Mapping,
    source: str = 'the checkpoint',
    bands: Bands | None = None,
    logger='current',
) -> Mapping:
    """Grow the weights of convolutions over RGB to the number of channels that the model reads.

    A convolution reads images if it has weights for three channels, in the file or the model, or is the first
    one and has the name of a stem.

    Args:
        model: The receiver, which keeps a record of the growth in its state dict; see :func:`grown_channels`.
        state_dict: Weights by the names of the model.
        source: Name of the file, for messages.
        bands: As for :func:`grow_channels`; of :func:`loading_bands` by default.
        logger: As for mmengine's ``print_log``.

    Returns:
        The state dict, or a copy with other weights.

    Raises:
        MismatchError: Weights of another number of channels than three would have to be changed.
        ValueError: ``bands`` does not fit.
    """
    bands = _BANDS.get() if bands is None else bands
    recorded = grown_channels(state_dict)
    grown: dict[str, Tensor] = {}
    for number, (name, conv) in enumerate(_convolutions(model)):
        key = f'{name}.weight' if name else 'weight'
        weight = state_dict.get(key)
        if not isinstance(weight, Tensor) or not _differs_in_channels(weight, conv.weight):
            continue
        if name in recorded and weight.shape == conv.weight.shape:
            _record(conv, recorded[name])
        old, new = weight.shape[1], conv.weight.shape[1]
        reads_images = 3 in (old, new) or (number == 0 and _STEM.search(name))
        if not reads_images or (old == new and bands is None):
            continue
        _refuse_other_than_rgb(key, old, new, source)
        grown[key] = grow_channels(weight, new, bands)
        rule = f'bands={list(bands)}' if bands else 'the mean of the colors'
        _record(conv, {'from': old, 'to': new, 'rule': f'{rule} times {old}/{new}', 'source': source})
        _log(f'{source}: {key} grown from {old} to {new} channels: {rule} times {old}/{new}', logger)
    if not grown:
        return state_dict
    changed: Any = OrderedDict(state_dict)
    changed.update(grown)
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        changed._metadata = metadata
    return changed


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            yield name, module


def _differs_in_channels(weight: Tensor, own: Tensor) -> bool:
    """Whether two weights have the same shape but for the channels, or the same shape."""
    return weight.ndim == own.ndim and weight.shape[:1] + weight.shape[2:] == own.shape[:1] + own.shape[2:]


def _refuse_other_than_rgb(key: str, old: int, new: int, source: str) -> None:
    if old == 3:
        return
    if old == new:
        raise MismatchError(f'{source}: {key} reads {old} channels already; leave out bands=...')
    raise MismatchError(
        f'{source}: {key} reads {old} channels, and the model {new}: only weights of RGB can grow; set '
        f'in_channels={old} of the backbone, and a mean and std of {old} values'
    )


def _log(text: str, logger) -> None:
    from mmengine.logging import print_log

    print_log(text, logger=logger)


def grown_channels(state_dict: Mapping) -> dict[str, dict]:
    """Return what a state dict says of convolutions whose weights have grown, by their names.

    Returns:
        For each of them the numbers of channels 'from' and 'to', the 'rule', and the 'source' of the weights.
    """
    metadata = getattr(state_dict, '_metadata', None) or {}
    return {
        name: dict(entries[RECORD])
        for name, entries in metadata.items()
        if isinstance(entries, Mapping) and isinstance(entries.get(RECORD), Mapping)
    }


def _record(conv: nn.Conv2d, entry: Mapping) -> None:
    """Have a convolution write an entry into its state dicts."""
    if not hasattr(conv, RECORD):
        conv.register_state_dict_post_hook(_write_record)
    setattr(conv, RECORD, dict(entry))


def _write_record(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata[RECORD] = getattr(module, RECORD)
