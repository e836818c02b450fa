# Ten iterations of a small BYOL on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/byol.py
_base_ = './moco.py'
model = dict(
    _delete_=True,
    type='mmssl.BYOL',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16),
    neck=dict(type='mmssl.MLP', dims=(128, 128, 32)),
    head=dict(type='mmssl.MLP', dims=(32, 128, 32)),
    momentum=0.9,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='byol', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
