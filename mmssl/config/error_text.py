"""Messages of errors that were raised while something was built from a config or run, for users."""

import inspect
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from mmssl.errors import UserError
from mmssl.hints import nearest

# messages of gloo and NCCL about a rank that has ended
_PEER_ENDED = re.compile(
    r'(?i)(gloo|nccl)(.|\n)*(connection (closed|reset)|closed by (remote )?peer|read error|write error|'
    r'broken pipe|remote process (has )?exited)'
)
_EXTRAS = {'mmseg': 'seg', 'mmdet': 'det'}


def explain(error: Exception) -> str:
    """Return the message of an error in words that a user can act on.

    It suggests the nearest name for a misspelt key of a config or ``type``, and else names the part that
    was being built. Where the message of an error does not stand alone, its type and the line that raised
    it are added.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    worker = re.match(r'Caught \w+ in DataLoader worker process (\d+)', text)
    if worker:
        text = f'{text.strip().splitlines()[-1]} (in worker {worker.group(1)} of the data loader)'
    if _PEER_ENDED.search(text):
        return f'another process of this job has ended; see its last message ({text.splitlines()[0]})'
    suggestion = _unknown_argument(text) or _unknown_type(text)
    if suggestion:
        return suggestion
    if isinstance(error, KeyError) and re.fullmatch(r'\w+', text):
        text = f'the key {text!r} is missing'
    elif not isinstance(error, (TypeError, ValueError, KeyError)) and not text.startswith(
        type(error).__name__
    ):
        text = f'{type(error).__name__}: {text or "no message"} ({raising_line(error)})'
    part = part_being_built(error)
    return f'{text} (while building {part})' if part and part.rpartition('.')[2] not in text else text


def explained_error(error: Exception) -> Exception:
    """Return an error of a run that has not started, with the message of :func:`explain`.

    Returns:
        An error of the same type, or a ValueError where the type says nothing about a config (failed
        assertions, missing attributes).
    """
    if isinstance(error, UserError):
        return error
    error_type = type(error) if type(error) in (TypeError, KeyError, ValueError) else ValueError
    message = explain(error)
    return error if message == str(error) and error_type is type(error) else error_type(message)


def _unknown_argument(text: str) -> str:
    """Return the message about a keyword argument that a class does not have; '' for other errors."""
    match = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", text)
    if match is None:
        return ''
    owner, key = match.groups()
    arguments: set[str] = set()
    for _, part in _registered_parts():
        if inspect.isclass(part) and owner in {base.__name__ for base in part.__mro__}:
            arguments |= _arguments_of(part)
    return f'{owner} has no argument {key!r}' + nearest(key, arguments)


def _unknown_type(text: str) -> str:
    """Return the message about a ``type`` that is not registered; '' for other errors."""
    match = re.search(r'(\S+) is not in the (\S+) registry', text)
    if match is None:
        return ''
    name = match.group(1).strip("'`")
    hint = nearest(name, (registered for registered, _ in _registered_parts()))
    return f'type {name!r} is not registered{hint}{_missing_toolboxes(match.group(2))}'


def part_being_built(error: BaseException) -> str | None:
    """Return the ``type`` of the innermost part of a config that was being built; None outside of any."""
    part = None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == 'build_from_cfg':
            obj_type = step.tb_frame.f_locals.get('obj_type', part)
            if isinstance(obj_type, str) or obj_type is None:
                part = obj_type
            else:
                part = getattr(obj_type, '__name__', part)
        step = step.tb_next
    return part


def raising_line(error: BaseException) -> str:
    """Return the file, number and text of the line that raised an error."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f'{Path(last[0].filename).name}:{last[0].lineno}: {last[0].line}' if last else ''


def _registered_parts() -> Iterator[tuple[str, object]]:
    """Yield (name, part) of everything registered; names outside the scope of mmengine have their prefix."""
    import mmengine.registry as root

    registries = [registry for registry in vars(root).values() if isinstance(registry, root.Registry)]
    while registries:
        registry = registries.pop()
        registries += registry.children.values()
        prefix = '' if registry.scope == 'mmengine' else f'{registry.scope}.'
        for name, part in registry.module_dict.items():
            yield prefix + name, part


def _arguments_of(part: type) -> set[str]:
    """Return the argument names of a class and of its bases, to which it passes keywords on."""
    names: set[str] = set()
    for base in part.__mro__:
        if '__init__' in vars(base):
            for parameter in inspect.signature(vars(base)['__init__']).parameters.values():
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    names.add(parameter.name)
    return names - {'self'}


def _missing_toolboxes(scope: str) -> str:
    """Return what to install for the parts of mmssl that could not be imported."""
    if not scope.startswith('mmssl'):
        return ''
    from mmssl import registry

    registries = [part for part in vars(registry).values() if isinstance(part, registry.LazyRegistry)]
    toolboxes = {toolbox for each in registries for toolbox in each.pending.values()}
    missing = sorted(toolbox for toolbox in toolboxes if not registry.installed(toolbox))
    return ''.join(f"; parts for {name} need it: pip install 'mmssl[{_EXTRAS[name]}]'" for name in missing)
