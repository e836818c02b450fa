# R-FCN's schedule (the released code): SGD, weight decay 0.0005, the rate drops once by ten; rate and length
# are the config's.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=0.0005),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=110000, val_interval=10000)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=110000, by_epoch=False, milestones=[80000], gamma=0.1)
]
