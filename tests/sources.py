"""The modules of the package and their syntax trees, for the tests that read the source."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'mmssl'


@functools.cache
def modules() -> dict[str, Path]:
    """Name of every module -> its file; a package is named by its ``__init__.py``."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
        if '.mim' not in parts:
            found['.'.join(parts).removesuffix('.__init__')] = path
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, without the imports that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Modules of the package that a module imports, at its top or inside functions."""
    path, known, targets = modules()[name], modules(), set()
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in statements(tree(path)):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')
                base = '.'.join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                whole = f'{base}.{alias.name}'
                targets.add(whole if whole in known else base)
    return frozenset(target for target in targets if target in known and target not in ('mmssl', name))


def bound_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, identifier) of everything that a file binds: functions, classes, arguments, variables."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield 0, node.asname
