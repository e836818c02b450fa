"""Going on from released weights: what the recipes load, and heads that are warmed up alone."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from runs import write_noise_images

from mmssl.config.load import load_config
from mmssl.registry import MODELS

timm = pytest.importorskip('timm')
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=96)
SIZES = dict(embed_dim=24, depth=2, num_heads=2, num_classes=0)
ROOT = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = {
    'mae/mae_vit-base-p16-continued_8xb512-amp-coslr-50e_images.py': dict(patch_size=16),
    'dino/dino_vit-small-p16-continued_8xb64-amp-coslr-30e_images.py': dict(patch_size=16),
    'dinov2/dinov2_vit-base-p14-continued_8xb32-amp-coslr-10000i_images.py': dict(
        patch_size=14, init_values=1e-5
    ),
}


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_begin_with_the_released_encoder(name, tmp_path):
    torch.manual_seed(0)
    released = timm.models.vision_transformer.VisionTransformer(img_size=224, **SIZES, **RECIPES[name])
    for parameter in released.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    torch.save(released.state_dict(), tmp_path / 'released.pth')
    cfg = load_config(str(ROOT / name))
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('timm://')
    cfg.model.backbone.update(arch=ARCH, drop_path_rate=0.0)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'released.pth')
    if 'head' in cfg.model and cfg.model.type != 'mmssl.MAE':
        cfg.model.head.update(in_dim=24, out_dim=32, hidden_dim=16, bottleneck_dim=8)
    else:
        cfg.model.neck.update(embed_dim=24, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    model = MODELS.build(cfg.model)
    model.init_weights()
    images = torch.randn(1, 3, 224, 224)
    expected = released.eval().forward_features(images)[:, 1:].transpose(1, 2).flatten(1)
    networks = [model.backbone, *(part for part in [getattr(model, 'evaluated', None)] if part is not None)]
    for network in networks:
        network.eval().out_type = 'featmap'
        options = dict(mask=False) if cfg.model.type == 'mmssl.MAE' else {}
        assert torch.allclose(network(images, **options)[-1].flatten(1), expected, atol=1e-4)
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert 'mmssl.FreezeBackboneHook' in hooks and 'mmssl.NonFiniteHook' in hooks


def config(work_dir, iters):
    cfg = Config.fromfile(ROOT / 'smoke/mae.py')
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir / 'run'),
            custom_hooks=[dict(type='mmssl.FreezeBackboneHook', iters=2), dict(type='mmssl.MethodHook')],
            train_cfg=dict(max_iters=iters),
            launcher='none',
            log_level='ERROR',
            experiment_name=f'{work_dir.name}-{iters}',
        )
    )
    cfg.train_dataloader.update(batch_size=2, num_workers=0)
    cfg.train_dataloader.dataset.update(data_root=str(write_noise_images(work_dir)), data_prefix='train')
    cfg.param_scheduler = []
    return cfg


@pytest.mark.parametrize('iters, moves', [(2, False), (3, True)])
def test_the_backbone_stays_for_the_first_iterations(tmp_path, iters, moves):
    runner = Runner.from_cfg(config(tmp_path, iters))
    runner.model.init_weights()
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner._init_model_weights = lambda: None
    runner.train()
    after = runner.model.state_dict()
    moved = {
        part: any(
            not torch.equal(before[name], after[name])
            for name in before
            if name.startswith(part) and not name.endswith('pos_embed')
        )
        for part in ('backbone', 'neck')
    }
    assert moved == dict(backbone=moves, neck=True)
    states = runner.optim_wrapper.optimizer.state
    steps = {float(states[p]['step']) for p in runner.model.backbone.parameters() if p in states}
    assert steps == ({1.0} if moves else set())
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize('iters', [0, -1, 2.5, True])
def test_a_number_of_iterations_that_is_none_is_refused(iters):
    from mmssl.engine.freeze_hook import FreezeBackboneHook

    with pytest.raises(ValueError, match='must be a whole number, at least 1'):
        FreezeBackboneHook(iters)


def test_an_unknown_part_is_refused(tmp_path):
    cfg = config(tmp_path, 1)
    cfg.custom_hooks[0].part = 'encoder'
    with pytest.raises(ValueError, match="the model has no part 'encoder'"):
        Runner.from_cfg(cfg).train()
