"""Loading of weights into a model, with a report of what matched and an error if nothing did."""

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmssl.checkpoint.channels import Bands, fit_channels
from mmssl.checkpoint.dtypes import check_dtypes
from mmssl.checkpoint.files import load_file
from mmssl.checkpoint.keys import (
    only_part,
    select_prefix,
    shortened,
    strip_module,
    strip_wrappers,
    weights_of,
)
from mmssl.errors import MismatchError

# keys shown in each section of a report
SHOWN = 6


@dataclass
class MatchReport:
    """Outcome of loading weights; ``str()`` is a table.

    Attributes:
        source: Name of the file.
        matched: Parameters and buffers of the model that were set.
        missing: Parameters and buffers that the file lacks, which keep their initial values.
        unexpected: Keys of the file that the model does not have.
        mismatched: (key, shape in the file, shape in the model) of those with different shapes, not set.
    """

    source: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple, tuple]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the file and the model have the same keys and shapes."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        lines = [f'{self.source}: {len(self.matched)} of the {total} entries of the model are set']
        shapes = [
            f'{key} ({"x".join(map(str, in_file))} in the file, {"x".join(map(str, in_model))} in the model)'
            for key, in_file, in_model in self.mismatched
        ]
        for title, keys in (
            ('missing in the file', self.missing),
            ('unknown to the model', self.unexpected),
            ('other shape', shapes),
        ):
            if keys:
                lines += [
                    f'  {title + " " + str(len(keys)) if n == 0 else "":<28}{key}'
                    for n, key in enumerate(keys[:SHOWN])
                ]
                if len(keys) > SHOWN:
                    lines.append(f'{"":<30}... and {len(keys) - SHOWN} more')
        return '\n'.join(lines)


def load_weights(  # noqa: PLR0913  options of a public function
    model: nn.Module,
    source,
    prefix: str | None = None,
    strict: bool = False,
    map_location='cpu',
    trust: bool = False,
    logger='current',
    bands: Bands | None = None,
) -> MatchReport:
    """Copy weights into a model and report what matched.

    Args:
        model: The receiver; its own hooks (resizing of position embeddings, ...) take part.
        source: A file, or a dict of weights, bare or under ``state_dict`` or ``model``. Prefixes of modules
            around the model, such as ``_orig_mod.``, are removed, with a log line.
        prefix: Take only the keys under this prefix, without it: ``'backbone.'`` takes the backbone out of an
            algorithm's file.
        strict: Raise unless all keys and shapes match.
        map_location: As for :func:`mmssl.checkpoint.load_file`.
        trust: As for :func:`mmssl.checkpoint.load_file`.
        logger: Logger of the report, as for mmengine's ``print_log``; None prints.
        bands: Which channel of the model is which color of weights of RGB, if it reads other channels; see
            :func:`mmssl.checkpoint.channels.grow_channels`.

    Returns:
        MatchReport.

    Raises:
        ValueError: Nothing matched, or not everything did and ``strict`` is set.
    """
    is_name = isinstance(source, (str, os.PathLike))
    name = str(source) if is_name else 'the given weights'
    weights = weights_of(load_file(source, map_location, trust) if is_name else source, name)
    weights = only_part(weights, name, logger)
    if prefix:
        weights = select_prefix(strip_module(weights), prefix, name)
    return load_matching(model, weights, strict=strict, source=name, logger=logger, bands=bands)


def load_matching(
    model: nn.Module,
    state_dict: Mapping,
    strict: bool = False,
    source: str = 'the checkpoint',
    logger='current',
    bands: Bands | None = None,
) -> MatchReport:
    """Copy the entries of a state dict that fit into a model.

    Args:
        model: The receiver, bare or in (nested) model wrappers.
        state_dict: Weights by the names of the bare model, without the wrappers' ``module.``.
        strict: Raise unless everything fits.
        source: Name of the file, for the messages.
        logger: As for mmengine's ``print_log``.
        bands: As for :func:`load_weights`.

    Returns:
        The report, which is logged as well.

    Raises:
        MismatchError: Nothing matched, ``strict`` is set and not everything did, or a dtype is of another
            kind than the model's.
    """
    from mmengine.logging import print_log

    wrappers = _wrapper_paths(model)
    tensors = {_outside(key, wrappers): tensor for key, tensor in model.state_dict().items()}
    notes = 'current' if logger == 'silent' else logger
    state_dict = strip_wrappers(state_dict, tensors, source, notes)
    check_dtypes(state_dict, tensors, source, notes)
    state_dict = fit_channels(model, state_dict, source, bands, notes)
    report = _copy(model, state_dict, source)
    # a counter of Python, which no file has to hold, is neither
    own = {_outside(name, wrappers) for name, _ in (*model.named_parameters(), *model.named_buffers())}
    counted = [key for key in report.matched if key in own and not key.endswith('num_batches_tracked')]
    if not counted and (report.missing or report.mismatched):
        model_keys = report.missing + [key for key, *_ in report.mismatched]
        raise MismatchError(
            f'no weight of {source} fits the model {type(model).__name__}.\n'
            f'  the file has   {shortened(state_dict)}\n  the model has  {shortened(model_keys)}\n'
            f'  {_advice(list(state_dict), model_keys) or "is it the checkpoint of another model?"}'
            + (f'\n{report}' if report.mismatched else '')
        )
    if report.complete:
        print_log(f'{source}: all {len(report.matched)} entries of the model are set', logger=logger)
    elif strict:
        raise MismatchError(f'model and weights must match exactly, but {report}')
    else:
        print_log(str(report), logger=logger, level=30)
    return report


def _copy(model: nn.Module, state_dict: Mapping, source: str) -> MatchReport:
    wrappers = _wrapper_paths(model)
    weights: Any = OrderedDict((_inside(key, wrappers), value) for key, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        weights._metadata = {_inside(key, wrappers): value for key, value in metadata.items()}
    outcomes = []
    handle = model.register_load_state_dict_post_hook(
        lambda module, keys: outcomes.append((list(keys.missing_keys), list(keys.unexpected_keys)))
    )
    failures = ''
    try:
        nn.Module.load_state_dict(model, weights, strict=False)
    except RuntimeError as error:
        failures = str(error)  # different shapes; everything that fits has been copied by then
        if not outcomes:
            raise
    finally:
        handle.remove()
    # torch reports shapes in the message only
    pattern = r'size mismatch for (\S+): .*?\[([\d, ]*)\]\).*?\[([\d, ]*)\]\)'
    shapes = [
        (key, *(tuple(int(n) for n in text.split(',') if n.strip()) for text in pair))
        for key, *pair in re.findall(pattern, failures)
    ]
    if failures and len(shapes) < failures.count('\n\t'):
        raise MismatchError(f'{source}: {" ".join(failures.split())}')  # one line
    missing, unexpected = outcomes[-1]
    unset = set(missing) | {key for key, *_ in shapes}
    return MatchReport(
        source,
        matched=[_outside(key, wrappers) for key in model.state_dict() if key not in unset],
        missing=[_outside(key, wrappers) for key in missing if not key.endswith('num_batches_tracked')],
        unexpected=[_outside(key, wrappers) for key in unexpected],
        mismatched=[(_outside(key, wrappers), in_file, in_model) for key, in_file, in_model in shapes],
    )


def _wrapper_paths(model: nn.Module) -> list[str]:
    """Return the prefixes of the wrappers (DDP, test-time augmentation, ...) in a model, outermost first."""
    from mmengine.model import BaseTTAModel, is_model_wrapper

    return [
        name + '.' if name else ''
        for name, module in model.named_modules()
        if is_model_wrapper(module) or isinstance(module, BaseTTAModel)
    ]


def _inside(key: str, wrappers: list[str]) -> str:
    for path in wrappers:
        if key.startswith(path):
            key = f'{path}module.{key[len(path) :]}'
    return key


def _outside(key: str, wrappers: list[str]) -> str:
    for path in reversed(wrappers):
        if key.startswith(path + 'module.'):
            key = path + key[len(path) + len('module.') :]
    return key


def _advice(file_keys: list[str], model_keys: list[str]) -> str | None:
    """Return the argument with which most keys would fit."""
    prefix = _best_prefix(file_keys, model_keys)
    if prefix:
        return f'the model is a part of the file: load it with prefix={prefix!r}'
    prefix = _best_prefix(model_keys, file_keys)
    if prefix:
        return f'the file is a part of the model: load it into model.{prefix[:-1]} (init_cfg of that part)'
    return None


def _best_prefix(whole: list[str], part: list[str]) -> str | None:
    keys = set(part)
    hits: dict[str, int] = {}
    for key in whole:
        cut = key.find('.')
        while cut >= 0:
            if key[cut + 1 :] in keys:
                hits[key[: cut + 1]] = hits.get(key[: cut + 1], 0) + 1
            cut = key.find('.', cut + 1)
    return max(hits, key=lambda prefix: hits[prefix]) if hits else None
