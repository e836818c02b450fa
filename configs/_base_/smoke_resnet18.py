# Ten iterations of a method on two views: a narrow ResNet-18, SGD, and the views of BYOL. A smoke config adds
# its model, and its own views if they differ.
_base_ = './smoke.py'
model = dict(backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16))
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='byol', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = dict(warmup=0)
