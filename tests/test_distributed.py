"""Two processes of tools/dist_train.sh and ``mmssl test`` against one process and the formula."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.slow

# records the inputs, losses and gradients of every rank beside the run's own files
PROBE = """
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Probe(Hook):
    def before_train(self, runner):
        self.model = runner.model.module
        start = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.record = dict(start=start, files=[], losses={})
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.keep_gradients)

    def keep_gradients(self, *_):
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        gradients = {name: value.clone() for name, value in gradients.items() if value is not None}
        self.record.setdefault('gradients', gradients)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.record.setdefault('rng', torch.get_rng_state())
        self.record.setdefault('inputs', data_batch['inputs'])
        self.record['files'].append([sample.img_path for sample in data_batch['data_samples']])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.record['losses'][runner.iter + 1] = float(outputs['loss'])

    def after_train(self, runner):
        self.record['end'] = {key: value.clone() for key, value in self.model.state_dict().items()}
        torch.save(self.record, Path(runner.work_dir) / f'rank{get_rank()}.pt')
"""
CONFIG = """
_base_ = '{root}/configs/smoke/mae.py'
custom_imports = dict(imports=['rank_probe'])
custom_hooks = [dict(type='Probe')]
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
"""
CLASSIFIER = """
_base_ = '{root}/configs/mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
        init_cfg=None),
    head=dict(num_classes=10, in_channels=16, topk=(1, 5)))
data_preprocessor = dict(num_classes=10)
test_pipeline = [dict(type='mmssl.LoadCenterCrop', scale=32, ratio=1.0), dict(type='PackInputs')]
test_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
"""


def free_port():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def launch(root, script, *arguments, cwd):
    """Run a launcher of tools/ as a person would; returns the CompletedProcess."""
    env = {
        **os.environ,
        'PYTHON': sys.executable,
        'PORT': free_port(),
        'PYTHONPATH': f'{root}{os.pathsep}{cwd}',
        'OMP_NUM_THREADS': '1',
    }
    command = [str(root / 'tools' / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope='module')
def folder(tmp_path_factory, repo_root):
    """A folder with only two configs: the first rank makes the demo data while the second waits."""
    folder = tmp_path_factory.mktemp('two ranks')
    (folder / 'rank_probe.py').write_text(PROBE)
    (folder / 'pretrain.py').write_text(CONFIG.format(root=repo_root))
    (folder / 'classify.py').write_text(CLASSIFIER.format(root=repo_root))
    return folder


@pytest.fixture(scope='module')
def straight(repo_root, folder):
    """Ten iterations on two ranks: the folder of the run, and what each rank saw."""
    launch(repo_root, 'dist_train.sh', 'pretrain.py', 2, '--work-dir', 'straight', cwd=folder)
    return folder / 'straight', [
        torch.load(folder / f'straight/rank{rank}.pt', weights_only=True) for rank in (0, 1)
    ]


def test_ranks_share_the_weights_and_not_the_images(straight):
    _, (first, second) = straight
    assert len(first['files']) == len(second['files']) == 10
    for of_first, of_second in zip(first['files'], second['files'], strict=True):
        assert len(of_first) == len(of_second) == 8
        assert not set(of_first) & set(of_second)
    assert not torch.equal(first['rng'], second['rng'])  # masks are drawn by each rank for itself
    for moment in ('start', 'end'):
        assert first[moment].keys() == second[moment].keys()
        for key, value in first[moment].items():
            assert torch.equal(value, second[moment][key]), (moment, key)
    assert any(not torch.equal(value, first['end'][key]) for key, value in first['start'].items())


def build_smoke_model(root):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmssl.registry import MODELS, build

    cfg = Config.fromfile(root / 'configs/smoke/mae.py')
    init_default_scope('mmpretrain')
    return build({'data_preprocessor': cfg.data_preprocessor, **cfg.model}, MODELS)


def test_the_gradient_is_that_of_one_process_with_the_whole_batch(repo_root, straight):
    _, ranks = straight
    model = build_smoke_model(repo_root)
    model.load_state_dict(ranks[0]['start'])
    noise = []
    for rank in ranks:
        torch.set_rng_state(rank['rng'])
        noise.append(torch.rand(8, 36))
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    inputs = (torch.cat([rank['inputs'] for rank in ranks]).flip(1).float() - mean) / std  # stored as BGR
    assert inputs.shape == (16, 3, 48, 48)
    loss = model.loss(inputs, noise=torch.cat(noise))['loss']
    loss.backward()
    # every image has as many masked patches, so the mean over 16 images is the mean of two means over 8
    assert loss.item() == pytest.approx((ranks[0]['losses'][1] + ranks[1]['losses'][1]) / 2, abs=1e-6)
    expected = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    for rank in ranks:
        assert rank['gradients'].keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(rank['gradients'][name], gradient, atol=1e-6, rtol=1e-4), name


def test_the_checkpoint_is_that_of_the_bare_model(repo_root, straight):
    from mmssl.checkpoint import load_weights

    work_dir, ranks = straight
    assert (work_dir / 'last_checkpoint').read_text() == 'iter_10.pth'
    model = build_smoke_model(repo_root)
    assert load_weights(model, work_dir / 'iter_10.pth').complete
    for key, value in model.state_dict().items():
        assert torch.equal(value, ranks[1]['end'][key]), key


def test_resume_on_two_ranks_is_exact(warm_cli, folder, straight):
    work_dir, ranks = straight
    done = warm_cli(
        'train',
        'pretrain.py',
        '--work-dir',
        'resumed',
        '--resume',
        work_dir / 'iter_5.pth',
        cwd=folder,
        ranks=2,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for number, rank in enumerate(ranks):
        resumed = torch.load(folder / f'resumed/rank{number}.pt', weights_only=True)
        assert resumed['losses'] == {
            step: loss for step, loss in rank['losses'].items() if step > 5
        }  # bit for bit
        assert len(resumed['losses']) == 5
        assert resumed['files'] == rank['files'][5:]
        for key, value in rank['end'].items():
            assert torch.equal(value, resumed['end'][key]), key


def metrics(work_dir):
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if key.startswith('accuracy')}


def test_two_ranks_test_as_one(folder, straight, warm_cli):
    """37 images on two ranks: one of them is padded, and must not count twice."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    torch.manual_seed(3)
    cfg = Config.fromfile(folder / 'classify.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():  # large weights: predictions that differ from image to image
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(model.state_dict(), folder / 'classifier.pth')
    files = sorted((folder / 'data/demo/imagenet/val').glob('*/*.jpg'))
    for path in files[:: max(1, len(files) // 37)][:37]:
        target = folder / 'odd/val' / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    arguments = ['classify.py', 'classifier.pth']
    options = ['--data', 'odd', '--out']
    for name, ranks in (('two', 2), ('one', 1)):
        done = warm_cli(
            'test', *arguments, *options, f'{name}.pkl', '--work-dir', name, cwd=folder, ranks=ranks
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = metrics(folder / 'one'), metrics(folder / 'two')
    assert one == two and set(one) == {'accuracy/top1', 'accuracy/top5'}
    assert 0 < one['accuracy/top5'] < 100
    predictions = []
    for name in ('one.pkl', 'two.pkl'):
        with open(folder / name, 'rb') as file:
            predictions.append(pickle.load(file))
    assert len(predictions[0]) == len(predictions[1]) == 37
    assert len({int(sample['pred_label']) for sample in predictions[0]}) > 1
    for sample, other in zip(*predictions, strict=True):
        assert sample['img_path'] == other['img_path']
        torch.testing.assert_close(sample['pred_score'], other['pred_score'])
