"""Reading the values of a config file as mmengine writes it, without executing it."""

import ast
from typing import Any


def read_settings(text: str) -> dict:
    """Return the values of a config that consists of assignments of literals and ``dict(...)`` calls.

    Raises:
        ValueError: It contains anything else.
    """
    try:
        tree: Any = ast.parse(text)  # a statement that is not an assignment has no targets
        return {node.targets[0].id: _value(node.value) for node in tree.body}
    except (SyntaxError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f'not a config of plain values: {error}') from error


def _value(node: ast.expr | None) -> Any:
    if node is None:
        raise ValueError('a dict with ** in it')
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) <= 1:
        function = node.func.id
        if function == 'dict':
            values = _value(node.args[0]) if node.args else {}
            return {**values, **{keyword.arg: _value(keyword.value) for keyword in node.keywords}}
        if function in ('set', 'float'):
            return (set if function == 'set' else float)(*map(_value, node.args))
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        container = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return container(_value(item) for item in node.elts)
    return ast.literal_eval(node)
