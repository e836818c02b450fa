"""Every config parses, names its source, builds and agrees with its metafile; every smoke config trains."""

import copy
import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine import registry as root
from mmengine.config import Config

from mmssl.config.catalogue import alias_target

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4  # of the ten of every smoke config
FILES = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES if alias_target(path) is None]
ALIASES = [path.relative_to(ROOT).as_posix() for path in FILES if alias_target(path)]
SMOKE = [name for name in NAMES if name.startswith('configs/smoke/')]
FULL = [name for name in NAMES if name not in SMOKE]
# where a dict with a type stands -> the registry that must know it; what the model holds is checked by
# building it
REGISTRIES = {
    'model': root.MODELS,
    'tta_model': root.MODELS,
    'datasets': root.DATASETS,
    'dataset_train': root.DATASETS,
    'dataset_aug': root.DATASETS,
    'data_preprocessor': root.MODELS,
    'pipeline': root.TRANSFORMS,
    'train_pipeline': root.TRANSFORMS,
    'test_pipeline': root.TRANSFORMS,
    'tta_pipeline': root.TRANSFORMS,
    'transforms': root.TRANSFORMS,
    'dataset': root.DATASETS,
    'sampler': root.DATA_SAMPLERS,
    'batch_sampler': root.DATA_SAMPLERS,
    'collate_fn': root.FUNCTIONS,
    'train_cfg': root.LOOPS,
    'val_cfg': root.LOOPS,
    'test_cfg': root.LOOPS,
    'val_evaluator': root.METRICS,
    'test_evaluator': root.METRICS,
    'optim_wrapper': root.OPTIM_WRAPPERS,
    'optimizer': root.OPTIMIZERS,
    'param_scheduler': root.PARAM_SCHEDULERS,
    'custom_hooks': root.HOOKS,
    'visualizer': root.VISUALIZERS,
    'vis_backends': root.VISBACKENDS,
    'strategy': root.STRATEGIES,
    'init_cfg': root.WEIGHT_INITIALIZERS,
}


def read(name):
    return copy.deepcopy(_read(name))


@functools.cache
def _read(name):
    from mmssl.hosts import patches

    patches.apply()
    return Config.fromfile(ROOT / name)


def header(name):
    """The comment that a config begins with, as one line."""
    lines = []
    for line in (ROOT / name).read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.lstrip('# '))
    return ' '.join(lines)


def types(node, where):
    """(place, type) of every dict with a type; the place is the key that it stands under, lists aside."""
    if isinstance(node, dict):
        if 'type' in node:
            yield where, node['type']
        for key, value in node.items():
            yield from types(value, 'hook' if where == 'default_hooks' else key)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from types(item, where)


def metafile_entries(name):
    """Entries of the metafile of a config's method that name the config."""
    path = ROOT / 'configs' / Path(name).parts[1] / 'metafile.yml'
    entries = yaml.safe_load(path.read_text(encoding='utf-8'))['Models']
    return [entry for entry in entries if entry['Config'] == name]


def test_configs_were_found():
    assert (
        'configs/smoke/mae.py' in SMOKE
        and 'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py' in FULL
    )


@pytest.mark.parametrize('name', NAMES)
def test_header_tells_the_story(name):
    text = header(name)
    script = r'(python tools/train\.py|tools/dist_train\.sh|tools/slurm_train\.sh)'
    assert re.search(rf'{script}[^#]*?{re.escape(name)}(\s|$)', text), (
        'the header has no command with this very file'
    )
    if name in FULL:
        assert re.search(r'https://arxiv\.org/abs/\d{4}\.\d{4,5}', text), 'the header names no paper'
        assert 'Expected' in text, 'the header does not say which number to expect'
        whose = (
            'paper',
            'official repository',
            'released code',
            'mmpretrain',
            'no figure',
            'measured here',
            'as mae_',
        )
        assert any(source in text.partition('Expected')[2] for source in whose), (
            'the header does not say whose number it is'
        )


@pytest.mark.parametrize('name', NAMES)
def test_every_type_is_registered(name):
    cfg = read(name)
    assert cfg.default_scope in ('mmpretrain', 'mmdet', 'mmseg'), 'a config keeps the scope of its toolbox'
    unknown = []
    for key, value in cfg.items():
        for where, kind in types(value, key):
            registry = root.HOOKS if where == 'hook' else REGISTRIES.get(where)
            if key == 'model' and where not in ('model', 'init_cfg'):
                continue  # built below
            if where in ('clip_grad', 'nms'):
                continue  # a way of clipping, or of suppressing boxes, not a part
            assert registry is not None, f'{key}: the test knows no registry for {where}=dict(type={kind!r})'
            with registry.switch_scope_and_registry(cfg.default_scope) as scoped:
                if scoped.get(kind) is None:
                    unknown.append((where, kind))
    constructor = cfg.optim_wrapper.get('constructor')
    if constructor:
        with root.OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(cfg.default_scope) as scoped:
            assert scoped.get(constructor) is not None
    assert not unknown


def build(cfg):
    """The model of a config, without memory for its weights where its parts allow that."""
    settings = {'data_preprocessor': cfg.get('data_preprocessor'), **cfg.model}
    try:
        with torch.device('meta'):
            return root.MODELS.build(settings)
    except RuntimeError as error:
        if 'meta tensors' not in str(error):
            raise
        return root.MODELS.build(settings)  # mmpretrain's ResNet reads its drop path rates out of a tensor


def count_parameters(cfg):
    """Number of parameters of a config's model, which is built once for all configs with the same one."""
    settings = repr([cfg.default_scope, cfg.get('data_preprocessor'), cfg.model])
    if settings not in _counts:
        _counts[settings] = sum(parameter.numel() for parameter in build(cfg).parameters())
    return _counts[settings]


_counts: dict[str, int] = {}


@pytest.mark.parametrize('name', FULL)
def test_builds_and_agrees_with_its_metafile(name):
    from mmengine.registry import init_default_scope

    cfg = read(name)
    init_default_scope(cfg.default_scope)
    (entry,) = metafile_entries(name)
    facts = entry['Metadata']
    assert entry['Name'].endswith(Path(name).stem)
    assert facts['Parameters'] == count_parameters(cfg)
    unit, length = (
        ('Epochs', cfg.train_cfg.max_epochs)
        if 'max_epochs' in cfg.train_cfg
        else ('Iterations', cfg.train_cfg.max_iters)
    )
    assert facts[unit] == length
    gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)', Path(name).stem).groups())
    assert batch == cfg.train_dataloader.batch_size
    assert facts['Batch Size'] == gpus * batch == cfg.auto_scale_lr.base_batch_size
    schedulers = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    assert max(scheduler.get('end', 0) for scheduler in schedulers) == length
    (in_name,) = re.findall(rf'-(\d+){unit[0].lower()}_', Path(name).stem)
    assert int(in_name) == length


@pytest.mark.parametrize('name', ALIASES)
def test_an_alias_is_its_config(name):
    """Names of version 0.1; the resolved configs are the same, not only their models."""
    target = alias_target(ROOT / name).relative_to(ROOT).as_posix()
    assert target in FULL
    assert read(name)._cfg_dict.to_dict() == read(target)._cfg_dict.to_dict()


def test_short_names_of_the_first_version_stay():
    assert {'configs/mae/mae_vit-b_8xb512.py', 'configs/moco/moco-v2_resnet50_8xb32-coslr-200e_in1k.py'} <= {
        *ALIASES
    }


def test_metafiles_name_configs_that_exist():
    metafiles = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('metafile.yml'))
    for metafile in metafiles:
        content = yaml.safe_load((ROOT / metafile).read_text(encoding='utf-8'))
        collections = {collection['Name'] for collection in content['Collections']}
        names = [entry['Name'] for entry in content['Models']]
        assert len(set(names)) == len(names)
        for entry in content['Models']:
            assert entry['Config'] in FULL and entry['In Collection'] in collections


@pytest.mark.parametrize('name', SMOKE)
def test_smoke_config_trains(name, warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    short = ['--cfg-options', f'train_cfg.max_iters={STEPS}']
    done = warm_cli('train', ROOT / name, '--work-dir', tmp_path / 'run', *short, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines() if '"loss"' in line]
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    checkpoint = torch.load(
        tmp_path / 'run' / (tmp_path / 'run/last_checkpoint').read_text(), weights_only=True
    )
    assert checkpoint['meta']['iter'] == STEPS
    assert all(
        bool(torch.isfinite(value).all())
        for value in checkpoint['state_dict'].values()
        if value.is_floating_point()
    )
