"""``mmssl list [PATTERN]``: the configs that come with the package, what they need, and the types it registers."""

import argparse
import ast
import contextlib
import difflib
import fnmatch
import importlib.util
import io
import shutil
import sys
from pathlib import Path

HELP = 'list configs with their parameters and what they need, and registered types'
# a column of a table that is cut is at least so wide
LEAST_COLUMN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pattern."""
    parser.add_argument(
        'pattern',
        nargs='?',
        metavar='PATTERN',
        help='part of a name, or a pattern with * and ?, in any case; everything without it',
    )


def run(args: argparse.Namespace) -> None:
    """Print two tables: configs with method, parameters, host and paper, then types with their registry and what they are."""
    from mmssl.config import paths

    configs = find_configs(paths.mim_root())
    with contextlib.redirect_stdout(io.StringIO()):  # the hosts talk while they are imported
        types, trouble = find_types()
    rows = [row for row in configs if matches(row[0], args.pattern) or matches(row[1], args.pattern)]
    parts = [row for row in types if matches(row[0], args.pattern)]
    if not rows and not parts and args.pattern:
        names = [row[0] for row in [*configs, *types]]
        near = difflib.get_close_matches(args.pattern, names, n=1, cutoff=0.4)
        raise ValueError(
            f'no config and no type matches {args.pattern!r}; '
            + (f'did you mean {near[0]!r}?' if near else '`mmssl list` shows them all')
        )
    tables = []
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = [[*row[:3], needs(row[3]), row[4]] for row in rows]
    if rows:
        tables.append(table(['CONFIG', 'METHOD', 'PARAMS', 'NEEDS', 'PAPER'], rows, width))
    if parts:
        tables.append(table(['TYPE', 'REGISTRY', 'WHAT'], parts, width))
    print('\n\n'.join(tables))
    if trouble:
        print(f'\nsome types are not listed: {trouble}; `mmssl doctor` says what to do')


def matches(name: str, pattern: str | None) -> bool:
    """Whether the pattern is part of the name or, with * or ?, fits the whole of it."""
    if not pattern:
        return True
    name, pattern = name.lower(), pattern.lower()
    return fnmatch.fnmatchcase(name, pattern) if set(pattern) & set('*?[') else pattern in name


def needs(host: str) -> str:
    """A host toolbox, and whether it is there."""
    return host if not host or importlib.util.find_spec(host) else f'{host} (not installed)'


def millions(parameters: int | None) -> str:
    """A number of parameters, as '86.6 M'."""
    return f'{parameters / 1e6:.3g} M' if parameters else ''


def table(header: list[str], rows: list[list[str]], width: int | None = None) -> str:
    """Columns under their headings, each as wide as its longest cell.

    Args:
        header: names of the columns.
        rows: a cell a column.
        width: of the terminal; columns at the right are cut, or left out, to fit it.
    """
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    while width and len(widths) > 1 and sum(widths) + 2 * (len(widths) - 1) > width:
        left = width - sum(widths[:-1]) - 2 * (len(widths) - 1)
        if left >= LEAST_COLUMN:
            widths[-1] = left
        else:
            widths.pop()
    return '\n'.join(
        '  '.join(cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=False)).rstrip()
        for row in cells
    )


def cut(text: str, width: int) -> str:
    """The text, its end left out where it is too long."""
    return text if len(text) <= width else f'{text[: width - 3]}...'


def find_configs(root: Path) -> list[list[str]]:
    """The configs under ``root / 'configs'`` but ``_base_``.

    Args:
        root: the folder that metafiles count their ``Config`` entries from, see
            :func:`mmssl.config.paths.mim_root`.

    Returns:
        rows (path below configs, method, parameters, host, paper); the method is the metafile's collection,
        or else the config's folder.
    """
    folder = root / 'configs'
    known = {}
    for metafile in sorted(folder.rglob('metafile.yml')):
        known.update(read_metafile(metafile))
    rows = []
    for path in sorted(folder.rglob('*.py')):
        name = path.relative_to(folder)
        if '_base_' in name.parts:
            continue
        method, paper, parameters = known.get(
            f'configs/{name.as_posix()}', (name.parts[0] if len(name.parts) > 1 else '', '', None)
        )
        rows.append([name.as_posix(), method, millions(parameters), read_scope(path) or '', paper])
    return rows


def read_metafile(path: Path) -> dict[str, tuple[str, str, int | None]]:
    """Config path -> (method, title of its paper, number of parameters) of one ``metafile.yml``; nothing where PyYAML is missing.

    Raises:
        ValueError: the file is no valid YAML.
    """
    try:
        import yaml
    except ImportError:
        return {}
    try:
        meta = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no valid YAML: {error}') from error
    papers = {}
    for collection in meta.get('Collections') or []:
        paper = collection.get('Paper') or {}
        papers[collection.get('Name')] = paper.get('Title') or paper.get('URL') or ''
    return {
        model['Config']: (
            model.get('In Collection') or '',
            papers.get(model.get('In Collection'), ''),
            (model.get('Metadata') or {}).get('Parameters'),
        )
        for model in meta.get('Models') or []
        if model.get('Config')
    }


def read_scope(path: Path, depth: int = 10) -> str | None:
    """``default_scope`` of a config, from the file itself or the first of its bases that says it; nothing is executed.

    Args:
        path: a config in Python.
        depth: how many levels of ``_base_`` to follow.
    """
    if not path.is_file() or not depth:
        return None
    values = {}
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in ('default_scope', '_base_')
        ):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # an expression: only running the config would tell
                continue
    if 'default_scope' in values:
        return values['default_scope']
    bases = values.get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        if '::' not in base and (scope := read_scope(path.parent / base, depth - 1)):
            return scope
    return None


def find_types() -> tuple[list[list[str]], str]:
    """What mmssl registers.

    Returns:
        rows (name to write in a config, registry, first line of the docstring), and why some or all are
        missing, or ''.
    """
    try:
        from mmengine.registry import Registry

        from mmssl import registry
    except (ImportError, OSError, RuntimeError) as error:
        return [], f'{type(error).__name__}: {error}'
    rows, trouble = [], ''
    for attribute, found in vars(registry).items():
        if not isinstance(found, Registry) or found.scope != registry.SCOPE:
            continue
        try:
            found.import_from_location()
            missing = found.import_pending()
            trouble = trouble or (
                f'parts that need {" and ".join(missing)} are left out: not installed' if missing else ''
            )
        except ImportError as error:
            trouble = f'{type(error).__name__}: {error}'
        for name, member in sorted(found.module_dict.items()):
            text = (member.__doc__ or '').strip().splitlines()
            rows.append([f'{registry.SCOPE}.{name}', attribute, text[0] if text else ''])
    return rows, trouble
