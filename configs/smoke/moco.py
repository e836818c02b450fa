# Ten iterations of a small MoCo v2 on the generated demo data: well under a minute on a CPU; the tests run
# it.
#
#   python tools/train.py configs/smoke/moco.py
_base_ = '../_base_/smoke_resnet18.py'
model = dict(
    type='mmssl.MoCo',
    backbone=dict(zero_init_residual=False),
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
