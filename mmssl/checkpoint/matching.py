"""Which weights of a file fit which parameters of a model: loading with a report, an error when nothing matches."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmssl.checkpoint.files import strip_prefix
from mmssl.errors import MismatchError

# how many keys a report shows of each kind
SHOWN = 6


@dataclass
class MatchReport:
    """What ``load_weights`` did; ``str()`` is a table.

    Attributes:
        source: name of the file.
        matched: parameters and buffers of the model that were set.
        missing: those that keep their initial values.
        unexpected: keys of the file that the model has no place for.
        mismatched: (key, shape in the file, shape in the model), not set.
    """

    source: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple, tuple]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every weight found its place and every place its weight."""
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


def load_matching(
    model: nn.Module,
    state_dict: Mapping,
    strict: bool = False,
    source: str = 'the checkpoint',
    logger='current',
) -> MatchReport:
    """Copy the entries of ``state_dict`` that fit into ``model``; keys are those of the bare model, without wrappers' ``module.``.

    Args:
        model: the receiver, bare or in (nested) model wrappers.
        state_dict: weights by name.
        strict: raise unless everything fits.
        source: name for the messages.
        logger: as for mmengine's ``print_log``.

    Returns:
        MatchReport, logged when something did not fit.

    Raises:
        MismatchError: nothing matched, or ``strict`` and not everything did.
    """
    from mmengine.logging import print_log

    report = _copy(model, state_dict, source)
    counted = [key for key in report.matched if not key.endswith('num_batches_tracked')]
    if not counted and (report.missing or report.mismatched):
        model_keys = report.missing + [key for key, *_ in report.mismatched]
        raise MismatchError(
            f'no weight of {source} fits the model {type(model).__name__}.\n'
            f'  the file has   {_few(state_dict)}\n  the model has  {_few(model_keys)}\n'
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


def select_prefix(state_dict: Mapping, prefix: str, source: str = 'the checkpoint') -> OrderedDict:
    """The entries under ``prefix`` (a final dot is added) without it; MismatchError when there are none."""
    prefix = prefix if prefix.endswith('.') else prefix + '.'
    selected = strip_prefix(state_dict, prefix)
    if not selected:
        heads = sorted({key.partition('.')[0] + '.' for key in state_dict})
        raise MismatchError(
            f'{source} has no key under prefix={prefix!r}; it has {_few(state_dict)}, under {_few(heads)}: '
            'name one of these, or leave the prefix out'
        )
    return selected


def _copy(model: nn.Module, state_dict: Mapping, source: str) -> MatchReport:
    wrappers = _wrapper_paths(model)
    weights: Any = OrderedDict((_inside(key, wrappers), value) for key, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        weights._metadata = {_inside(key, wrappers): value for key, value in metadata.items()}
    seen = []
    handle = model.register_load_state_dict_post_hook(
        lambda module, keys: seen.append((list(keys.missing_keys), list(keys.unexpected_keys)))
    )
    failures = ''
    try:
        nn.Module.load_state_dict(model, weights, strict=False)
    except RuntimeError as error:
        failures = str(error)  # other shapes; everything that fits has been copied by then
        if not seen:
            raise
    finally:
        handle.remove()
    # torch reports a shape only in words
    pattern = r'size mismatch for (\S+): .*?\[([\d, ]*)\]\).*?\[([\d, ]*)\]\)'
    shapes = [
        (key, *(tuple(int(n) for n in text.split(',') if n.strip()) for text in pair))
        for key, *pair in re.findall(pattern, failures)
    ]
    if failures and len(shapes) < failures.count('\n\t'):
        raise MismatchError(f'{source}: {failures}')
    missing, unexpected = seen[-1]
    unset = set(missing) | {key for key, *_ in shapes}
    return MatchReport(
        source,
        matched=[_outside(key, wrappers) for key in model.state_dict() if key not in unset],
        missing=[_outside(key, wrappers) for key in missing if not key.endswith('num_batches_tracked')],
        unexpected=[_outside(key, wrappers) for key in unexpected],
        mismatched=[(_outside(key, wrappers), in_file, in_model) for key, in_file, in_model in shapes],
    )


def _wrapper_paths(model: nn.Module) -> list[str]:
    """Names of the wrappers (DDP, test-time augmentation, ...) inside ``model``, outermost first, each ending in a dot unless the root."""
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


def _few(keys) -> str:
    keys = [str(key) for key in keys]
    return ', '.join(keys[:4]) + (f', ... ({len(keys)})' if len(keys) > 4 else '') if keys else 'nothing'


def _advice(file_keys: list[str], model_keys: list[str]) -> str | None:
    """The prefix with which most keys would fit, as an argument to type."""
    prefix = _best_prefix(file_keys, model_keys)
    if prefix:
        return f'the model is a part of the file: load it with prefix={prefix!r}'
    prefix = _best_prefix(model_keys, file_keys)
    if prefix:
        return f'the file is a part of the model: load it into model.{prefix[:-1]} (init_cfg of that part)'
    return None


def _best_prefix(whole: list[str], part: list[str]) -> str | None:
    wanted = set(part)
    hits: dict[str, int] = {}
    for key in whole:
        cut = key.find('.')
        while cut >= 0:
            if key[cut + 1 :] in wanted:
                hits[key[: cut + 1]] = hits.get(key[: cut + 1], 0) + 1
            cut = key.find('.', cut + 1)
    return max(hits, key=lambda prefix: hits[prefix]) if hits else None
