# Ten iterations of a small MoBY with a Swin backbone on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/moby.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v3_224.py',
    '../_base_/schedules/adamw_moby.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoBY',
    backbone=dict(
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        patch_size=4,
        window_size=4,
        out_indices=(1,),
        drop_path_rate=0.2,
    ),
    neck=dict(type='mmssl.MLP', dims=(32, 64, 16), bias=True),
    head=dict(type='mmssl.MLP', dims=(16, 64, 16), bias=True),
    queue_len=64,
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
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
sync_bn = 'torch'
