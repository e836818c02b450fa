# The same as mae5.py on the first three bands.
_base_ = './mae5.py'
model = dict(backbone=dict(in_channels=3), neck=dict(in_chans=3), head=dict(in_channels=3))
data_preprocessor = dict(mean=_base_.mean[:3], std=_base_.std[:3])
train_pipeline = [
    dict(_base_.train_pipeline[0], channels=[0, 1, 2], value_range=_base_.value_range[:3]),
    *_base_.train_pipeline[1:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
