"""A method is two files and a metafile entry: nothing else in the package names it, everything finds it."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = '''
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import RESNET, Small


@MODELS.register_module()
class TwoFileMethod(SelfSupervisor):
    """Two views with equal projections; two views (B, 3, H, W) to a scalar."""

    def loss(self, inputs, data_samples=None):
        first, second = (self.neck(self.backbone(view)) for view in self.views(inputs, 2))
        return dict(loss=(first - second).square().mean())


SMALL = {'TwoFileMethod': Small(dict(backbone=RESNET, neck=dict(type='mmssl.MLP', dims=(64, 8, 4))))}
'''
CONFIG = """
_base_ = '../smoke/simclr.py'
model = dict(type='mmssl.TwoFileMethod', neck=dict(dims=(128, 8, 4)))
"""
METAFILE = """
Collections:
  - Name: Two files
    Paper: {Title: A method in two files, URL: 'https://arxiv.org/abs/0000.00000'}
Models:
  - Name: two-file-method_resnet18
    In Collection: Two files
    Metadata: {Parameters: 1234567}
    Config: configs/two-file-method/two-file-method_resnet18.py
"""


@pytest.mark.parametrize('method', ['SimCLR', 'BYOL'])
def test_nothing_else_in_the_package_names_the_method(method):
    own = ROOT / f'mmssl/selfsup/{method.lower()}.py'
    named = []
    for path in sorted((ROOT / 'mmssl').rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        code = re.sub(r'"""[\s\S]*?"""|#[^\n]*', '', text)  # prose may name the paper
        if path != own and re.search(rf'selfsup\.{method.lower()}\b|\b{method}\b', code):
            named.append(path.relative_to(ROOT).as_posix())
    assert named == []


# all in one process, which has to import the libraries once
PROGRAM = """
import contextlib, io, json, sys

import torch

import mmssl.selfsup
from mmssl.cli import main
from mmssl.registry import MODELS
from mmssl.selfsup import TwoFileMethod
from mmssl.selfsup.two_file_method import SMALL

model = MODELS.build(dict(SMALL['TwoFileMethod'].settings, type='mmssl.TwoFileMethod'))
facts = dict(
    file=mmssl.__file__,
    exported='TwoFileMethod' in mmssl.selfsup.__all__,
    loss=SMALL['TwoFileMethod'].run(model, torch.randn(2, 3, 32, 32)).item(),
)
for name, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = main(arguments)
    facts[name] = [code, output.getvalue()]
with open('facts.json', 'w') as file:
    json.dump(facts, file)
"""
COMMANDS = dict(
    model=['list', 'two*file*'],
    type=['list', 'TwoFileMethod'],
    train=['train', 'configs/two-file-method/two-file-method_resnet18.py', '--work-dir', 'run'],
)


@pytest.fixture(scope='module')
def tree(tmp_path_factory, with_demo):
    """A copy of the package and its configs with a method of two files and a metafile."""
    root = tmp_path_factory.mktemp('tree')
    subprocess.run(['cp', '-r', ROOT / 'mmssl', ROOT / 'configs', root], check=True)
    (root / 'mmssl/selfsup/two_file_method.py').write_text(METHOD)
    folder = root / 'configs/two-file-method'
    folder.mkdir()
    (folder / 'two-file-method_resnet18.py').write_text(CONFIG)
    (folder / 'metafile.yml').write_text(METAFILE)
    return with_demo(root)


@pytest.fixture(scope='module')
def facts(tree, warm_cli):
    """What a process finds in the copy: it imports the package from the folder of its program."""
    (tree / 'program.py').write_text(PROGRAM)
    done = warm_cli(json.dumps(COMMANDS), program=tree / 'program.py', cwd=tree)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((tree / 'facts.json').read_text())
    assert Path(facts['file']).is_relative_to(tree)
    return facts


def test_the_registry_and_the_package_have_it(facts):
    assert facts['exported'] and facts['loss'] > 0


def test_the_list_has_its_config_and_its_class(facts):
    code, listed = facts['model']
    assert code == 0 and re.search(
        r'Two files \[mmpretrain\]: A method in two.*\n'
        r' +two-file-method/two-file-method_resnet18\.py +1\.23 M',
        listed,
    )
    code, listed = facts['type']
    assert code == 0 and re.search(r'mmssl\.TwoFileMethod +MODELS +Two views with equal projections', listed)


def test_it_trains(facts, tree):
    assert facts['train'][0] == 0
    (log,) = (tree / 'run').glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines() if '"loss"' in line]
    assert len(losses) == 10 and all(loss > 0 for loss in losses)
