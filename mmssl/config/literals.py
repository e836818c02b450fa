"""Values of a config in text form, which is read and never run."""

import ast
from typing import Any


def literals(text: str) -> dict[str, Any]:
    """Return the assignments of a config in text form: only values and ``dict(...)``.

    Raises:
        SyntaxError: It is no Python.
    """
    content = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                content[node.targets[0].id] = _value(node.value)
            except ValueError:  # an object that text does not hold; not part of a backbone
                continue
    return content


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.List):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(each) for each in node.elts)
    return ast.literal_eval(node)
