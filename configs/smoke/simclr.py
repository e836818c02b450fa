# Ten iterations of a small SimCLR on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/simclr.py
_base_ = '../_base_/smoke_resnet18.py'
model = dict(
    type='mmssl.SimCLR',
    neck=dict(type='mmssl.MLP', dims=(128, 128, 32), last_bn=True),
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='simclr', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
