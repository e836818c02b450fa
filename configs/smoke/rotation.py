# Ten iterations of rotation prediction on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/rotation.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_rotation_224.py',
    '../_base_/schedules/sgd_pretext.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.RotationPrediction',
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
    head=dict(type='mmssl.PretextHead', in_channels=128),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=8)
log_processor = dict(by_epoch=False)
