# The budget of the detectors compared on BCCD: minutes on a CPU, the same for each.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.3),
            'backbone.layer6': dict(lr_mult=2.0),
            'backbone.layer7': dict(lr_mult=2.0),
        }
    ),
    clip_grad=dict(max_norm=10),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600, val_interval=600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=20, end=600, by_epoch=False),
]
