# Ten iterations of a small MoCo v2 on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/moco.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v2_224.py',
    '../_base_/schedules/sgd_moco.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoCo',
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
    neck=dict(type='mmssl.MoCoV2Neck', in_channels=128, hid_channels=128, out_channels=32),
    queue_len=64,
    momentum=0.99,
    temperature=0.2,
    bn_groups=2,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v2', scale=48),
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
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=0, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
