"""One package with three toolboxes: a pre-trained backbone loads into each, whose configs train and test."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.cli import main

pytestmark = pytest.mark.slow

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
SIZES = dict(arch=ARCH, img_size=48, patch_size=8)
COMMON = """
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
log_processor = dict(by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))


def loader(dataset, shuffle):
    return dict(
        batch_size=2,
        num_workers=0,
        persistent_workers=False,
        dataset=dataset,
        sampler=dict(type='InfiniteSampler' if shuffle else 'DefaultSampler', shuffle=shuffle),
    )
"""
SEGMENTATION = (
    COMMON
    + """
default_scope = 'mmseg'
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    size=(64, 64),
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmssl.ViT',
        img_size=64,
        patch_size=8,
        arch=dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=32,
        in_index=0,
        channels=16,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)


def scenes(split, pipeline):
    return dict(
        type='BaseSegDataset',
        data_root='data/elsewhere',
        img_suffix='.jpg',
        seg_map_suffix='.png',
        pipeline=pipeline,
        data_prefix=dict(img_path='images/' + split, seg_map_path='labels/' + split),
        metainfo=dict(classes=('background', {classes}), palette=[[n, n, n] for n in range(11)]),
    )


load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='Resize', scale=(96, 72))]
train_dataloader = loader(
    scenes('train', load + [dict(type='RandomCrop', crop_size=(64, 64)), dict(type='PackSegInputs')]), True
)
val_dataloader = loader(
    scenes('val', [load[0], dict(type='Resize', scale=(96, 72)), load[1], dict(type='PackSegInputs')]), False
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
del loader, scenes
"""
)
DETECTION = (
    COMMON
    + """
default_scope = 'mmdet'
data_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
model = dict(
    type='FCOS',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='ResNet', depth=18, out_indices=(2, 3), norm_cfg=dict(type='BN'), style='pytorch'),
    neck=dict(type='FPN', in_channels=[256, 512], out_channels=16, num_outs=2),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=10,
        in_channels=16,
        feat_channels=32,
        stacked_convs=1,
        strides=[16, 32],
        regress_ranges=((-1, 64), (64, 1e8)),
    ),
    test_cfg=dict(
        nms_pre=20, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5
    ),
)


def scenes(split, pipeline, test_mode):
    return dict(
        type='CocoDataset',
        data_root='data/elsewhere',
        ann_file='annotations/instances_' + split + '.json',
        pipeline=pipeline,
        data_prefix=dict(img='images/' + split),
        metainfo=dict(classes=({classes})),
        test_mode=test_mode,
    )


load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96)),
]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
train_dataloader = loader(scenes('train', load + [pack], False), True)
val_dataloader = loader(scenes('val', [load[0], load[2], load[1], pack], True), False)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file='data/elsewhere/annotations/instances_val.json', metric='bbox'
)
del loader, scenes
"""
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, demo_data):
    """The demo data, the checkpoint of a masked autoencoder that was not trained, and one config a host."""
    from mmengine.registry import init_default_scope

    from mmssl.data.demo_parts import CLASSES
    from mmssl.registry import MODELS, build

    folder = tmp_path_factory.mktemp('hosts')
    (folder / 'demo').symlink_to(demo_data, target_is_directory=True)
    init_default_scope('mmpretrain')
    torch.manual_seed(1)
    neck = dict(
        type='mmssl.MAEDecoder',
        num_patches=36,
        patch_size=8,
        embed_dim=32,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    mae = build(
        dict(
            type='mmssl.MAE',
            backbone=dict(type='mmssl.MAEViT', **SIZES),
            neck=neck,
            head=dict(type='mmssl.MAEHead', patch_size=8),
        ),
        MODELS,
    )
    for parameter in mae.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(dict(state_dict=mae.state_dict(), meta={}), folder / 'mae.pth')
    names = ', '.join(map(repr, CLASSES))
    (folder / 'config_mmseg.py').write_text(SEGMENTATION.replace('{classes}', names))
    (folder / 'config_mmdet.py').write_text(DETECTION.replace('{classes}', names))
    return folder


def host_model(host, backbone):
    """A model of the host around our backbone."""
    from mmengine.registry import MODELS, init_default_scope

    parts = {
        'mmpretrain': dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
        ),
        'mmseg': dict(
            type='EncoderDecoder',
            backbone=backbone,
            decode_head=dict(
                type='FCNHead', in_channels=32, in_index=0, channels=8, num_convs=1, num_classes=3
            ),
        ),
        'mmdet': dict(
            type='FCOS',
            backbone=backbone,
            neck=dict(type='FPN', in_channels=[32], out_channels=8, num_outs=1),
            bbox_head=dict(
                type='FCOSHead',
                num_classes=3,
                in_channels=8,
                feat_channels=32,
                strides=[8],
                regress_ranges=((-1, 1e8),),
            ),
        ),
    }
    init_default_scope(host)
    return MODELS.build(parts[host])


@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg', 'mmdet'])
def test_a_backbone_moves_out_of_an_algorithms_checkpoint(folder, host):
    weights = torch.load(folder / 'mae.pth', weights_only=True)['state_dict']
    for kind in ('mmssl.ViT', 'mmssl.MAEViT'):
        pretrained = dict(type='Pretrained', checkpoint=str(folder / 'mae.pth'), prefix='backbone.')
        model = host_model(host, dict(type=kind, **SIZES, init_cfg=pretrained))
        model.init_weights()
        loaded = model.backbone.state_dict()
        assert {f'backbone.{key}' for key in loaded} == {
            key for key in weights if key.startswith('backbone.')
        }
        for key, value in loaded.items():
            assert torch.equal(value, weights[f'backbone.{key}']), key
        maps = model.eval().extract_feat(torch.rand(1, 3, 64, 48))  # another size, not square
        shapes = {'mmpretrain': [(1, 32)], 'mmseg': [(1, 32, 8, 6)], 'mmdet': [(1, 8, 8, 6)]}[host]
        assert [tuple(map_.shape) for map_ in maps] == shapes
    wrong = host_model(host, dict(type='mmssl.ViT', **SIZES, init_cfg=dict(pretrained, prefix='encoder.')))
    with pytest.raises(ValueError, match=r"no key under prefix='encoder\.'.*under backbone\., neck\."):
        wrong.init_weights()


def sam_model(backbone):
    """A promptable segmenter around our backbone; the backbone itself."""
    from mmssl.registry import MODELS

    encoder = dict(type='mmssl.SAMBackbone', backbone=backbone, in_channels=32, img_size=48, out_chans=32)
    decoder = dict(transformer=dict(num_heads=4, mlp_dim=64))
    return MODELS.build(dict(type='mmssl.SAM', image_encoder=encoder, mask_decoder=decoder))


def test_a_frozen_start_gives_equal_features_in_all_toolboxes_and_in_sam(tmp_path):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    released = timm.models.vision_transformer.VisionTransformer(
        img_size=48,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
        num_classes=0,
        init_values=1e-5,
        reg_tokens=4,
        no_embed_class=True,
    )
    for parameter in released.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(released.state_dict(), tmp_path / 'released.pth')
    backbone = dict(type='mmssl.ViT', **SIZES, layer_scale_init_value=1e-5, num_registers=4, frozen_stages=2)
    backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(tmp_path / 'released.pth'))
    images, other_grid = torch.randn(2, 3, 48, 48), torch.randn(1, 3, 64, 40)
    expected = released.eval().forward_features(images)[:, 5:].transpose(1, 2).unflatten(2, (6, 6))
    first = None
    for host in ('mmpretrain', 'mmseg', 'mmdet', 'sam'):
        model = sam_model(backbone) if host == 'sam' else host_model(host, dict(backbone))
        model.init_weights()
        model.train()
        part = model.image_encoder.backbone if host == 'sam' else model.backbone
        features = part(images)[-1], part(other_grid)[-1]
        assert not any(feature.requires_grad for feature in features), host
        torch.testing.assert_close(features[0], expected, rtol=1e-5, atol=1e-5)
        first = first or features
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, first, strict=True)), host


def short(host, folder):
    """Arguments of a run of three iterations on the demo data: (config, data, options)."""
    if host != 'mmpretrain':
        return folder / f'config_{host}.py', folder / 'demo/scenes', []
    options = [
        'model.backbone.img_size=48',
        'model.backbone.patch_size=8',
        'model.head.in_channels=32',
        f'model.backbone.init_cfg.checkpoint={folder / "mae.pth"}',
        'model.head.num_classes=10',
        'data_preprocessor.num_classes=10',
        'train_dataloader.num_batch_per_epoch=3',
        'train_cfg.max_epochs=1',
        'param_scheduler.warmup=0',
        'param_scheduler.end=1',
        'train_dataloader.dataset.pipeline.0.scale=48',
        'train_dataloader.batch_size=4',
    ]
    for split in ('val', 'test'):
        options += [
            f'{split}_dataloader.dataset.pipeline.0.scale=48',
            f'{split}_dataloader.dataset.pipeline.0.ratio=1.0',
        ]
    for split in ('train', 'val', 'test'):
        options += [f'{split}_dataloader.num_workers=0', f'{split}_dataloader.persistent_workers=False']
    config = folder / 'config_mmpretrain.py'
    if (
        not config.exists()
    ):  # the ViT-B recipe with a smaller encoder: a name cannot be turned into sizes on the command line
        config.write_text(
            "_base_ = 'mmssl::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py'\n"
            f'model = dict(backbone=dict(arch=dict(_delete_=True, **{ARCH})))\n'
        )
    return config, folder / 'demo/imagenet', options


METRIC = {'mmpretrain': 'accuracy/top1', 'mmseg': 'mIoU', 'mmdet': 'coco/bbox_mAP'}
HEAD = {'mmpretrain': 'head', 'mmseg': 'decode_head', 'mmdet': 'bbox_head'}
COUNTS = {'mmpretrain': 10, 'mmseg': 11, 'mmdet': 10}


@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg', 'mmdet'])
def test_a_config_of_the_host_trains_and_tests(warm_cli, folder, host, capsys, monkeypatch):
    config, data, options = short(host, folder)
    work_dir = folder / f'{host} run'
    done = warm_cli(
        'train',
        config,
        '--data',
        data,
        '--work-dir',
        work_dir,
        '--cfg-options',
        *options,
        'default_hooks.logger.interval=1',
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    checkpoint = work_dir / ('epoch_1.pth' if host == 'mmpretrain' else 'iter_3.pth')
    (log_dir,) = (path for path in work_dir.iterdir() if path.is_dir())
    assert {path.name for path in work_dir.iterdir()} == {
        log_dir.name,
        config.name,
        checkpoint.name,
        'last_checkpoint',
    }
    lines = [json.loads(line) for line in (log_dir / 'vis_data/scalars.json').read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 3 and np.isfinite(losses).all()
    validated = [line[METRIC[host]] for line in lines if METRIC[host] in line]
    assert len(validated) == 1

    monkeypatch.chdir(folder)
    out = folder / f'{host}.pkl' if host != 'mmseg' else folder / 'masks'
    arguments = [
        'test',
        config,
        checkpoint,
        '--data',
        data,
        '--work-dir',
        folder / f'{host} test',
        '--out',
        out,
    ]
    assert main([*map(str, arguments), *(['--cfg-options', *options] if options else [])]) == 0, (
        capsys.readouterr().err
    )
    (report,) = (folder / f'{host} test').glob('*/*.json')
    assert json.loads(report.read_text())[METRIC[host]] == pytest.approx(
        validated[0], abs=1e-3
    )  # as it was at the end of training
    if host == 'mmseg':
        masks = sorted(out.glob('*.png'))
        assert len(masks) == 20 and np.asarray(Image.open(masks[0])).shape == (240, 320)
    else:
        with open(out, 'rb') as file:
            predictions = pickle.load(file)
        images = list((data / ('val' if host == 'mmpretrain' else 'images/val')).rglob('*.jpg'))
        assert len(predictions) == len(images)
        assert ('pred_score' if host == 'mmpretrain' else 'pred_instances') in predictions[0]


@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg', 'mmdet'])
def test_classes_that_do_not_fit_are_refused(folder, host, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    config, data, options = short(host, folder)
    setting = f'model.{HEAD[host]}.num_classes'
    options = [
        option for option in options if not option.startswith((setting, 'data_preprocessor.num_classes'))
    ]
    extra = [f'{setting}=7'] + (['data_preprocessor.num_classes=7'] if host == 'mmpretrain' else [])
    has = COUNTS[host]
    assert (
        main(
            [
                'train',
                str(config),
                '--data',
                str(data),
                '--work-dir',
                str(folder / 'refused'),
                '--cfg-options',
                *options,
                *extra,
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert re.search(
        rf'{HEAD[host]} predicts 7 classes, but the data has {has} '
        rf'.*set model\.{HEAD[host]}\.num_classes={has}',
        error,
    ), error
    assert not (folder / 'refused').exists()


def test_classes_none_of_which_the_annotations_have_are_refused(folder, capsys, monkeypatch):
    """The host would train on no box. Where some are missing: tests/faults/test_fault_classes.py."""
    monkeypatch.chdir(folder)
    wrong = folder / 'wrong_names.py'
    wrong.write_text((folder / 'config_mmdet.py').read_text().replace("'digit_", "'number_"))
    assert (
        main(
            [
                'train',
                str(wrong),
                '--data',
                str(folder / 'demo/scenes'),
                '--work-dir',
                str(folder / 'refused'),
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    message = (
        r'instances_train\.json: none of the 10 classes \(number_0, .*\) is one of its 10 categories '
        r'\(digit_0, .*set metainfo'
    )
    assert re.search(message, error), error
    assert not (folder / 'refused').exists()


def test_out_knows_what_the_host_writes(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    config, data, options = short('mmpretrain', folder)
    assert (
        main(
            [
                'test',
                str(config),
                str(folder / 'mae.pth'),
                '--data',
                str(data),
                '--out',
                'scores.json',
                '--cfg-options',
                *options,
            ]
        )
        == 1
    )
    assert '--out scores.json: predictions of mmpretrain are written as .pkl' in capsys.readouterr().err
    assert not (folder / 'work_dirs').exists()
