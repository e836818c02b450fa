"""mmengine as patched: configs of other packages, and checkpoints however they are read."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner import checkpoint as host
from mmengine.runner import load_checkpoint
from torch import nn

import mmssl.registry  # noqa: F401
from mmssl.checkpoint import UnsafeCheckpointError
from mmssl.hosts import distributions, patches


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f'touch {self.canary}',)


class Backbone(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Linear(2, 3)
        self.modules1 = nn.Linear(1, 1)


def save(path, model, prefix=''):
    torch.save({'state_dict': {prefix + key: value for key, value in model.state_dict().items()}}, path)
    return str(path)


def with_head(path, model):
    weights = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save({'state_dict': {**weights, 'head.fc.weight': torch.zeros(2, 2)}}, path)
    return str(path)


@pytest.mark.parametrize(
    'host_name,base',
    [
        ('mmseg', 'fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
        ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py'),
        ('mmpretrain', 'resnet/resnet18_8xb32_in1k.py'),
    ],
)
def test_configs_of_hosts_are_inherited(tmp_path, host_name, base, monkeypatch):
    pytest.importorskip(host_name)
    monkeypatch.setattr(subprocess, 'check_call', lambda *args, **kwargs: pytest.fail(f'ran {args}'))
    (tmp_path / 'c.py').write_text(f"_base_ = '{host_name}::{base}'")
    assert Config.fromfile(tmp_path / 'c.py').model._scope_ == host_name


def test_our_configs_are_inherited_in_their_hosts_scope(tmp_path):
    (tmp_path / 'c.py').write_text("_base_ = 'mmssl::smoke/mae.py'")
    config = Config.fromfile(tmp_path / 'c.py')
    assert config.default_scope == 'mmpretrain' and '_scope_' not in config.model


@pytest.mark.parametrize(
    'load',
    [host._load_checkpoint, lambda path: load_checkpoint(nn.Linear(1, 1), path), host._safe_torch_load],
)
def test_every_road_is_safe(tmp_path, load):
    torch.save({'state_dict': Evil(tmp_path / 'canary')}, tmp_path / 'x.pth')
    with pytest.raises(UnsafeCheckpointError):
        load(str(tmp_path / 'x.pth'))
    assert not (tmp_path / 'canary').exists()


def test_downloads_are_safe(tmp_path, monkeypatch):
    (tmp_path / 'checkpoints').mkdir()
    torch.save({'a': Evil(tmp_path / 'canary')}, tmp_path / 'checkpoints' / 'x.pth')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(UnsafeCheckpointError, match=r'x\.pth holds posix\.system'):
        load_checkpoint(nn.Linear(1, 1), 'https://example.org/x.pth')
    assert not (tmp_path / 'canary').exists()


def test_hosts_save_atomically(tmp_path, monkeypatch):
    from mmengine.runner import save_checkpoint

    save_checkpoint({'a': 1}, str(tmp_path / 'x.pth'))

    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='x.pth: No space left'):
        save_checkpoint({'a': 2}, str(tmp_path / 'x.pth'))
    assert host._load_checkpoint(str(tmp_path / 'x.pth')) == {'a': 1} and os.listdir(tmp_path) == ['x.pth']


def test_pretrained_with_prefix(tmp_path, capsys):
    source = Backbone()
    path = save(tmp_path / 'x.pth', source, 'backbone.')
    model = Backbone(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    model.init_weights()
    assert torch.equal(model.stem.weight, source.stem.weight)
    bare = Backbone(init_cfg=dict(type='Pretrained', checkpoint=path))
    bare.init_weights()  # the file is nothing but a backbone
    assert torch.equal(bare.stem.weight, source.stem.weight)
    whole = with_head(tmp_path / 'whole.pth', source)
    with pytest.raises(ValueError, match="prefix='backbone.'"):
        Backbone(init_cfg=dict(type='Pretrained', checkpoint=whole)).init_weights()
    with pytest.raises(ValueError, match="no key under prefix='neck.'"):
        Backbone(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='neck')).init_weights()
    save(tmp_path / 'y.pth', source.stem, 'stem.')
    MMLogger.get_instance('pretrained')  # the one that 'current' means
    Backbone(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'y.pth'))).init_weights()
    printed = ''.join(capsys.readouterr())
    assert '2 of the 4 entries' in printed and 'modules1.weight' in printed


@pytest.mark.parametrize(
    'name,cfg',
    [
        ('mmpretrain', dict(type='ResNet', depth=18)),
        ('mmseg', dict(type='ResNet', depth=18)),
        ('mmdet', dict(type='ResNet', depth=18)),
    ],
)
def test_pretrained_backbone_in_every_host(name, cfg, tmp_path):
    pytest.importorskip(f'{name}.models', exc_type=ImportError)
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(name)
    source = MODELS.build(cfg)
    path = save(tmp_path / 'x.pth', source, 'backbone.')
    model = MODELS.build(dict(cfg, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.')))
    model.init_weights()
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    whole = with_head(tmp_path / 'whole.pth', source)
    with pytest.raises(ValueError, match="prefix='backbone.'"):
        MODELS.build(dict(cfg, init_cfg=dict(type='Pretrained', checkpoint=whole))).init_weights()


def test_runners_pattern_takes_modules_for_what_it_is():
    """The runners pass '^module.' with a bare dot, which takes 'modules' off 'modules1.weight'."""
    source, model = Backbone(), Backbone()
    host._load_checkpoint_to_model(
        model, {'state_dict': source.state_dict()}, strict=True, revise_keys=[(r'^module.', '')]
    )
    assert torch.equal(model.modules1.weight, source.modules1.weight)


def test_patch_twice_changes_nothing():
    before = host.load_state_dict
    patches.apply()
    assert host.load_state_dict is before


def test_names_of_the_old_module_work():
    with pytest.warns(DeprecationWarning, match='mmssl.hosts.patches'):
        from mmssl import compat
    compat.patch()
    assert callable(compat.has_ops) and callable(compat.stand_in_for_ops)


def test_missing_mmengine_names_the_command(monkeypatch):
    monkeypatch.setattr(patches.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mmssl\[onedl\]'"):
        patches.apply()


def test_versions():
    assert distributions.flavour() in ('onedl', 'upstream', 'mixed')
    assert distributions.version('mmengine')[0].isdigit() and distributions.version('not_a_package') is None
    assert distributions.distribution_of('mmengine') in distributions.DISTRIBUTIONS['mmengine']


BEFORE = """
import importlib, sys
import mmengine.runner.checkpoint as checkpoint, mmengine.utils.dl_utils.hub
if importlib.util.find_spec('mmpretrain') is not None:  # no multimodal model imports beside transformers 5
    importlib.import_module('mmpretrain.utils.dependency').WITH_MULTIMODAL = False
for toolbox in ('mmdet', 'mmseg', 'mmpretrain'):
    if importlib.util.find_spec(toolbox) is not None:
        importlib.import_module(f'{toolbox}.models')
        importlib.import_module(f'{toolbox}.apis')
names = ('_safe_torch_load', 'load_url', 'save_checkpoint', 'load_state_dict', '_load_checkpoint_with_prefix',
         '_load_checkpoint_to_model', 'find_latest_checkpoint')
originals = {name: getattr(checkpoint, name, None) for name in names}
import mmssl.registry
for name, original in originals.items():
    if original is not None:
        changed = getattr(checkpoint, name) is not original
        left = [module.__name__ for module in list(sys.modules.values())
                if module and module.__name__.startswith('mm') and vars(module).get(name) is original]
        print(name, changed, left)
"""


def test_modules_imported_before_are_patched_too():
    """No module of a toolbox is left with an original, although only named modules are changed."""
    done = subprocess.run(
        [sys.executable, '-c', BEFORE],
        capture_output=True,
        text=True,
        env={**os.environ, 'MMSSL_NO_PATCH': ''},
    )
    lines = [line for line in done.stdout.splitlines() if ' True ' in line or ' False ' in line]
    assert len(lines) >= 6, done.stderr[-2000:]
    assert all(line.endswith(' True []') for line in lines), done.stdout


def test_without_patches_the_toolboxes_are_as_installed():
    code = (
        'import sys, mmengine.runner.checkpoint as checkpoint; before = dict(vars(checkpoint)); '
        'import mmssl.registry; from mmssl.hosts.ops_import import _FINDER; '
        'print(before == dict(vars(checkpoint)), _FINDER in sys.meta_path)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'MMSSL_NO_PATCH': '1'},
    )
    assert done.stdout.endswith('True False\n'), done.stderr[-2000:]


def test_every_patch_says_why_and_until_when():
    names = [patch.name for patch in patches.PATCHES]
    assert len(names) == len(set(names)) > 10
    for patch in patches.PATCHES:
        assert patch.versions.startswith(('mm', 'torch'))
        assert patch.reason and patch.until and patch.function.__doc__


def test_import_is_light():
    code = 'import sys, mmssl, mmssl.hosts.patches; print("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'False\n'


@pytest.mark.parametrize('installed, keeps', [('4.57.1', True), ('5.24.0', False)])
def test_multimodal_models_are_left_out_beside_a_version_of_transformers_without_their_names(
    installed, keeps, monkeypatch
):
    dependency = pytest.importorskip('mmpretrain.utils.dependency')
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    monkeypatch.setattr(patches, 'version', lambda name: '1.3.6')
    monkeypatch.setattr(patches.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(patches.importlib.metadata, 'version', lambda name: installed)
    patches.leave_out_multimodal_models()
    assert dependency.WITH_MULTIMODAL is keeps
