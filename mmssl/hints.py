"""The nearest right name for a wrong one."""

import difflib
import inspect
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

# gloo's and NCCL's words for a rank that is no more
_PEER_GONE = re.compile(
    r'(?i)(gloo|nccl)(.|\n)*(connection (closed|reset)|closed by (remote )?peer|read error|write error|broken pipe|'
    r'remote process (has )?exited)'
)


def nearest(name: str, names: Iterable[str]) -> str:
    """``'; did you mean ...?'``, or nothing when no name is near."""
    found = difflib.get_close_matches(name, [str(other) for other in names], n=1, cutoff=0.6)
    return f'; did you mean {found[0]!r}?' if found else ''


def nearest_path(path: str | os.PathLike) -> str:
    """As :func:`nearest`, for a path that does not exist: looks at what its deepest existing folder holds."""
    path = Path(path)
    for folder in path.parents:
        if folder.is_dir():
            missing = path.relative_to(folder).parts[0]
            hint = nearest(missing, (entry.name for entry in folder.iterdir()))
            return hint or f' ({folder.resolve()} holds no {missing!r})'
    return ''


def _registered() -> Iterator[tuple[str, object]]:
    """Every registered (name, part) that has been imported, of all toolboxes; names of other scopes than mmengine's carry their prefix."""
    import mmengine.registry as root

    todo = [registry for registry in vars(root).values() if isinstance(registry, root.Registry)]
    while todo:
        registry = todo.pop()
        todo += registry.children.values()
        prefix = '' if registry.scope == 'mmengine' else f'{registry.scope}.'
        yield from ((prefix + name, part) for name, part in registry.module_dict.items())


def _arguments(part: type) -> set[str]:
    """Argument names of a class, also those that it hands on to its bases."""
    names: set[str] = set()
    for base in part.__mro__:
        if '__init__' in vars(base):
            parameters = inspect.signature(vars(base)['__init__']).parameters.values()
            names |= {
                parameter.name
                for parameter in parameters
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            }
    return names - {'self'}


def _missing_hosts(scope: str) -> str:
    """What to install where parts of ours could not be looked at."""
    if not scope.startswith('mmssl'):
        return ''
    from mmssl import registry

    missing = sorted(
        {
            host
            for found in vars(registry).values()
            if isinstance(found, registry.HostBoundRegistry)
            for host in found.hosts.values()
            if not registry.installed(host)
        }
    )
    extras = {'mmseg': 'seg', 'mmdet': 'det'}
    return ''.join(f"; parts for {host} need it: pip install 'mmssl[{extras[host]}]'" for host in missing)


def part_being_built(error: BaseException) -> str | None:
    """The ``type`` of the innermost part of a config whose making raised the error; None outside of any."""
    found, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == 'build_from_cfg':
            kind = step.tb_frame.f_locals.get('obj_type', found)
            found = kind if isinstance(kind, str) or kind is None else getattr(kind, '__name__', found)
        step = step.tb_next
    return found


def place(error: BaseException) -> str:
    """The line of code that raised an error, for errors that do not speak for themselves."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f'{Path(last[0].filename).name}:{last[0].lineno}: {last[0].line}' if last else ''


def explain(error: Exception) -> str:
    """The message of an error in words for a person.

    The nearest right name is added where a key of a config or a ``type`` is misspelt; otherwise the part that
    was being built, and for errors of no words of their own the line that raised them.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    worker = re.match(r'Caught \w+ in DataLoader worker process (\d+)', text)
    if worker:
        text = f'{text.strip().splitlines()[-1]} (in worker {worker.group(1)} of the data loader)'
    if _PEER_GONE.search(text):
        return f'another process of this job has ended, see what it said last ({text.splitlines()[0]})'
    keyword = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", text)
    if keyword:
        owner, key = keyword.groups()
        classes = [
            part
            for _, part in _registered()
            if inspect.isclass(part) and owner in {base.__name__ for base in part.__mro__}
        ]
        known = set().union(*map(_arguments, classes)) if classes else set()
        return f'{owner} has no argument {key!r}' + nearest(key, known)
    missing = re.search(r'(\S+) is not in the (\S+) registry', text)
    if missing:
        name = missing.group(1).strip("'`")
        return (
            f'type {name!r} is not registered'
            + nearest(name, (other for other, _ in _registered()))
            + _missing_hosts(missing.group(2))
        )
    if isinstance(error, KeyError) and re.fullmatch(r'\w+', text):
        text = f'the key {text!r} is missing'
    elif not isinstance(error, (TypeError, ValueError, KeyError)) and not text.startswith(
        type(error).__name__
    ):
        text = f'{type(error).__name__}: {text or "no message"} ({place(error)})'
    part = part_being_built(error)
    return f'{text} (while building {part})' if part and part.rpartition('.')[2] not in text else text
