# Ten iterations of a small SimCLR on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/simclr.py
_base_ = './moco.py'
model = dict(
    _delete_=True,
    type='mmssl.SimCLR',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16),
    neck=dict(type='mmssl.MLP', dims=(128, 128, 32), last_bn=True),
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='simclr', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
