# Ten iterations of small Barlow Twins on the generated demo data: under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/barlow-twins.py
_base_ = './moco.py'
model = dict(
    _delete_=True,
    type='mmssl.BarlowTwins',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16),
    neck=dict(type='mmssl.MLP', dims=(128, 128, 128, 64)),
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='byol', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
