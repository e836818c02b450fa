"""``mmssl list [PATTERN]``: the shipped configs and what they need, and the registered types."""

import argparse
import contextlib
import difflib
import importlib.util
import io
import shutil
import sys
from pathlib import Path

from mmssl.config.catalogue import Metadata, config_files, matches, read_metafiles, read_scope

HELP = 'list configs with their parameters and requirements, and registered types'
# narrowest column that is still worth printing
MIN_COLUMN = 16
# columns of output that goes to a file or a pipe
PAGE_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pattern."""
    parser.add_argument(
        'pattern',
        nargs='?',
        metavar='PATTERN',
        help='part of a name, or a pattern with * and ?, case-insensitive (default: everything)',
    )


def run(args: argparse.Namespace) -> None:
    """Print the configs of each method with their parameters, and a table of types.

    Raises:
        ValueError: Nothing matches the pattern.
    """
    from mmssl.config.paths import mim_root

    configs = find_configs(mim_root())
    with contextlib.redirect_stdout(io.StringIO()):  # the toolboxes print while they are imported
        types, missing = find_types()
    config_rows = [row for row in configs if matches(row[0], args.pattern) or matches(row[1], args.pattern)]
    type_rows = [row for row in types if matches(row[0], args.pattern)]
    if args.pattern and not config_rows and not type_rows:
        names = [row[0] for row in [*configs, *types]]
        close = difflib.get_close_matches(args.pattern, names, n=1, cutoff=0.4)
        hint = f'did you mean {close[0]!r}?' if close else '`mmssl list` shows them all'
        raise ValueError(f'no config and no type matches {args.pattern!r}; {hint}')
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PAGE_WIDTH
    tables = []
    if config_rows:
        tables.append(config_table(config_rows, width))
    if type_rows:
        tables.append(table(['TYPE', 'REGISTRY', 'WHAT'], type_rows, width))
    print('\n\n'.join(tables))
    if missing:
        print(f'\nsome types are not listed: {missing}; `mmssl doctor` says what to do')


def availability(toolbox: str) -> str:
    """Return the name of a toolbox, marked if it is not installed."""
    return toolbox if not toolbox or importlib.util.find_spec(toolbox) else f'{toolbox} (not installed)'


def millions(parameters: int | None) -> str:
    """Format a number of parameters, as '86.6 M' or '1,280 M'."""
    if not parameters:
        return ''
    value = parameters / 1e6
    return f'{value:,.0f} M' if value >= 1000 else f'{value:.3g} M'


def config_table(rows: list[list[str]], width: int) -> str:
    """Format configs below headings with their method, toolbox and paper.

    Args:
        rows: Rows of :func:`find_configs`.
        width: Columns of the page; a heading is shortened to it, names never are.
    """
    column = max(len(row[0]) for row in rows)
    lines = [f'  {"CONFIG":<{column}}  PARAMS']
    heading = None
    for name, method, parameters, toolbox, paper in rows:
        needs = availability(toolbox)
        parts = (method or 'others', f' [{needs}]' if needs else '', f': {paper}' if paper else '')
        if heading != parts:
            heading = parts
            lines.append(shorten(''.join(parts), width))
        lines.append(f'  {name:<{column}}  {parameters}'.rstrip())
    return '\n'.join(lines)


def table(header: list[str], rows: list[list[str]], width: int | None = None) -> str:
    """Format rows as aligned columns.

    Args:
        header: Names of the columns.
        rows: The rows, with one text per column.
        width: Columns of the terminal; the rightmost columns are shortened or dropped to fit. None for no
            limit.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    while width and len(widths) > 1 and sum(widths) + 2 * (len(widths) - 1) > width:
        last = width - sum(widths[:-1]) - 2 * (len(widths) - 1)
        if last >= MIN_COLUMN:
            widths[-1] = last
        else:
            widths.pop()
    return '\n'.join(
        '  '.join(shorten(text, size).ljust(size) for text, size in zip(line, widths, strict=False)).rstrip()
        for line in lines
    )


def shorten(text: str, width: int) -> str:
    """Return the text, with '...' for its end if it is longer than ``width``."""
    return text if len(text) <= width else f'{text[: width - 3]}...'


def find_configs(root: Path) -> list[list[str]]:
    """List the configs under ``root / 'configs'``.

    Args:
        root: Folder that the metafiles' paths are relative to, see :func:`mmssl.config.paths.mim_root`.

    Returns:
        Rows of path below configs, method, parameters, toolbox and paper. The method is the collection in the
        metafile, or else the config's folder.
    """
    metadata = read_metafiles(root)
    rows = []
    for path in config_files(root):
        name = path.relative_to(root / 'configs')
        folder = name.parts[0] if len(name.parts) > 1 else ''
        known = metadata.get(f'configs/{name.as_posix()}', Metadata(method=folder))
        scope = read_scope(path) or ''
        rows.append([name.as_posix(), known.method, millions(known.parameters), scope, known.paper])
    return rows


def find_types() -> tuple[list[list[str]], str]:
    """List what mmssl registers.

    Returns:
        Rows of the name to write in a config, the registry, and the first line of the docstring; and why some
        or all types are missing, or ''.
    """
    try:
        from mmengine.registry import Registry

        from mmssl import registry
    except (ImportError, OSError, RuntimeError) as error:
        return [], f'{type(error).__name__}: {error}'
    rows: list[list[str]] = []
    reason = ''
    for attribute, value in vars(registry).items():
        if not isinstance(value, Registry) or value.scope != registry.SCOPE:
            continue
        try:
            value.import_from_location()
            toolboxes = value.import_pending()
            if toolboxes and not reason:
                reason = f'parts that need {" and ".join(toolboxes)} are left out: not installed'
        except ImportError as error:
            reason = f'{type(error).__name__}: {error}'
        for name, member in sorted(value.module_dict.items()):
            summary = (member.__doc__ or '').strip().splitlines()[:1]
            rows.append([f'{registry.SCOPE}.{name}', attribute, *(summary or [''])])
    return rows, reason
