# Minutes on a CPU; the learning rate of the paper, a smaller one for a backbone that has learned already.
_base_ = '../sam_runtime.py'
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.05, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'image_encoder.backbone': dict(lr_mult=0.25)}
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=30, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=8e-6, begin=30, end=1400, by_epoch=False),
]
train_cfg = dict(max_iters=1400, val_interval=1400)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=700))
