# Ten iterations of relative patch location on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/relative_location.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_relative-loc_398.py',
    '../_base_/schedules/sgd_pretext.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.RelativeLocation',
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
    head=dict(type='mmssl.PretextHead', in_channels=128, hid_channels=64),
    patch_size=16,
    gap=4,
    jitter=2,
)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=64,
        crop_ratio_range=(0.35, 1.0),
        aspect_ratio_range=(1.0, 1.0),
    ),
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
