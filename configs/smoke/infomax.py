# Ten iterations of a small Deep InfoMax, all three objectives, on the generated demo data, CPU, well under a
# minute; the tests run it.
#
#   python tools/train.py configs/smoke/infomax.py
_base_ = '../_base_/smoke.py'
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
data_preprocessor = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
train_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=32, ratio=1.0),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=1e-4, fused=True),
)
param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1.0, end=10, by_epoch=False)
