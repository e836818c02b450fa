"""The structure of the package: what imports what, how long files are, where fast forms are chosen."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from sources import PACKAGE, imports, modules, tree

# from the ground up; a folder imports from its own floor or from floors below it
FLOORS = (
    {'errors', 'hints', 'registry', 'hosts', 'config', 'checkpoint', 'convert', 'weights'},
    {'ops'},
    {'layers', 'losses', 'mmcv_ext'},
    {'selfsup', 'detection', 'segmentation', 'promptable'},
    {'data', 'evaluation', 'engine', 'visualization'},
    {'apis'},
    {'demo_page'},
    {'commands'},
    {'cli'},
)
SYSTEMS = FLOORS[3]
LONGEST_FILE = 350
# what only the switch, the precision, the fast forms, and what sets up runs or picks a device may ask about
RUN_CONDITIONS = frozenset({'is_compiling', 'is_tracing', 'is_grad_enabled', 'is_autocast_enabled'})
MAY_ASK = (
    'ops/switch.py',
    'ops/precision.py',
    'ops/fast/',
    'promptable/fast/',
    'evaluation/fast_',
    'hosts/',
    'engine/',
    'apis/',
)


def folder(module):
    """The part of the package that a module belongs to: ``mmssl.ops.nms`` -> ``ops``.

    The replacement of mmcv's operators, which the import system loads by name, stands on top of ``ops``.
    """
    return 'mmcv_ext' if module.startswith('mmssl.hosts.mmcv_ext') else module.split('.')[1]


def is_fast(module):
    return '.fast.' in f'{module}.' or module.rpartition('.')[2].startswith('fast_')


def arrows():
    return [(name, target) for name in modules() if name != 'mmssl' for target in sorted(imports(name))]


def circle(graph):
    """The nodes of a circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_part_of_the_package_has_a_floor():
    assert {folder(name) for name in modules() if name != 'mmssl'} == set().union(*FLOORS)


def test_the_imports_of_a_module_are_read(tmp_path):
    assert 'mmssl.registry' in imports('mmssl.selfsup.mae')
    assert circle({'a': {'b'}, 'b': {'a'}}) and circle({'a': {'b'}, 'b': set()}) is None


def test_no_circle_between_modules():
    assert circle({name: imports(name) for name in modules()}) is None


def test_no_circle_between_folders():
    graph = {}
    for name, target in arrows():
        if folder(name) != folder(target):
            graph.setdefault(folder(name), set()).add(folder(target))
    assert circle(graph) is None


def test_no_import_runs_up():
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    up = [f'{name} -> {target}' for name, target in arrows() if floor[folder(target)] > floor[folder(name)]]
    assert not up, '\n'.join(up)


def test_systems_do_not_import_each_other():
    across = [
        f'{name} -> {target}'
        for name, target in arrows()
        if {folder(name), folder(target)} <= SYSTEMS and folder(name) != folder(target)
    ]
    assert not across, '\n'.join(across)


def test_plain_files_import_no_fast_form():
    offenders = [
        f'{name} -> {target}'
        for name, target in arrows()
        if is_fast(target) and not is_fast(name) and folder(name) != 'cli'  # which sets up the process
    ]
    assert not offenders, '\n'.join(offenders)


def asks(node):
    """Whether an expression asks how the program is being run."""
    if isinstance(node, ast.Compare):  # not torch.autocast(x.device.type)
        operands = [ast.unparse(operand) for operand in (node.left, *node.comparators)]
        return any(f'.{operand}'.endswith('.device.type') for operand in operands)
    return (
        isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node).rpartition('.')[2] in RUN_CONDITIONS
    )


@pytest.mark.parametrize(
    ('code', 'expected'),
    [
        ("x.device.type == 'cpu'", True),
        ("'cuda' != device.type", True),
        ('torch.is_grad_enabled()', True),
        ('torch.jit.is_tracing()', True),
        ('torch.autocast(x.device.type)', False),
        ("cfg.type == 'MAE'", False),
    ],
)
def test_questions_about_the_run_are_recognised(code, expected):
    assert any(asks(node) for node in ast.walk(ast.parse(code))) is expected


def test_only_the_switch_asks_how_the_program_is_run():
    offenders = [
        f'{path.relative_to(PACKAGE.parent)}:{node.lineno}: {ast.unparse(node)}'
        for path in modules().values()
        if not path.relative_to(PACKAGE).as_posix().startswith(MAY_ASK)
        for node in ast.walk(tree(path))
        if asks(node)
    ]
    assert not offenders, '\n'.join(offenders)


def test_no_file_is_longer_than_a_sitting():
    lengths = {
        path.relative_to(PACKAGE.parent).as_posix(): len(path.read_text(encoding='utf-8').splitlines())
        for path in modules().values()
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
