# Ten iterations of a small SwAV on the generated demo data, CPU, well under a minute; the tests run it. The queue fills in two iterations.
#
#   python tools/train.py configs/smoke/swav.py
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_swav.py', '../_base_/schedules/larc_swav.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.SwAV',
    backbone=dict(
        type='mmpretrain.ResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_cfg=dict(type='BN'),
        zero_init_residual=True,
    ),
    neck=dict(type='mmssl.SwAVNeck', in_channels=64, hid_channels=32, out_channels=16),
    head=dict(type='mmssl.SwAVHead', in_channels=16, num_prototypes=30),
    freeze_prototypes=3,
    queue_length=32,
    queue_start_epoch=0,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='swav', scale=48, local_scale=24, num_local=2),
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
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='mmssl.LARC', lr=0.6, momentum=0.9, weight_decay=1e-6),
)
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, start_factor=0.1, by_epoch=False
)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
