"""A method is two files and a metafile entry: nothing else in the package names it, everything finds it."""

import json
import re
import subprocess
import sys
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


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the package and its configs with a method of two files and a metafile."""
    root = tmp_path_factory.mktemp('tree')
    subprocess.run(['cp', '-r', ROOT / 'mmssl', ROOT / 'configs', root], check=True)
    (root / 'mmssl/selfsup/two_file_method.py').write_text(METHOD)
    folder = root / 'configs/two-file-method'
    folder.mkdir()
    (folder / 'two-file-method_resnet18.py').write_text(CONFIG)
    (folder / 'metafile.yml').write_text(METAFILE)
    return root


def run(tree, *command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=tree,
        env={'PYTHONPATH': str(tree), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1'},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_registry_and_the_package_have_it(tree):
    code = (
        'from mmssl.selfsup import TwoFileMethod\n'
        'import mmssl.selfsup, torch\n'
        'from mmssl.registry import MODELS\n'
        'from mmssl.selfsup.two_file_method import SMALL\n'
        'assert "TwoFileMethod" in mmssl.selfsup.__all__\n'
        'model = MODELS.build(dict(SMALL["TwoFileMethod"].settings, type="mmssl.TwoFileMethod"))\n'
        'print(SMALL["TwoFileMethod"].run(model, torch.randn(2, 3, 32, 32)).item() > 0)\n'
    )
    assert run(tree, '-c', code).strip().endswith('True')


def test_the_list_has_its_config_and_its_class(tree):
    listed = run(tree, '-m', 'mmssl.cli', 'list', 'two*file*')
    assert re.search(
        r'Two files \[mmpretrain\]: A method in two.*\n'
        r' +two-file-method/two-file-method_resnet18\.py +1\.23 M',
        listed,
    )
    listed = run(tree, '-m', 'mmssl.cli', 'list', 'TwoFileMethod')
    assert re.search(r'mmssl\.TwoFileMethod +MODELS +Two views with equal projections', listed)


def test_it_trains(tree, demo_data):
    (tree / 'data').mkdir()
    (tree / 'data/demo').symlink_to(demo_data, target_is_directory=True)
    config = 'configs/two-file-method/two-file-method_resnet18.py'
    run(tree, '-m', 'mmssl.cli', 'train', config, '--work-dir', 'run')
    (log,) = (tree / 'run').glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines() if '"loss"' in line]
    assert len(losses) == 10 and all(loss > 0 for loss in losses)
