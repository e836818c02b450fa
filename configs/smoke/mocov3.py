# Ten iterations of a small MoCo v3 on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/mocov3.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v3_224.py',
    '../_base_/schedules/adamw_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoCoV3',
    backbone=dict(
        type='mmssl.MoCoV3ViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(type='mmssl.MLP', dims=(64, 128, 128, 32), last_bn=True),
    head=dict(
        type='mmssl.MoCoV3Head',
        predictor=dict(type='mmssl.MLP', dims=(32, 128, 32), last_bn=True),
        temperature=0.2,
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=32),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
sync_bn = 'torch'
