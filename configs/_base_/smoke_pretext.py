# Ten iterations of a pretext task on one crop: a narrow ResNet-18 and SGD. A smoke config adds its model, and
# its own crop if it differs.
_base_ = './smoke.py'
model = dict(
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
)
auto_scale_lr = dict(base_batch_size=8)
