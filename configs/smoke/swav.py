# Ten iterations of a small SwAV on the generated demo data: well under a minute on a CPU; the tests run it.
# The queue fills in two iterations.
#
#   python tools/train.py configs/smoke/swav.py
_base_ = '../_base_/smoke.py'
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
data_preprocessor = dict(std=[58.14, 57.12, 57.375])
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='swav', scale=48, local_scale=24, num_local=2),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='mmssl.LARC', lr=0.6, momentum=0.9, weight_decay=1e-6),
)
param_scheduler = dict(start_factor=0.1)
sync_bn = 'torch'
