"""``get_model`` and ``list_models``."""

import subprocess
import sys

import pytest
import torch

from mmssl.apis import get_model, list_models
from mmssl.apis.models import Entry, find_entry, find_weights
from mmssl.checkpoint import save_file
from mmssl.config.catalogue import alias_target

SMALL = dict(backbone=dict(arch=dict(num_layers=1, num_heads=2)))


def test_the_import_is_light(repo_root):
    code = (
        'import sys, mmssl.apis as apis; assert "get_model" in dir(apis); '
        'print(*{"torch", "mmengine", "numpy"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=repo_root)
    assert (done.returncode, done.stdout.strip()) == (0, ''), done.stderr


def test_a_wrong_attribute_names_the_nearest():
    import mmssl.apis

    with pytest.raises(AttributeError, match="mmssl.apis has no 'get_models'; did you mean 'get_model'"):
        getattr(mmssl.apis, 'get_' + 'models')


def test_names_are_unique_and_all_configs_have_one(repo_root):
    names = list_models()
    configs = [
        path
        for path in (repo_root / 'configs').rglob('*.py')
        if '_base_' not in path.parts and alias_target(path) is None
    ]
    assert len(set(names)) == len(names) == len(configs)
    assert names == sorted(names)


def test_systems_and_patterns():
    parts = {
        system: set(list_models(system=system))
        for system in ('selfsup', 'detection', 'segmentation', 'promptable')
    }
    assert set().union(*parts.values()) == set(list_models()) and sum(map(len, parts.values())) == len(
        list_models()
    )
    assert {'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', 'smoke/mae'} <= parts['selfsup']
    assert 'smoke/sam' in parts['promptable']
    assert (
        'gcn_resnet50_4xb4-40000i_voc12aug-512x512' in parts['segmentation']
        and 'smoke/rfcn' in parts['detection']
    )
    assert list_models('MAE_vit-*-p1?_8xb512-amp-*-300e_in1k') == [
        'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
        'mae_vit-huge-p14_8xb512-amp-coslr-300e_in1k',
        'mae_vit-large-p16_8xb512-amp-coslr-300e_in1k',
    ]
    assert list_models('smoke/gcn') == ['smoke/gcn'] and list_models('no such') == []
    with pytest.raises(ValueError, match="system 'detecton' is none of .*; did you mean 'detection'"):
        list_models(system='detecton')


@pytest.mark.parametrize(
    'name',
    [
        'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
        'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
        'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
        'mmssl::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
        'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
    ],
)
def test_spellings_of_a_name(name, repo_root):
    entry = find_entry(name)
    assert (
        entry.name == 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k'
        and entry.path.resolve() == repo_root / 'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
    )


def test_the_name_of_a_file_serves_where_the_metafile_has_another():
    assert find_entry('vit-huge-p14_8xb128-coslr-50e_in1k').name == 'mae_vit-huge-p14_8xb128-coslr-50e_in1k'


@pytest.mark.parametrize(
    'name', ['mae_vit-b_8xb512', 'mae/mae_vit-b_8xb512', 'configs/mae/mae_vit-b_8xb512.py']
)
def test_an_alias_is_its_config_and_is_not_listed(name):
    assert find_entry(name).name == 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k'
    assert 'mae_vit-b_8xb512' not in list_models()


def test_wrong_names():
    nearest = "did you mean 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k'"
    with pytest.raises(ValueError, match=f"no model 'mae_vit-base_8xb512-amp-coslr-300e_in1k'; {nearest}"):
        find_entry('mae_vit-base_8xb512-amp-coslr-300e_in1k')
    with pytest.raises(
        ValueError, match='the name of several configs; give one of infomax_resnet50.*, moco_resnet50'
    ):
        find_entry('resnet50_8xb32-linear-steplr-100e_in1k')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        find_entry('/nowhere/config.py')
    with pytest.raises(TypeError, match='a config of type int'):
        get_model(3)


def test_model_of_a_name_with_settings():
    model = get_model('smoke/mae', **SMALL)
    assert not model.training and len(model.backbone.layers) == 1
    assert model.cfg.model.backbone.arch.num_heads == 2
    from mmengine.registry import DefaultScope

    assert DefaultScope.get_current_instance() is None  # nothing is left behind


def test_settings_that_do_not_fit():
    with pytest.raises(TypeError, match="has no argument 'drop_path'; did you mean"):
        get_model('smoke/mae', backbone=dict(drop_path=0.1))


def test_weights_of_the_model_and_of_the_backbone(tmp_path):
    first = get_model('smoke/mae')
    first.backbone.cls_token.data.fill_(0.25)
    save_file({'state_dict': first.state_dict(), 'meta': {}}, tmp_path / 'whole.pth')
    save_file(first.backbone.state_dict(), tmp_path / 'encoder.pth')
    for name in ('whole.pth', 'encoder.pth'):
        model = get_model('smoke/mae', pretrained=tmp_path / name, device='cpu')
        for key, value in first.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[key], value), (name, key)
    model = get_model(model.cfg, pretrained=str(tmp_path / 'whole.pth'))  # a Config is as good as a name
    assert torch.equal(model.backbone.cls_token, first.backbone.cls_token)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(
        ValueError,
        match='no weights are published for mae_vit-base-p16_8xb512-amp-coslr-300e_in1k: train it .* give '
        'the file',
    ):
        get_model('mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', pretrained=True)
    with pytest.raises(FileNotFoundError, match='nothing.pth does not exist'):
        get_model('smoke/mae', pretrained=tmp_path / 'nothing.pth')
    save_file({'something.else': torch.zeros(2)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError):
        get_model('smoke/mae', pretrained=tmp_path / 'other.pth')


def test_published_weights_are_fetched_once(tmp_path, monkeypatch):
    published = tmp_path / 'published.pth'
    save_file({'w': torch.ones(1)}, published)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    entry = Entry('x', published, 'selfsup', published.as_uri())
    path = find_weights(True, entry)
    published.unlink()
    assert find_weights(True, entry) == path and torch.load(path)['w'] == 1
