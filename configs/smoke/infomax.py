# Ten iterations of a small Deep InfoMax, all three objectives, on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/infomax.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_infomax_32.py',
    '../_base_/schedules/adam_infomax.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.DeepInfoMax',
    backbone=dict(type='mmssl.InfoMaxEncoder', channels=(16, 32, 64), hidden=64),
    neck=dict(type='mmssl.MLP', dims=(64, 16), bias=True),
    alpha=0.5,
    beta=1.0,
    gamma=0.1,
    local_channels=32,
    global_channels=1024,
    units=64,
    prior=dict(hidden=(50, 20)),
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train'),
)
param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1.0, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
