# Fine-tuning of a Segment Anything model: 20000 iterations, the learning rate falls at two thirds and at nine
# tenths.
_base_ = '../sam_runtime.py'
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', milestones=[13333, 18000], gamma=0.1, begin=0, end=20000, by_epoch=False),
]
train_cfg = dict(max_iters=20000, val_interval=5000)
custom_hooks = [
    dict(type='mmssl.SanityHook'),
    dict(type='mmssl.NonFiniteHook', policy='stop'),
    dict(type='mmssl.BadFilesHook'),
    dict(type='mmssl.ExportSAMHook'),
]
